//! Requests that wait: locks that another owner holds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::FidState;
use super::sync::{lock, try_lock};
use crate::errno::Errno;
use crate::fs::{FileSystem, LockRange};
use crate::wire::{Fid, LockType, Tag};

/// A lock request that waits. It holds the file, and nothing of the client's memory.
pub(crate) struct Waiting<F: FileSystem> {
    /// The caller's name for the request.
    pub(crate) ticket: u64,
    pub(crate) tag: Tag,
    /// Bytes that the reply may have.
    pub(crate) limit: usize,
    pub(crate) fid: Fid,
    pub(crate) state: Arc<FidState<F>>,
    pub(crate) kind: LockType,
    pub(crate) range: LockRange,
    pub(crate) proc_id: u32,
    pub(crate) client_id: Vec<u8>,
}

/// What became of a request that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The lock was taken.
    Granted,
    /// It cannot be any more.
    Failed(Errno),
    /// It was not tried to the end; the client is told to ask again.
    AskAgain,
    /// The client does not want it any more, or is gone.
    Cancelled,
}

/// A finished one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) ticket: u64,
    pub(crate) tag: Tag,
    pub(crate) limit: usize,
    pub(crate) answer: Answer,
}

/// The requests of a session that wait, in the order in which they came, and those whose wait is over.
///
/// Those that wait are locked while they are tried, so that none is given up and granted at once. What tries them may
/// be kept by the file system.
pub(crate) struct Parked<F: FileSystem> {
    waiting: Mutex<Vec<Waiting<F>>>,
    finished: Mutex<VecDeque<Finished>>,
    count: AtomicUsize,
    max: usize,
    /// Whose turn it is to try them, and whether that is wanted again.
    turn: Mutex<()>,
    wanted: AtomicBool,
}

impl<F: FileSystem> Parked<F> {
    pub(crate) fn new(max: usize) -> Parked<F> {
        let (count, wanted) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (waiting, finished, turn) = (Mutex::default(), Mutex::default(), Mutex::default());
        Parked { waiting, finished, count, max, turn, wanted }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Lets a request wait; false if too many do.
    pub(crate) fn park(&self, request: Waiting<F>) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= self.max {
            return false;
        }
        waiting.push(request);
        self.count.store(waiting.len(), Ordering::Release);
        true
    }

    /// Tries every one that waits, in order, until none is answered any more. If another thread is at it, that one does
    /// so once more: the file system may keep it.
    pub(crate) fn retry(&self, attempt: impl Fn(&Waiting<F>) -> Option<Answer>) {
        self.wanted.store(true, Ordering::SeqCst);
        while self.wanted.load(Ordering::SeqCst) {
            let Some(_turn) = try_lock(&self.turn) else { return };
            self.wanted.store(false, Ordering::SeqCst);
            let mut waiting = lock(&self.waiting);
            loop {
                let before = waiting.len();
                // The end of one may free what another waits for.
                self.settle(&mut waiting, &attempt);
                if waiting.len() == before {
                    break;
                }
            }
        }
    }

    /// Cancels those with a tag.
    pub(crate) fn cancel(&self, tag: Tag) {
        self.settle(&mut lock(&self.waiting), |request| (request.tag == tag).then_some(Answer::Cancelled));
    }

    /// Cancels all.
    pub(crate) fn cancel_all(&self) {
        self.settle(&mut lock(&self.waiting), |_| Some(Answer::Cancelled));
    }

    /// Lets all be asked for again; false, and nothing is done, while they are tried.
    pub(crate) fn return_all(&self) -> bool {
        let waiting = try_lock(&self.waiting);
        let free = waiting.is_some();
        waiting.into_iter().for_each(|mut waiting| self.settle(&mut waiting, |_| Some(Answer::AskAgain)));
        free
    }

    fn settle(&self, waiting: &mut Vec<Waiting<F>>, answer: impl Fn(&Waiting<F>) -> Option<Answer>) {
        waiting.retain(|request| {
            let Some(answer) = answer(request) else { return true };
            let Waiting { ticket, tag, limit, .. } = *request;
            lock(&self.finished).push_back(Finished { ticket, tag, limit, answer });
            false
        });
        self.count.store(waiting.len(), Ordering::Release);
    }

    /// The next one whose wait is over.
    pub(crate) fn next_finished(&self) -> Option<Finished> {
        lock(&self.finished).pop_front()
    }

    /// Forgets everything: nobody is there to be answered.
    pub(crate) fn clear(&self) {
        self.cancel_all();
        lock(&self.finished).clear();
    }
}
