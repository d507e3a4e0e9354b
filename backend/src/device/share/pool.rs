//! Threads for requests that may wait long: started when they are needed, ended when they are not.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread waits for its next job.
const IDLE: Duration = Duration::from_secs(10);

/// A bounded number of threads that carry out jobs in the order in which they came, each on its own.
///
/// Dropping it ends the threads that have nothing to do; one that is kept by its job ends after it.
pub(super) struct Pool<J> {
    shared: Arc<Shared<J>>,
    name: String,
    limit: usize,
}

struct Shared<J> {
    state: Mutex<State<J>>,
    news: Condvar,
    work: Box<dyn Fn(J) + Send + Sync>,
}

struct State<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl<J: Send + 'static> Pool<J> {
    /// At most `limit` threads called `name`, which do `work`.
    pub(super) fn new(name: String, limit: usize, work: impl Fn(J) + Send + Sync + 'static) -> Self {
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, closed: false };
        let shared = Shared { state: Mutex::new(state), news: Condvar::new(), work: Box::new(work) };
        Self { shared: Arc::new(shared), name, limit }
    }

    /// Has a thread do `job`.
    ///
    /// # Errors
    /// The job, if there is no thread and the system refuses one.
    pub(super) fn submit(&self, job: J) -> Result<(), J> {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.shared.news.notify_one();
        } else if state.threads < self.limit {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name(self.name.clone()).spawn(move || shared.run());
            match thread {
                Ok(_) => state.threads += 1,
                Err(cause) if state.threads == 0 => {
                    log::warn!("{}: cannot start a thread: {cause}", self.name);
                    return state.jobs.pop_back().map_or(Ok(()), Err);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Drops those of `which` that no thread has begun.
    pub(super) fn withdraw(&self, which: impl Fn(&J) -> bool) {
        self.shared.lock().jobs.retain(|job| !which(job));
    }
}

impl<J> Drop for Pool<J> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.jobs.clear();
        self.shared.news.notify_all();
    }
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            (self.work)(job);
        }
    }

    /// The next job; `None` ends the thread.
    fn next(&self) -> Option<J> {
        let mut state = self.lock();
        let mut patient = true;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed || !patient {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let (woken, wait) = self.news.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            patient = !wait.timed_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A job tells that it has begun and waits until it may end.
    struct Job(Sender<()>, Receiver<()>);

    fn job(begun: &Sender<()>) -> (Job, Sender<()>) {
        let (end, may_end) = channel();
        (Job(begun.clone(), may_end), end)
    }

    fn pool(limit: usize) -> Pool<Job> {
        Pool::new("worker".to_owned(), limit, |Job(begun, end)| {
            begun.send(()).unwrap();
            let _ = end.recv();
        })
    }

    #[test]
    fn jobs_run_side_by_side_up_to_the_limit_and_the_others_wait() {
        let pool = pool(2);
        let (begun, starts) = channel();
        let (jobs, ends): (Vec<_>, Vec<_>) = (0..3).map(|_| job(&begun)).unzip();
        for job in jobs {
            assert!(pool.submit(job).is_ok());
        }
        starts.recv().unwrap();
        starts.recv().unwrap();
        assert_eq!(pool.shared.lock().jobs.len(), 1, "the third waits");
        drop(ends);
        starts.recv().unwrap();
    }

    #[test]
    fn a_thread_that_is_idle_takes_the_next_job() {
        let pool = pool(8);
        let (begun, starts) = channel();
        for _ in 0..5 {
            let (job, end) = job(&begun);
            assert!(pool.submit(job).is_ok());
            starts.recv().unwrap();
            drop(end);
            while pool.shared.lock().idle == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(pool.shared.lock().threads, 1);
    }

    #[test]
    fn threads_end_with_the_pool() {
        let pool = pool(1);
        let shared = Arc::clone(&pool.shared);
        let (begun, starts) = channel();
        let (job, end) = job(&begun);
        assert!(pool.submit(job).is_ok());
        starts.recv().unwrap();
        drop(pool);
        drop(end);
        while shared.lock().threads > 0 {
            std::thread::yield_now();
        }
    }
}
