//! A daemon that nobody asks for anything uses no processor time, whatever was asked of it before.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use calgary_tests::guest::{GuestOptions, Mapping, ROOT_FID, Session, ShareOptions};
use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::memory::GuestRam;
use calgaryd::ring::RingLayout;
use calgaryd::transport::{Device, Interrupt};
use frontend_spec::iommu::REQUEST_QUEUE;
use iommu_calgary::TableSize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Endpoint id of 00:06.0.
const ENDPOINT: u32 = 6 << 3;
/// How long the daemon is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// What it may use meanwhile: 0.1 %.
const ALLOWED: Duration = Duration::from_millis(10);

/// The command as a child, ended with the test.
struct Daemon(Child);

impl Daemon {
    fn start(iommu: &Path, share: &str, poll: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_calgaryd"))
            .args(["serve", "--window", "64M", "--poll", poll, "--share", share, "--iommu"])
            .arg(iommu)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let daemon = Self(child);
        let mut lines = log.lines().map(Result::unwrap);
        lines.find(|line| line.contains("share home")).expect("the daemon says that it serves");
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        daemon
    }

    /// Processor time of all its threads.
    fn cpu(&self) -> Duration {
        let pid = libc::pid_t::try_from(self.0.id()).unwrap();
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the call fills a local.
        assert_eq!(unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) }, 0);
        // SAFETY: the call fills a local.
        assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest that works and then falls silent leaves the threads of both queues asleep, however they poll.
#[test]
fn an_idle_daemon_uses_less_than_a_thousandth_of_a_processor() {
    let folder = tempfile::tempdir().unwrap();
    let start = |poll: &str| {
        let at = |name: &str| folder.path().join(format!("{poll}-{name}"));
        let (iommu, socket) = (at("i"), at("s"));
        let place = folder.path().display();
        let share = format!("tag=home,path={place},socket={},endpoint=00:06.0,iommu=on", socket.display());
        let daemon = Daemon::start(&iommu, &share, poll);
        let mut guest = Session::boot(GuestOptions {
            iommu_socket: Some(iommu),
            shares: vec![ShareOptions { socket, endpoint: ENDPOINT, translated: true }],
            mapping: Mapping::Strict,
            ..GuestOptions::default()
        })
        .unwrap();
        for _ in 0..500 {
            guest.shares[0].client.getattr(ROOT_FID, u64::MAX).unwrap();
        }
        (daemon, guest)
    };
    let watched = ["auto", "1ms"].map(|poll| (poll, start(poll)));
    let before = watched.each_ref().map(|(_, (daemon, _))| daemon.cpu());
    std::thread::sleep(WATCHED);
    for ((poll, (daemon, _guest)), before) in watched.iter().zip(before) {
        let used = daemon.cpu() - before;
        assert!(used < ALLOWED, "--poll {poll}: {used:?} of processor time in {WATCHED:?} without a request");
    }
}

/// Hears no interrupt.
struct Deaf;

impl Interrupt for Deaf {
    fn signal(&self) {}
}

/// The call that serves the queue comes back when there is nothing to do, having asked for the next kick.
#[test]
fn a_polling_thread_asks_for_a_kick_and_sleeps() {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::For(Duration::from_micros(300)));
    device.set_memory(GuestRam::new(&memory));
    let ring = RingLayout { descriptors: 0x1000, avail: 0x2000, used: 0x3000, size: 8, event_idx: true };
    device.activate(REQUEST_QUEUE, ring, 0, Arc::new(Deaf));
    let avail_event = || memory.read_obj::<u16>(GuestAddress(ring.used + 4 + 8 * 8)).unwrap();
    for round in 1..=3_u16 {
        // A descriptor of no bytes: a request that is answered in silence.
        memory.write_obj(round, GuestAddress(ring.avail + 2)).unwrap();
        device.service(REQUEST_QUEUE);
        let stats = iommu.stats().snapshot();
        assert_eq!((stats.malformed, stats.sleeps), (u64::from(round), u64::from(round)));
        assert_eq!(avail_event(), round, "the driver is not asked for its next kick");
    }
}
