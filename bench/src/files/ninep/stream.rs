//! 9P over a unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use calgary_tests::guest::ninep::Reply;

use super::super::subject::{ROOM, SLOTS};
use super::channel::{Channel, parse};
use super::message::Op;
use crate::failure::Failure;
use crate::peers::Server;

/// The largest reply read: a large slot and its head.
const MAX_REPLY: usize = 1 << 20;

/// A connection to a server that listens on a unix socket.
#[derive(Debug)]
pub(crate) struct StreamChannel {
    name: &'static str,
    server: Server,
    stream: UnixStream,
    tree: Vec<u8>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    data: Vec<Vec<u8>>,
    /// Type of each slot's request, and its reply once it is there.
    waiting: Vec<(u8, Option<Reply>)>,
}

impl StreamChannel {
    /// Connects to `server` at `socket`, which exports `tree`.
    pub(crate) fn connect(name: &'static str, server: Server, socket: &Path, tree: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).map_err(|cause| server.did_not_start(cause.to_string()))?;
        Ok(Self {
            name,
            server,
            stream,
            tree: tree.as_os_str().as_encoded_bytes().to_vec(),
            outgoing: Vec::new(),
            incoming: Vec::new(),
            data: vec![vec![0; ROOM]; SLOTS],
            waiting: vec![(0, None); SLOTS],
        })
    }

    /// Takes whole replies out of what came in; whether there was one.
    fn take_replies(&mut self) -> Result<bool, Failure> {
        let (mut at, mut taken) = (0, false);
        while let Some(head) = self.incoming.get(at..at + 7) {
            let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let tag = u16::from_le_bytes([head[5], head[6]]);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if !(7..=MAX_REPLY).contains(&size) {
                return Err(Failure::wrong(self.name, format!("a reply of {size} bytes")));
            }
            let Some(message) = self.incoming.get(at..at + size) else { break };
            let slot = if tag == u16::MAX { 0 } else { usize::from(tag) };
            let Some((kind, reply)) = self.waiting.get_mut(slot).filter(|(kind, reply)| *kind != 0 && reply.is_none())
            else {
                return Err(Failure::wrong(self.name, format!("a reply to tag {tag}, which is not out")));
            };
            *reply = Some(parse(self.name, message, *kind, tag, &mut self.data[slot])?);
            at += size;
            taken = true;
        }
        self.incoming.drain(..at);
        Ok(taken)
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let mut piece = [0; 64 << 10];
        loop {
            let count = self.stream.read(&mut piece).map_err(|cause| Failure::system("read from a server", cause))?;
            if count == 0 {
                return Err(Failure::wrong(self.name, "the connection ended"));
            }
            self.incoming.extend_from_slice(&piece[..count]);
            if self.take_replies()? {
                return Ok(());
            }
        }
    }
}

impl Channel for StreamChannel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tree(&self) -> Vec<u8> {
        self.tree.clone()
    }

    fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure> {
        op.encode(op.tag(slot), &self.data[slot][..op.sent()], &mut self.outgoing);
        self.waiting[slot] = (op.kind(), None);
        Ok(())
    }

    fn kick(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.outgoing).map_err(|cause| Failure::system("write to a server", cause))?;
        self.outgoing.clear();
        Ok(())
    }

    fn is_done(&mut self, slot: usize) -> Result<bool, Failure> {
        Ok(self.waiting[slot].1.is_some())
    }

    fn collect(&mut self, slot: usize) -> Result<Reply, Failure> {
        loop {
            if let Some(reply) = self.waiting[slot].1.take() {
                self.waiting[slot].0 = 0;
                return Ok(reply);
            }
            self.receive()?;
        }
    }

    fn fill(&mut self, slot: usize, at: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.data[slot][at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, slot: usize, at: usize, bytes: &mut [u8]) -> Result<(), Failure> {
        bytes.copy_from_slice(&self.data[slot][at..at + bytes.len()]);
        Ok(())
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.server.cpu()
    }
}
