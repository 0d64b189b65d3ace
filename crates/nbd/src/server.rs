//! Exports by name, connections, and their end.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::export::Export;
use crate::handshake::{Catalogue, handshake};
use crate::link::Link;
use crate::pool::{Pool, lock};
use crate::session::Session;

/// Connections at once; one more is hung up on.
const MAX_CONNECTIONS: usize = 64;
/// How long a closing server waits for clients to take their last replies.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves any number of exports to any number of connections.
pub struct Server {
    exports: Mutex<BTreeMap<String, Arc<dyn Export>>>,
    connections: Mutex<(u64, BTreeMap<u64, UnixStream>)>,
    ended: Condvar,
    pool: Arc<Pool>,
    closing: AtomicBool,
}

impl Server {
    /// A server without exports. `workers`: threads for reads and flushes that must wait for a medium, so many of them can
    /// be under way at once; started when needed.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            exports: Mutex::default(),
            connections: Mutex::default(),
            ended: Condvar::new(),
            pool: Pool::new(workers),
            closing: AtomicBool::new(false),
        })
    }

    /// Offers a device under a name, in place of one that had it. Connections that are open keep what they have.
    pub fn insert(&self, name: &str, export: Arc<dyn Export>) {
        lock(&self.exports).insert(name.to_owned(), export);
    }

    /// Offers it no more to new connections.
    pub fn remove(&self, name: &str) {
        lock(&self.exports).remove(name);
    }

    /// Serves one connected stream until its client leaves; everything it was promised is carried out by then.
    ///
    /// Errors: the client broke the protocol or the socket failed; the text says how. The devices are unharmed by either.
    pub fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let Some(place) = self.enter(&stream)? else { return Ok(()) };
        let _place = place;
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, 1 << 20); // the kernel's limit is as good
        match handshake(&stream, self)? {
            None => Ok(()),
            Some(chosen) => {
                let link = Link::new(chosen.export, chosen.terms, stream, Arc::clone(&self.pool));
                Session::new(link, chosen.contexts).run()
            }
        }
    }

    /// Accepts connections and serves each on a thread of its own, until [`Server::close`] and then the listener's end.
    /// `admit` looks at each first (its peer's credentials, say). `report` is told how a connection failed.
    ///
    /// Errors: the listener failed.
    pub fn listen(
        self: &Arc<Self>,
        listener: &UnixListener,
        admit: impl Fn(&UnixStream) -> bool,
        report: impl Fn(&str) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let report = Arc::new(report);
        while !self.closing.load(Ordering::SeqCst) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(_) if self.closing.load(Ordering::SeqCst) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if !admit(&stream) {
                continue;
            }
            let (server, told) = (Arc::clone(self), Arc::clone(&report));
            let serve = move || {
                if let Err(error) = server.serve(stream) {
                    told(&error.to_string());
                }
            };
            if let Err(error) = thread::Builder::new().name("nbd".into()).spawn(serve) {
                report(&format!("no thread for a connection: {error}"));
            }
        }
        Ok(())
    }

    /// Ends: no new connection is served, requests received are carried out and answered, then the clients are hung up on.
    /// A client that takes no replies is not waited for longer than some seconds. To end a [`Server::listen`] too, shut its
    /// socket down for reading behind this call.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let mut connections = lock(&self.connections);
        for how in [Shutdown::Read, Shutdown::Both] {
            for stream in connections.1.values() {
                let _ = stream.shutdown(how); // a client that is gone is what we want
            }
            connections = self
                .ended
                .wait_timeout_while(connections, FAREWELL, |connections| !connections.1.is_empty())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(connections);
        self.pool.close();
    }

    /// The number of connections now.
    pub fn connections(&self) -> usize {
        lock(&self.connections).1.len()
    }

    fn enter(&self, stream: &UnixStream) -> io::Result<Option<Place<'_>>> {
        let twin = stream.try_clone()?;
        let mut connections = lock(&self.connections);
        if self.closing.load(Ordering::SeqCst) || connections.1.len() >= MAX_CONNECTIONS {
            return Ok(None);
        }
        connections.0 += 1;
        let number = connections.0;
        connections.1.insert(number, twin);
        Ok(Some(Place { server: self, number }))
    }
}

/// A connection's entry in the list, taken out however it ends.
struct Place<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(stream) = lock(&self.server.connections).1.remove(&self.number) {
            let _ = stream.shutdown(Shutdown::Both); // a worker may still hold the socket
        }
        self.server.ended.notify_all();
    }
}

impl Catalogue for Server {
    fn names(&self) -> Vec<String> {
        lock(&self.exports).keys().cloned().collect()
    }

    fn find(&self, name: &str) -> Option<Arc<dyn Export>> {
        let exports = lock(&self.exports);
        match exports.get(name) {
            None if name.is_empty() && exports.len() == 1 => exports.values().next().cloned(),
            found => found.cloned(),
        }
    }
}
