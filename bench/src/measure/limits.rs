//! What a round trip between the two processors costs at best: by polled memory, and by eventfd.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

use super::cores::Cores;
use super::series::{Figure, Sample, Series};
use crate::failure::Failure;

/// Round trips per sample by polled memory.
const POLLED: u32 = 100_000;
/// Round trips per sample by eventfd.
const WOKEN: u32 = 3_000;
/// Value that ends the other side.
const END: u32 = u32::MAX;

/// Nanoseconds per round trip.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    /// Both sides poll one word each.
    pub(crate) shared_memory: Figure,
    /// The server sleeps on an eventfd, the client polls for the answer.
    pub(crate) eventfd: Figure,
}

/// Measures both, `rounds` samples each.
pub(crate) fn ping_pongs(cores: Cores, rounds: usize) -> Result<Limits, Failure> {
    let (mut polled, mut woken) = (Series::default(), Series::default());
    for _ in 0..rounds {
        polled.push(shared_memory(cores)?);
        woken.push(by_eventfd(cores)?);
    }
    Ok(Limits { shared_memory: polled.wall(), eventfd: woken.wall() })
}

/// A word with a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

fn shared_memory(cores: Cores) -> Result<Sample, Failure> {
    cores.enter_client()?;
    let (ping, pong) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<(), Failure> {
            cores.enter_server()?;
            let mut seen = 0;
            loop {
                let value = ping.0.load(Ordering::Acquire);
                if value == END {
                    return Ok(());
                }
                if value != seen {
                    seen = value;
                    pong.0.store(value, Ordering::Release);
                }
                std::hint::spin_loop();
            }
        });
        let trip = |value: u32| {
            ping.0.store(value, Ordering::Release);
            while pong.0.load(Ordering::Acquire) != value {
                std::hint::spin_loop();
            }
        };
        trip(1);
        let start = Instant::now();
        (2..2 + POLLED).for_each(trip);
        let wall = start.elapsed();
        ping.0.store(END, Ordering::Release);
        join(server)?;
        Ok(Sample { operations: u64::from(POLLED), wall, cpu: Duration::ZERO })
    })
}

fn by_eventfd(cores: Cores) -> Result<Sample, Failure> {
    let system = |cause| Failure::system("use an eventfd", cause);
    let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(system)?;
    cores.enter_client()?;
    let (ping, pong) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<(), Failure> {
            cores.enter_server()?;
            let mut counter = [0; 8];
            loop {
                rustix::io::read(&event, &mut counter).map_err(system)?;
                let value = ping.0.load(Ordering::Acquire);
                if value == END {
                    return Ok(());
                }
                pong.0.store(value, Ordering::Release);
            }
        });
        let send = |value: u32| {
            ping.0.store(value, Ordering::Release);
            rustix::io::write(&event, &1_u64.to_ne_bytes()).map_err(system)
        };
        let trip = |value: u32| -> Result<(), Failure> {
            send(value)?;
            while pong.0.load(Ordering::Acquire) != value {
                std::hint::spin_loop();
            }
            Ok(())
        };
        trip(1)?;
        let start = Instant::now();
        (2..2 + WOKEN).try_for_each(trip)?;
        let wall = start.elapsed();
        send(END)?;
        join(server)?;
        Ok(Sample { operations: u64::from(WOKEN), wall, cpu: Duration::ZERO })
    })
}

fn join(thread: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>) -> Result<(), Failure> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
