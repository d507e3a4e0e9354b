//! A 9P server of one flat directory in memory, which checks the shape of the requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::backend::{Chain, Model};
use super::iommu::FakeIommu;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Name of each fid; empty for the root.
    fids: BTreeMap<u32, Vec<u8>>,
    held: Vec<Chain>,
}

/// The server, translated for an endpoint of an IOMMU or not.
pub(crate) struct FakeServer {
    iommu: Option<(Arc<FakeIommu>, u32)>,
    state: Mutex<State>,
    /// Answer a flush before the flushed request.
    flush_first: bool,
    /// Lengths of the readable and of the writable segments of the last data transfer.
    pub(crate) last_shape: Mutex<(Vec<u32>, Vec<u32>)>,
}

impl FakeServer {
    pub(crate) fn new(iommu: Option<(Arc<FakeIommu>, u32)>) -> Self {
        Self { iommu, state: Mutex::default(), flush_first: false, last_shape: Mutex::default() }
    }

    /// One that answers a flush before it gives back the flushed request.
    pub(crate) fn flushing_first() -> Self {
        Self { flush_first: true, ..Self::new(None) }
    }

    /// The reply's type and body, or an errno.
    fn answer(&self, kind: u8, body: &[u8], state: &mut State) -> Result<Vec<u8>, u32> {
        let u32_at = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
        let string_at = |at: usize| {
            let length = usize::from(u16::from_le_bytes(body[at..at + 2].try_into().unwrap()));
            body[at + 2..at + 2 + length].to_vec()
        };
        let fid = if body.len() >= 4 { u32_at(0) } else { 0 };
        let qid = [0; 13];
        let mut reply = Vec::new();
        match kind {
            100 => {
                state.fids.clear();
                reply.extend(u32_at(0).min(500 << 10).to_le_bytes());
                reply.extend(&body[4..]);
            }
            104 => {
                state.fids.insert(fid, Vec::new());
                reply.extend(qid);
            }
            110 => {
                let name = if body[8] == 0 { state.fids.get(&fid).cloned().ok_or(9_u32)? } else { string_at(10) };
                if body[8] != 0 && !state.files.contains_key(&name) {
                    return Err(2);
                }
                state.fids.insert(u32_at(4), name);
                reply.extend([body[8], 0]);
                reply.extend(qid.repeat(usize::from(body[8])));
            }
            14 => {
                state.files.insert(string_at(4), Vec::new());
                state.fids.insert(fid, string_at(4));
                reply.extend(qid);
                reply.extend([0; 4]);
            }
            116 | 118 => {
                let name = state.fids.get(&fid).ok_or(9_u32)?;
                let file = state.files.get_mut(name).ok_or(21_u32)?;
                let offset = usize::try_from(u64_at(4)).unwrap();
                let end = offset + u32_at(12) as usize;
                if kind == 116 {
                    let data = file.get(offset..end.min(file.len())).unwrap_or_default();
                    reply.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
                    reply.extend(data);
                } else {
                    file.resize(file.len().max(end), 0);
                    file[offset..end].copy_from_slice(&body[16..]);
                    reply.extend(u32_at(12).to_le_bytes());
                }
            }
            120 => {
                state.fids.remove(&fid).ok_or(9_u32)?;
            }
            76 => {
                state.files.remove(&string_at(4)).ok_or(2_u32)?;
            }
            8 => reply.extend([7; 60]),
            22 => reply.extend(body),
            _ => return Err(95),
        }
        Ok(reply)
    }
}

impl Model for FakeServer {
    fn queues(&self) -> usize {
        1
    }

    fn features(&self) -> u64 {
        let platform = if self.iommu.is_some() { 1 << 33 } else { 0 };
        platform | 1 << 32 | 1 << 29 | 1 << 28 | 1
    }

    fn config(&self) -> Vec<u8> {
        b"\x05\0share".to_vec()
    }

    fn translate(&self, address: u64, write: bool) -> Option<u64> {
        match &self.iommu {
            Some((iommu, endpoint)) => iommu.translate(*endpoint, address, write),
            None => Some(address),
        }
    }

    fn serve(&self, chain: Chain) -> Vec<(Chain, Vec<u8>)> {
        let mut state = self.state.lock().unwrap();
        let frame = &chain.readable;
        assert_eq!(frame[..4], u32::try_from(frame.len()).unwrap().to_le_bytes(), "size field");
        let (kind, tag) = (frame[4], [frame[5], frame[6]]);
        if matches!(kind, 116 | 118) {
            let lengths = chain.writable.iter().map(|(_, length)| *length).collect();
            *self.last_shape.lock().unwrap() = (chain.readable_pieces.clone(), lengths);
        }
        if kind == 50 {
            state.held.push(chain);
            return Vec::new();
        }
        let message = |kind: u8, body: &[u8]| {
            let size = u32::try_from(7 + body.len()).unwrap();
            [&size.to_le_bytes(), [kind].as_slice(), &tag, body].concat()
        };
        if kind == 108 {
            let old = frame[7..9].to_vec();
            let held = std::mem::take(&mut state.held);
            let (flushed, kept) = held.into_iter().partition(|held| held.readable[5..7] == old);
            state.held = kept;
            let mut replies: Vec<_> = flushed.into_iter().map(|chain: Chain| (chain, Vec::new())).collect();
            let at = if self.flush_first { 0 } else { replies.len() };
            replies.insert(at, (chain, message(109, &[])));
            return replies;
        }
        let reply = match self.answer(kind, &frame[7..], &mut state) {
            Ok(body) => message(kind + 1, &body),
            Err(errno) => message(7, &errno.to_le_bytes()),
        };
        vec![(chain, reply)]
    }
}
