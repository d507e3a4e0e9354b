//! Boots the bundle with QEMU's own virtio-iommu and virtio-9p and runs the guest's scenarios against them: proof that
//! the bundle boots and that the scenarios pass on an implementation which is not ours.
//!
//! `boot [demo|posix|commands]...` runs the named ones, all if none is named.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use calgary_tests::vm::{Bundle, Machine, MachineBuilder, PrintProgress, Record, Scenario};
use sha2::{Digest, Sha256};

const MIB: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let start = Instant::now();
    let bundle = Bundle::obtain(&PrintProgress)?;
    println!("QEMU {}, kernel {}, {:.1?}", bundle.qemu.version, bundle.kernel.display(), start.elapsed());
    let share = tempfile::tempdir()?;
    if wanted("demo") {
        demo(&bundle, share.path())?;
    }
    if wanted("posix") {
        let report = watched(machine(&bundle, share.path()).scenario(Scenario::Posix))?;
        assert!(report.status == 0, "failed: {:?}", report.failures());
    }
    if wanted("commands") {
        commands(&bundle, share.path())?;
    }
    Ok(())
}

fn machine(bundle: &Bundle, share: &Path) -> MachineBuilder {
    Machine::builder(bundle).own_devices(share, "none")
}

fn watched(builder: MachineBuilder) -> Result<calgary_tests::vm::Report, Box<dyn Error>> {
    let start = Instant::now();
    let machine = builder.spawn()?;
    println!("{:7.2?} QEMU runs", start.elapsed());
    let mut print = |record: &Record| println!("{:7.2?} {} {}", start.elapsed(), record.key, record.value);
    let report = machine.follow(&mut print)?;
    let exit = machine.wait_exit(Duration::from_secs(120))?;
    println!("{:7.2?} done {}, QEMU: {exit}", start.elapsed(), report.status);
    Ok(report)
}

fn demo(bundle: &Bundle, share: &Path) -> Result<(), Box<dyn Error>> {
    let mut seed = 2006_u64;
    let input: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    })
    .take(MIB << 17)
    .flatten()
    .collect();
    fs::write(share.join("input.bin"), &input)?;
    let report = watched(machine(bundle, share).scenario(Scenario::Demo).kernel_arg(format!("calgary.mib={MIB}")))?;
    assert_eq!(report.status, 0);
    let (first, second) = input.split_at(input.len() / 2);
    for tag in ["direct", "translated"] {
        let sum = |key| report.about(key, tag).and_then(|record| record.field("sha256")).map(str::to_owned);
        assert_eq!(sum("read"), Some(sha256(&[&input])), "{tag}: the guest read other bytes");
        assert_eq!(sum("write"), Some(sha256(&[second, first])), "{tag}: the guest wrote other bytes");
        let output = fs::read(share.join(format!("output-{tag}.bin")))?;
        assert_eq!(output, [second, first].concat(), "{tag}: the share holds other bytes");
    }
    Ok(())
}

fn commands(bundle: &Bundle, share: &Path) -> Result<(), Box<dyn Error>> {
    let machine = machine(bundle, share).spawn()?;
    machine.wait_ready()?;
    machine.check(". /guest/lib.sh; mount_tag translated /mnt")?;
    machine.check("echo from the guest > /mnt/note")?;
    assert_eq!(fs::read_to_string(share.join("note"))?, "from the guest\n");
    println!("{}", machine.check("dmesg | grep -i iommu")?);
    println!("faults: {:?}, QEMU: {}", machine.iommu_faults()?, machine.quit()?);
    Ok(())
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
