//! The thread that looks after an open vault: checkpoints, the anchor, cleaning.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::cleaner::Cleaning;
use crate::inner::Inner;
use crate::sync::lock;

/// How often it looks by itself.
const PERIOD: Duration = Duration::from_secs(2);
/// The oldest that an anchor gets while there are writes.
const ANCHORING: Duration = Duration::from_secs(30);
/// After a pass that failed or found nothing.
const REST: Duration = Duration::from_secs(60);

/// Wakes the thread.
#[derive(Default)]
pub(crate) struct Bell(Mutex<bool>, Condvar);

impl Bell {
    pub fn ring(&self) {
        *lock(&self.0) = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let rung = lock(&self.0);
        let waited = self.1.wait_timeout_while(rung, PERIOD, |rung| !*rung);
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0 = false;
    }
}

/// Starts it. It ends once the vault is closed or dropped.
pub(crate) fn start(inner: &Arc<Inner>) -> std::io::Result<()> {
    let (weak, bell) = (Arc::downgrade(inner), inner.bell.clone());
    std::thread::Builder::new().name("vault-keeper".into()).spawn(move || keep(&weak, &bell)).map(|_| ())
}

fn keep(weak: &Weak<Inner>, bell: &Bell) {
    let (mut anchored, mut resting) = (Instant::now(), None::<Instant>);
    loop {
        bell.wait();
        let Some(inner) = weak.upgrade() else { return };
        if inner.usable().is_err() {
            return;
        }
        // What fails here fails again where somebody can be told: at a write, a flush or at close.
        {
            let _one = lock(&inner.upkeep);
            let _ = inner.tend();
            if anchored.elapsed() >= ANCHORING {
                anchored = Instant::now();
                let _ = inner.anchor_now();
            }
        }
        if inner.is_dirty() && resting.is_none_or(|since| since.elapsed() >= REST || !inner.pace.is_idle()) {
            let _one = lock(&inner.cleaning);
            inner.pace.set_idle(false);
            let worth = inner.clean(Cleaning::default()).is_ok_and(|done| done.removed > done.moved);
            resting = if worth { None } else { Some(Instant::now()) };
            inner.pace.set_idle(!worth);
            if worth {
                // There may be more.
                bell.ring();
            }
        }
    }
}
