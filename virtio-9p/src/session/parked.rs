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
    /// For whom: what [`Parked::client`] said before the fid was looked up.
    pub(crate) client: u64,
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
/// be kept by the file system; so when their client is gone, they are left to it, and it finds that nobody wants them.
pub(crate) struct Parked<F: FileSystem> {
    waiting: Mutex<Vec<Waiting<F>>>,
    finished: Mutex<Answers>,
    /// Those that wait, but for what the last client left.
    count: AtomicUsize,
    max: usize,
    /// Whose turn it is to try them, and whether that is wanted again.
    turn: Mutex<()>,
    wanted: AtomicBool,
}

/// The finished ones of one client.
#[derive(Debug, Default)]
struct Answers {
    /// How many clients there were before.
    client: u64,
    list: VecDeque<Finished>,
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

    /// A number for the present client.
    pub(crate) fn client(&self) -> u64 {
        lock(&self.finished).client
    }

    /// Lets a request wait; false if too many do, or its client is gone.
    pub(crate) fn park(&self, request: Waiting<F>) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= self.max || request.client != self.client() {
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

    /// Cancels those with a tag, or all.
    pub(crate) fn cancel(&self, tag: Option<Tag>) {
        if self.len() > 0 {
            let meant = |request: &Waiting<F>| tag.is_none_or(|tag| request.tag == tag);
            self.settle(&mut lock(&self.waiting), |request| meant(request).then_some(Answer::Cancelled));
        }
    }

    /// Lets all be asked for again; false, and nothing is done, while they are tried.
    pub(crate) fn return_all(&self) -> bool {
        if self.len() == 0 {
            return true;
        }
        let waiting = try_lock(&self.waiting);
        let free = waiting.is_some();
        waiting.into_iter().for_each(|mut waiting| self.settle(&mut waiting, |_| Some(Answer::AskAgain)));
        free
    }

    fn settle(&self, waiting: &mut Vec<Waiting<F>>, answer: impl Fn(&Waiting<F>) -> Option<Answer>) {
        waiting.retain(|request| {
            let Some(answer) = answer(request) else { return true };
            let Waiting { ticket, client, tag, limit, .. } = *request;
            let mut finished = lock(&self.finished);
            if finished.client == client {
                finished.list.push_back(Finished { ticket, tag, limit, answer });
            }
            false
        });
        self.count.store(waiting.len(), Ordering::Release);
    }

    /// The next one whose wait is over.
    pub(crate) fn next_finished(&self) -> Option<Finished> {
        lock(&self.finished).list.pop_front()
    }

    /// Forgets everything, since nobody is there to be answered, and waits for nothing. Returns the files, of those that are
    /// not being tried.
    pub(crate) fn forget(&self) -> Vec<Arc<FidState<F>>> {
        let mut finished = lock(&self.finished);
        finished.client += 1;
        finished.list.clear();
        drop(finished);
        let waiting = try_lock(&self.waiting).map(|mut waiting| std::mem::take(&mut *waiting));
        self.count.store(0, Ordering::Release);
        waiting.into_iter().flatten().map(|request| request.state).collect()
    }
}
