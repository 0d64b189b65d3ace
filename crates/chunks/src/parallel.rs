use std::sync::{Mutex, PoisonError};

/// Two threads keep a small machine busy and leave a large one to others.
const THREADS: usize = 2;

/// Work through `items` on two threads, each with a worker of its own, and return the results in the items' order.
///
/// # Errors
/// What `worker` or `work` first failed with; the other thread stops at its next item.
pub fn each<I: Send, W, R: Send, E: Send>(
    items: Vec<I>,
    worker: impl Fn() -> Result<W, E> + Sync,
    work: impl Fn(&mut W, I) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = THREADS.min(items.len());
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let stop = || queue.lock().unwrap_or_else(PoisonError::into_inner).nth(count);
    let run = || -> Result<Vec<(usize, R)>, E> {
        let mut tool = worker()?;
        let mut done = Vec::with_capacity(count / THREADS + 1);
        while let Some((place, item)) = next() {
            match work(&mut tool, item) {
                Ok(result) => done.push((place, result)),
                Err(why) => {
                    stop();
                    return Err(why);
                }
            }
        }
        Ok(done)
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for other in others {
            let theirs = match other.join() {
                Ok(theirs) => theirs,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            all = all.and_then(|mut mine| {
                theirs.map(|more| {
                    mine.extend(more);
                    mine
                })
            });
        }
        all
    })?;
    done.sort_unstable_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
