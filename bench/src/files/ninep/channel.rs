//! What carries messages to a server and replies back.

use std::time::Duration;

use calgary_tests::guest::ninep::{Decoder, Reply, message};

use super::message::Op;
use crate::failure::Failure;

/// A connection to a 9P server with several requests, each with a buffer for file data.
pub(crate) trait Channel {
    /// The server's name in reports.
    fn name(&self) -> &'static str;

    /// The tree to attach to, by the name this server gives it.
    fn tree(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Whether files are removed by Tunlinkat and Tclunk, not by Tremove: the crate `p9` has no Tremove, diod no Tunlinkat.
    fn removes_by_name(&self) -> bool {
        false
    }

    /// Whether the server is a process of its own: only then several requests can be out at once.
    fn is_process(&self) -> bool {
        true
    }

    /// Puts the request `op` into `slot`, which is free. It may wait for [`Channel::kick`].
    fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure>;

    /// The same of several requests, which may wait for other things than the server at the same time.
    fn submit_all(&mut self, requests: &[(usize, Op<'_>)]) -> Result<(), Failure> {
        requests.iter().try_for_each(|(slot, op)| self.submit(*slot, op))
    }

    /// Shows the server what was submitted.
    fn kick(&mut self) -> Result<(), Failure>;

    /// Whether the reply to `slot` is there.
    fn is_done(&mut self, slot: usize) -> Result<bool, Failure>;

    /// Waits for the reply to `slot`; its size, type and tag are right. File data is in the slot's buffer.
    fn collect(&mut self, slot: usize) -> Result<Reply, Failure>;

    /// Writes into a slot's buffer.
    fn fill(&mut self, slot: usize, at: usize, bytes: &[u8]) -> Result<(), Failure>;

    /// Reads from a slot's buffer.
    fn read(&self, slot: usize, at: usize, bytes: &mut [u8]) -> Result<(), Failure>;

    /// Processor time the server has used.
    fn cpu(&self) -> Result<Duration, Failure>;
}

/// Takes apart the reply `bytes` to a message of type `kind` and tag `tag`; data of Rread and Rreaddir goes to `data`.
pub(super) fn parse(peer: &'static str, bytes: &[u8], kind: u8, tag: u16, data: &mut [u8]) -> Result<Reply, Failure> {
    let wrong = |what: String| Failure::wrong(peer, what);
    let short = |_| wrong(format!("a reply of {} bytes to type {kind}", bytes.len()));
    let mut decoder = Decoder::new(bytes);
    let (size, reply_kind) = (decoder.u32().map_err(short)?, decoder.u8().map_err(short)?);
    let reply_tag = decoder.u16().map_err(short)?;
    if usize::try_from(size) != Ok(bytes.len()) || reply_tag != tag {
        return Err(wrong(format!("size {size}, tag {reply_tag} in {} bytes for tag {tag}", bytes.len())));
    }
    if reply_kind == message::RLERROR {
        return Err(wrong(format!("errno {} to type {kind}", decoder.u32().map_err(short)?)));
    }
    if reply_kind != kind + 1 {
        return Err(wrong(format!("type {reply_kind} in answer to type {kind}")));
    }
    let mut body = &bytes[7..];
    let mut payload_bytes = 0;
    if matches!(kind, message::READ | message::READDIR) {
        let (head, payload) = body.split_at_checked(4).ok_or_else(|| wrong("a reply without a count".to_owned()))?;
        let place = data.get_mut(..payload.len()).ok_or_else(|| wrong("more data than was asked for".to_owned()))?;
        place.copy_from_slice(payload);
        payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        body = head;
    }
    Ok(Reply { kind: reply_kind, body: body.to_vec(), payload_bytes })
}
