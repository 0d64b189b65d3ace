//! The process as a whole: what is open, who talks to it, and how it ends.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::lease::{Countdown, Shown};
use crate::moving::Talk;
use crate::opened::Opened;
use crate::said::{Code, Said};
use crate::verbs;
use crate::wire::{Request, Wire, Writer};

/// Conversations at once; one more is hung up on.
const MOST: usize = 16;
/// How often a lease is looked at: the wall clock may have been set forward.
const LOOK: Duration = Duration::from_secs(2);
/// What a lease's end may take. Then the process ends, and the key with it, whatever hangs.
const GRACE: Duration = Duration::from_secs(5);

/// What a verb gives back.
pub struct Answer {
    /// The fields of `ok`.
    pub body: Value,
    /// Descriptors that go with it.
    pub fds: Vec<OwnedFd>,
    /// Whether the process ends once this is sent.
    pub last: bool,
}

impl Answer {
    /// A body alone.
    pub fn body(body: Value) -> Self {
        Self { body, fds: Vec::new(), last: false }
    }

    /// Descriptors with a body.
    pub fn with(body: Value, fds: Vec<OwnedFd>) -> Self {
        Self { body, fds, last: false }
    }
}

enum State {
    Empty,
    Open(Arc<Opened>),
    Closed(Said),
}

/// The one of its kind in this process.
pub struct Service {
    /// Whether all memory is locked.
    pub locked: bool,
    state: Mutex<State>,
    lease: Mutex<Option<Countdown>>,
    watchers: Mutex<Vec<Writer>>,
    talks: Mutex<usize>,
    reachable: AtomicBool,
    over: (Mutex<bool>, Condvar),
}

impl Service {
    /// Nothing is open yet.
    pub fn new(locked: bool) -> Arc<Self> {
        Arc::new(Self {
            locked,
            state: Mutex::new(State::Empty),
            lease: Mutex::new(None),
            watchers: Mutex::default(),
            talks: Mutex::new(0),
            reachable: AtomicBool::new(false),
            over: (Mutex::new(false), Condvar::new()),
        })
    }

    /// What is open.
    ///
    /// # Errors
    /// `Conflict`: nothing yet. What ended it, where it is closed again.
    pub fn opened(&self) -> Result<Arc<Opened>, Said> {
        match &*lock(&self.state) {
            State::Open(opened) => Ok(Arc::clone(opened)),
            State::Empty => Err(Said::new(Code::Conflict, "No vault is open here yet.")),
            State::Closed(why) => Err(why.clone()),
        }
    }

    /// Refuses where this process has a vault open, or had one.
    pub fn free(&self) -> Result<(), Said> {
        match &*lock(&self.state) {
            State::Empty => Ok(()),
            State::Open(_) => Err(Said::new(Code::Conflict, "This process has a vault open already.")),
            State::Closed(why) => Err(why.clone()),
        }
    }

    /// Open the one vault of this process.
    pub fn open(self: &Arc<Self>, make: impl FnOnce() -> Result<Opened, Said>) -> Result<Arc<Opened>, Said> {
        let mut state = lock(&self.state);
        match &*state {
            State::Empty => {}
            State::Open(_) => return Err(Said::new(Code::Conflict, "This process has a vault open already.")),
            State::Closed(why) => return Err(why.clone()),
        }
        let opened = Arc::new(make()?);
        *state = State::Open(Arc::clone(&opened));
        Ok(opened)
    }

    /// From now on the keys are held as long as this lease lasts; of one that is held already it must be the renewed one.
    pub fn hold(self: &Arc<Self>, shown: &Shown, workspace: &str) -> Result<(), Said> {
        let fresh = shown.verify(workspace)?;
        let mut held = lock(&self.lease);
        let countdown = held.as_ref().map_or_else(|| Ok(fresh.clone()), |former| former.renewed(fresh.clone()))?;
        if countdown.over() {
            return Err(ended());
        }
        if held.replace(countdown).is_none() {
            let service = Arc::clone(self);
            thread::Builder::new().name("lease".into()).spawn(move || service.watch_lease())?;
        }
        Ok(())
    }

    /// What is left of the lease; `None` where there is none.
    pub fn left(&self) -> Option<Duration> {
        lock(&self.lease).as_ref().map(Countdown::left)
    }

    fn watch_lease(&self) {
        let mut over: Option<Instant> = None;
        loop {
            let Some(lease) = lock(&self.lease).clone() else { return };
            let (left, moment) = (lease.left(), lease.moment());
            let wait = match over {
                _ if !left.is_zero() => {
                    over = None;
                    left
                }
                None => {
                    self.tell(&json!({"event": "lease_ended"}));
                    // Time asleep does not count (std's clock is CLOCK_MONOTONIC): an agent that wakes has its moment too.
                    over = Some(Instant::now());
                    moment
                }
                Some(since) => moment.saturating_sub(since.elapsed()),
            };
            if wait.is_zero() {
                break;
            }
            if self.wait(wait.min(LOOK)) {
                return;
            }
        }
        // Whatever hangs below, the key does not outlive the lease by more than this.
        thread::spawn(|| {
            thread::sleep(GRACE);
            std::process::exit(3);
        });
        let _ = self.close(ended());
        std::process::exit(3);
    }

    /// Flush and close what is open and drop the keys. Later calls are answered with `why`. Idempotent.
    pub fn close(&self, why: Said) -> Result<(), Said> {
        let former = std::mem::replace(&mut *lock(&self.state), State::Closed(why));
        match former {
            State::Open(opened) => opened.close(),
            State::Empty | State::Closed(_) => Ok(()),
        }
    }

    /// Let `main` return.
    pub fn end(&self) {
        *lock(&self.over.0) = true;
        self.over.1.notify_all();
    }

    /// Wait for the end, at most `most`; whether it has come.
    pub fn wait(&self, most: Duration) -> bool {
        let over = lock(&self.over.0);
        let (over, _) =
            self.over.1.wait_timeout_while(over, most, |over| !*over).unwrap_or_else(PoisonError::into_inner);
        *over
    }

    /// Send an event to whoever watches. One that does not read is dropped.
    pub fn tell(&self, event: &impl Serialize) {
        lock(&self.watchers).retain_mut(|watcher| watcher.send(event, &[]).is_ok());
    }

    /// Send events to this peer too.
    pub fn watch(&self, watcher: Writer) {
        lock(&self.watchers).push(watcher);
    }

    /// Whether somebody can come after the starter.
    pub fn reachable(&self) -> bool {
        self.reachable.load(Ordering::Acquire)
    }

    /// Take conversations on a listening socket, for ever.
    pub fn listen(self: &Arc<Self>, listener: UnixListener) -> Result<(), Said> {
        self.reachable.store(true, Ordering::Release);
        let service = Arc::clone(self);
        thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => service.take(stream),
                    Err(_) => thread::sleep(Duration::from_millis(100)), // out of descriptors, say
                }
            }
        })?;
        Ok(())
    }

    fn take(self: &Arc<Self>, stream: UnixStream) {
        // Another user is hung up on before a byte of it is read.
        let Ok(wire) = Wire::accept(stream) else { return };
        {
            let mut talks = lock(&self.talks);
            if *talks >= MOST {
                return;
            }
            *talks += 1;
        }
        let service = Arc::clone(self);
        let talk = move || {
            service.converse(wire, false);
            *lock(&service.talks) -= 1;
        };
        if thread::Builder::new().name("talk".into()).spawn(talk).is_err() {
            *lock(&self.talks) -= 1;
        }
    }

    /// Answer one peer until it leaves. `starter`: the one that started this process; only it may open a vault.
    pub fn converse(self: &Arc<Self>, mut wire: Wire, starter: bool) {
        let Ok(mut writer) = wire.writer() else { return };
        let mut talk = Talk::new(starter);
        loop {
            match wire.receive() {
                Ok(None) => return,
                Ok(Some((request, fds))) => {
                    let (id, outcome) = (request.id, self.answer(&mut writer, request, fds, &mut talk));
                    let last = outcome.as_ref().is_ok_and(|answer| answer.last);
                    if reply(&mut writer, id, outcome).is_err() {
                        return;
                    }
                    if last {
                        return self.end();
                    }
                }
                Err(wrong) => {
                    // What follows in this stream can't be told apart any more.
                    let _ = writer.send(&json!({"id": null, "error": wrong}), &[]);
                    return;
                }
            }
        }
    }

    fn answer(
        self: &Arc<Self>,
        writer: &mut Writer,
        request: Request,
        fds: Vec<OwnedFd>,
        talk: &mut Talk,
    ) -> Result<Answer, Said> {
        let id = request.id;
        let (mut told, gone) = (0, Arc::clone(&talk.gone));
        let mut progress = |done: u64, total: u64| {
            // About a hundred times in all: the peer is a person's bar.
            if done == total || done >= told + total / 100 {
                told = done;
                let event = json!({"event": "progress", "id": id, "done": done, "total": total});
                gone.fetch_or(writer.send(&event, &[]).is_err(), Ordering::Relaxed);
            }
        };
        if request.verb == "watch" {
            verbs::none(request.args)?;
            self.watch(writer.twin()?);
            if let Ok(opened) = self.opened() {
                if let Ok(image) = opened.image() {
                    image.wants.remind(); // what a watcher before this one was told may have died with it
                }
            }
            return Ok(Answer::body(json!({})));
        }
        verbs::call(self, request, fds, talk, &mut progress)
    }
}

fn reply(writer: &mut Writer, id: u64, outcome: Result<Answer, Said>) -> Result<(), Said> {
    match outcome {
        Ok(answer) => {
            let fds: Vec<_> = answer.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
            if fds.is_empty() {
                return writer.send(&json!({"id": id, "ok": answer.body}), &[]);
            }
            writer.send(&json!({"id": id, "ok": answer.body, "fds": fds.len()}), &fds)
        }
        Err(said) => writer.send(&json!({"id": id, "error": said}), &[]),
    }
}

/// The lease has ended.
fn ended() -> Said {
    Said::new(Code::Refused, "The right to use this workspace here has ended.")
        .safe("Everything that was written out is on this disk, sealed.")
        .next("Connect to the company's server to have it renewed.")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not make this process deaf to `stop`.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
