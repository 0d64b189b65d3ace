//! A small pool of threads for what would have to wait for a medium. Threads come when they are needed, up to a limit,
//! and go when they have had nothing to do for a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::replies::Replies;

/// Work for a thread; it may use the thread's reply buffer, empty when it begins.
pub type Job = Box<dyn FnOnce(&mut Replies) + Send>;

const PATIENCE: Duration = Duration::from_secs(10);
const STACK: usize = 512 << 10;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    handles: Vec<JoinHandle<()>>,
    closing: bool,
}

pub struct Pool {
    state: Mutex<State>,
    wake: Condvar,
    limit: usize,
}

/// A lock whose holder panicked is still good here: every change under it is whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Condvar::new(), limit: limit.max(1) })
    }

    /// Runs the job soon on some thread; on this one if none can be had.
    pub fn run(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        if state.idle <= state.jobs.len() && state.threads < self.limit {
            let pool = Arc::clone(self);
            match thread::Builder::new().name("nbd-io".into()).stack_size(STACK).spawn(move || pool.work()) {
                Ok(handle) => {
                    state.threads += 1;
                    state.handles.retain(|handle| !handle.is_finished());
                    state.handles.push(handle);
                }
                Err(_) if state.threads == 0 => {
                    drop(state);
                    return job(&mut Replies::default());
                }
                Err(_) => (),
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.wake.notify_one();
    }

    /// Ends all threads when the queue is empty.
    pub fn close(&self) {
        let handles = {
            let mut state = lock(&self.state);
            state.closing = true;
            std::mem::take(&mut state.handles)
        };
        self.wake.notify_all();
        for handle in handles {
            let _ = handle.join(); // work() catches its jobs' panics
        }
    }

    fn work(&self) {
        let mut replies = Replies::default();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job that panics has dropped its link's hold, which hangs up on the client; the thread goes on.
                if catch_unwind(AssertUnwindSafe(|| job(&mut replies))).is_err() {
                    replies = Replies::default();
                }
                replies.cut(0);
                state = lock(&self.state);
                continue;
            }
            if state.closing {
                break;
            }
            state.idle += 1;
            let (woken, timeout) = self.wake.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}
