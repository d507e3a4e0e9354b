//! Options of a command line, and how a shell wants them written.

use std::{borrow::Cow, fmt};

/// The options of a QEMU command line that attach the devices, without the program's name.
///
/// As text they are quoted for a POSIX shell, one option with its value on each line, with a backslash at every line's
/// end but the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuArgs {
    pairs: Vec<(&'static str, String)>,
}

impl QemuArgs {
    /// Appends `option` with `value`, unquoted.
    pub fn push(&mut self, option: &'static str, value: String) {
        self.pairs.push((option, value));
    }

    /// Each option with its value, unquoted, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(option, value)| (*option, value.as_str()))
    }

    /// The arguments, unquoted, as `std::process::Command::args` takes them.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.pairs().flat_map(|(option, value)| [option.to_owned(), value.to_owned()]).collect()
    }
}

impl fmt::Display for QemuArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (option, value)) in self.pairs().enumerate() {
            if index > 0 {
                f.write_str(" \\\n")?;
            }
            write!(f, "{option} {}", shell_word(value))?;
        }
        Ok(())
    }
}

/// `value` as the value of a key in a QEMU option, where a comma ends a value unless doubled.
pub(super) fn qemu_escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// `value` as a JSON string, quotation marks included.
pub(super) fn json_string(value: &str) -> String {
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// `word` as one word of a POSIX shell.
#[must_use]
pub fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(first: &str, second: &str) -> QemuArgs {
        let mut args = QemuArgs::default();
        args.push("-a", first.to_owned());
        args.push("-b", second.to_owned());
        args
    }

    #[test]
    fn lines_but_the_last_end_in_a_backslash() {
        assert_eq!(two("x=1,y=on", "z").to_string(), "-a x=1,y=on \\\n-b z");
        assert_eq!(QemuArgs::default().to_string(), "");
    }

    #[test]
    fn words_with_other_characters_are_quoted() {
        let quoted = [
            ("/run/a b", "'/run/a b'"),
            ("a'b", r"'a'\''b'"),
            ("$(x)", "'$(x)'"),
            ("a\nb", "'a\nb'"),
            ("~x", "'~x'"),
            ("é", "'é'"),
            (r"a\b", r"'a\b'"),
            ("", "''"),
        ];
        for (word, expected) in quoted {
            assert_eq!(shell_word(word), expected);
        }
        assert_eq!(shell_word("socket,id=viommu,path=/run/a.sock"), "socket,id=viommu,path=/run/a.sock");
    }

    #[test]
    fn a_shell_reads_the_arguments_back() {
        let args = two("it's $HOME `x` \"y\"", "two\nlines \\ * ~");
        let script = format!("printf '%s\\0' {args}");
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let words: Vec<_> =
            String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect();
        assert_eq!(words, args.to_vec());
    }

    #[test]
    fn a_json_string_keeps_every_character() {
        assert_eq!(json_string("/run/a,b.sock"), r#""/run/a,b.sock""#);
        assert_eq!(json_string("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }

    #[test]
    fn a_comma_in_a_value_is_doubled() {
        assert_eq!(qemu_escaped("/run/a,b,,c"), "/run/a,,b,,,,c");
    }
}
