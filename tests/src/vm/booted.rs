//! Tests with a machine that runs.

use std::time::Duration;

use super::{Machine, MachineError, Scenario, bundle_for_tests};

#[test]
fn a_guest_is_driven_by_commands() {
    let Some(bundle) = bundle_for_tests() else { return };
    let machine = Machine::builder(&bundle).guest_file("given", 0o600, "from the host\n").spawn().unwrap();
    machine.wait_ready().unwrap();
    assert_eq!(machine.check("cat /given").unwrap(), "from the host");
    assert_eq!(machine.check("cd /tmp; pwd; printf 'no line end'").unwrap(), "/tmp\nno line end");
    assert_eq!(machine.check("pwd; variable=kept").unwrap(), "/tmp");
    assert_eq!(machine.check("echo $variable").unwrap(), "kept");
    assert_eq!(machine.check("printf '\\n\\n'").unwrap(), "\n", "only the last line end is taken off");
    assert_eq!(machine.run("(exit 7)").unwrap().status, 7);
    assert_eq!(machine.run("exit 8").unwrap().status, 8);
    assert_ne!(machine.run("if; then").unwrap().status, 0);
    assert_eq!(machine.check("pwd").unwrap(), "/", "a new shell follows one that ended");
    assert!(machine.dmesg().unwrap().contains("Run /init as init process"));
    assert_eq!(machine.iommu_faults().unwrap(), [""; 0]);
    assert!(matches!(machine.check("false"), Err(MachineError::Command { .. })));
    assert!(matches!(machine.run("two\nlines"), Err(MachineError::Configuration(_))));

    let error = machine.run_within("echo started; sleep 1000000", Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, MachineError::Timeout { .. }));
    assert!(error.to_string().contains("from the host"), "the console is in the error: {error}");
    assert!(machine.quit().unwrap().success());
}

#[test]
fn a_guest_is_paused_and_reset() {
    let Some(bundle) = bundle_for_tests() else { return };
    let machine = Machine::builder(&bundle).allow_reboot().spawn().unwrap();
    machine.wait_ready().unwrap();
    machine.stop().unwrap();
    assert_eq!(machine.status().unwrap(), "paused");
    machine.cont().unwrap();
    assert_eq!(machine.status().unwrap(), "running");
    machine.check("touch /before").unwrap();
    machine.reset().unwrap();
    machine.wait_ready().unwrap();
    assert_ne!(machine.run("ls /before").unwrap().status, 0);
    assert!(machine.qmp("nonesuch", &serde_json::Value::Null).is_err());
    machine.kill();
    assert!(!machine.wait_exit(Duration::from_secs(120)).unwrap().success());
    assert!(matches!(machine.wait_ready(), Err(MachineError::Exited { .. })));
}

/// Not a test: what [`a_program_of_the_host_runs_in_the_guest`] runs there.
#[test]
#[ignore = "runs in a guest"]
fn program_in_a_guest() {
    eprintln!("\nkernel={}", std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap());
}

#[test]
fn a_program_of_the_host_runs_in_the_guest() {
    let Some(bundle) = bundle_for_tests() else { return };
    let own = std::env::current_exe().unwrap();
    let machine = Machine::builder(&bundle).guest_program("own", own).spawn().unwrap();
    machine.wait_ready().unwrap();
    let said = machine.check("own --exact vm::booted::program_in_a_guest --ignored --nocapture").unwrap();
    assert!(said.contains(&format!("kernel={}", machine.check("uname -r").unwrap())), "{said}");
    machine.quit().unwrap();
}

#[test]
fn a_scenario_reports_and_the_guest_powers_off() {
    let Some(bundle) = bundle_for_tests() else { return };
    let script = ". /guest/lib.sh; say sum value=$((40 + $(arg two))); exit 3".to_owned();
    let machine =
        Machine::builder(&bundle).scenario(Scenario::Script(script)).kernel_arg("calgary.two=2").spawn().unwrap();
    let report = machine.report().unwrap();
    assert_eq!(report.status, 3);
    assert_eq!(report.all("sum").next().unwrap().field("value"), Some("42"));
    assert!(report.all("kmsg").count() > 0, "a scenario that fails is followed by the kernel's messages");
    assert!(machine.wait_exit(Duration::from_secs(120)).unwrap().success());
}

#[test]
fn a_machine_that_qemu_refuses_says_why() {
    let Some(bundle) = bundle_for_tests() else { return };
    let error = Machine::builder(&bundle).extra_args(["-device", "nonesuch"]).spawn().unwrap_err();
    assert!(matches!(error, MachineError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("'nonesuch' is not a valid device model name"), "{error}");
}
