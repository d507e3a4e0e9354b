//! `--config FILE`: a TOML file whose keys are the options of the command, so that whatever can be said there can be said
//! here.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use toml::{Table, Value};

use super::{Cli, Failure, READABLE};

/// The key that may be a table: its own keys are those of the option.
const SHARE: &str = "share";
/// The option itself, which a file cannot hold.
const CONFIG: &str = "config";

/// `args`, the program's name among them, with what `file` says put in front of the options of `command`, such as
/// `["serve"]`: what is said on the command line comes later and counts.
pub(super) fn expand(args: &[OsString], command: &[&str], file: &Path) -> Result<Vec<OsString>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|cause| {
        Failure::Usage(format!("cannot read the configuration {}: {cause}; {READABLE}", file.display()))
    })?;
    let options = options(&text, command).map_err(|cause| Failure::Usage(format!("{}: {cause}", file.display())))?;
    // Behind the program's name, which may be anything.
    let mut at = 1;
    for word in command {
        at += args.iter().skip(at).position(|arg| arg == word).map_or(0, |position| position + 1);
    }
    let mut expanded = args.to_vec();
    expanded.splice(at..at, options.into_iter().map(OsString::from));
    Ok(expanded)
}

/// The options that the TOML document `text` stands for.
fn options(text: &str, command: &[&str]) -> Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|cause: toml::de::Error| in_one_line(&cause.to_string()))?;
    let known = known(command);
    let mut options = Vec::new();
    for (key, value) in &table {
        if !known.contains(key) {
            let command = command.join(" ");
            return Err(format!(
                "unknown key {key:?}; keys are the options of calgaryd {command} without their dashes"
            ));
        }
        match value {
            Value::Array(values) => {
                for value in values {
                    options.extend(option(key, value)?);
                }
            }
            value => options.extend(option(key, value)?),
        }
    }
    Ok(options)
}

/// The names of the options of `command`.
fn known(command: &[&str]) -> Vec<String> {
    let mut program = Cli::command();
    program.build();
    let mut found = &program;
    for word in command {
        found = found.find_subcommand(word).unwrap_or(found);
    }
    let longs = found.get_arguments().filter_map(clap::Arg::get_long);
    longs.filter(|long| !["help", "version", CONFIG].contains(long)).map(str::to_owned).collect()
}

/// One option: `true` is a switch, `false` is nothing.
fn option(key: &str, value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Boolean(true) => Ok(Some(format!("--{key}"))),
        Value::Boolean(false) => Ok(None),
        Value::Table(table) if key == SHARE => Ok(Some(format!("--{key}={}", share(table)?))),
        value => Ok(Some(format!("--{key}={}", scalar(key, value)?))),
    }
}

/// The value of `--share` for a table `[[share]]`.
fn share(table: &Table) -> Result<String, String> {
    let mut parts = Vec::new();
    for (key, value) in table {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            parts.push(format!("{key}={}", scalar(key, value)?.replace(',', ",,")));
        }
    }
    Ok(parts.join(","))
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(switch) => Ok(if *switch { "on" } else { "off" }.to_owned()),
        other => {
            Err(format!("{key} is a {}; write a text, a number, true, false or a list of these", other.type_str()))
        }
    }
}

/// Errors of the parser come with a drawing of the line.
fn in_one_line(text: &str) -> String {
    let said: Vec<&str> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_stands_for_options() {
        let text = r#"
            iommu = "/run/iommu.sock"
            window = "512M"
            boot-bypass = true

            [[share]]
            tag = "home"
            path = "/srv/a,b"
            socket = "systemd:home"
            readonly = true
            iommu = false
            max-fids = 100
            uid-map = ["0:1000:1", "1:2000:1"]

            [[share]]
            tag = "work"
        "#;
        let mut found = options(text, &["serve"]).unwrap();
        found.sort();
        let home = found.iter().find(|option| option.contains("tag=home")).unwrap();
        for part in ["path=/srv/a,,b", "readonly=on", "iommu=off", "max-fids=100", "uid-map=0:1000:1,uid-map=1:2000:1"]
        {
            assert!(home.contains(part), "{part} is missing in {home}");
        }
        for option in ["--iommu=/run/iommu.sock", "--window=512M", "--boot-bypass", "--share=tag=work"] {
            assert!(found.iter().any(|found| found == option), "{option} is missing in {found:?}");
        }
        assert_eq!(options("boot-bypass = false", &["serve"]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_option_is_refused_in_one_line() {
        for (text, hint) in [
            ("colour = 1", "unknown key \"colour\""),
            ("config = \"x\"", "unknown key"),
            ("window = ", "line 1"),
            ("window = 1.5", "float"),
            ("window = {a = 1}", "table"),
            ("[[share]]\npath = [[1]]", "array"),
        ] {
            let message = options(text, &["serve"]).unwrap_err();
            assert!(message.contains(hint) && message.lines().count() == 1, "{text}: {message}");
        }
    }

    #[test]
    fn the_file_comes_before_what_is_said_on_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "window = \"64M\"").unwrap();
        let args = ["calgaryd", "attach", "qemu", "--window=1G"].map(OsString::from);
        let Ok(expanded) = expand(&args, &["attach", "qemu"], &file) else { panic!("refused") };
        assert_eq!(expanded, ["calgaryd", "attach", "qemu", "--window=64M", "--window=1G"].map(OsString::from));
        let args = ["serve", "serve", "--window=1G"].map(OsString::from);
        let Ok(expanded) = expand(&args, &["serve"], &file) else { panic!("refused") };
        assert_eq!(expanded, ["serve", "serve", "--window=64M", "--window=1G"].map(OsString::from));
    }
}
