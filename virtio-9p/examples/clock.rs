//! Exports a clock and a directory over a Unix socket:
//!
//! ```text
//! cargo run --example clock /tmp/clock.sock &
//! mount -t 9p -o trans=unix,version=9p2000.L /tmp/clock.sock /mnt && cat /mnt/clock /mnt/environment/HOME
//! ```

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{SystemTime, UNIX_EPOCH};

use virtio_9p::synthetic::{Directory, File, Synthetic};
use virtio_9p::{Options, Outcome, Server};

fn tree() -> Directory {
    let clock = File::of(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}\n", since.as_secs()).into_bytes()
    });
    let environment = Directory::new().listing(
        || std::env::vars().map(|(name, _)| name).collect(),
        |name| std::env::var(name).ok().map(|value| File::of(move || value.clone().into_bytes()).into()),
    );
    Directory::new().with("clock", clock).with("environment", environment)
}

fn serve(mut client: UnixStream) -> std::io::Result<()> {
    let server = Server::new(Synthetic::new(tree()), Options::default());
    let (mut request, mut reply) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        client.read_exact(&mut request[..4])?;
        let size = u32::from_le_bytes([request[0], request[1], request[2], request[3]]);
        let size = usize::try_from(size).ok().filter(|size| (7..=request.len()).contains(size));
        let size = size.ok_or(std::io::ErrorKind::InvalidData)?;
        client.read_exact(&mut request[4..size])?;
        let Outcome::Reply(len) = server.handle_bytes(&mut request[..size], &mut reply) else { return Ok(()) };
        client.write_all(&reply[..len])?;
    }
}

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "clock.sock".into());
    for client in UnixListener::bind(path)?.incoming() {
        let client = client?;
        std::thread::spawn(move || serve(client));
    }
    Ok(())
}
