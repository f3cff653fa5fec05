//! Who is in: the open connections, and which of them ends when there is no room for another.
//!
//! Owns that choice. A connection that nobody has proved to be good ends first, of the address
//! that has most of them, the oldest first: so a flood ends its own connections. Must never keep
//! everybody out while there is a connection that could be ended.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long is waited for a connection that was told to end.
const LEAVE: Duration = Duration::from_secs(1);
/// After how long without accepting, or without room, nobody can get in.
const STUCK: Duration = Duration::from_secs(30);
/// After how long of failures to accept.
const FAILING: Duration = Duration::from_secs(10);

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    peer: IpAddr,
    proven: AtomicBool,
    asked: AtomicUsize,
    leaving: AtomicBool,
    leave: Notify,
}

impl Connection {
    fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            proven: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    /// The address at its other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Notes that whoever is at its other end has shown who they are, or was answered well.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Notes that a request is under way, until the answer is dropped.
    pub fn is_asked(self: &Arc<Self>) -> impl Drop + Send + use<> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Waits until it has to end, for another needs its place.
    pub async fn must_leave(&self) {
        self.leave.notified().await;
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == 0
    }
}

struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How accepting goes.
#[derive(Debug)]
struct State {
    /// By number, the oldest first.
    open: BTreeMap<u64, Arc<Connection>>,
    next: u64,
    /// When the loop that accepts was last seen.
    beat: Instant,
    /// Since when accepting fails, and why.
    failing: Option<(Instant, String)>,
    /// Since when nobody was let in for want of room.
    full: Option<Instant>,
}

/// Bounds connections.
#[derive(Debug)]
pub struct Door {
    limit: usize,
    state: Mutex<State>,
    left: Notify,
    ended: AtomicU64,
    refused: AtomicU64,
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    number: u64,
    connection: Arc<Connection>,
}

impl Place {
    /// Whose it is.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.state().open.remove(&self.number);
        self.door.left.notify_one();
    }
}

impl Door {
    /// Lets in so many at once.
    pub fn new(limit: usize) -> Arc<Self> {
        let state = State {
            open: BTreeMap::new(),
            next: 0,
            beat: Instant::now(),
            failing: None,
            full: None,
        };
        Arc::new(Self {
            limit,
            state: Mutex::new(state),
            left: Notify::new(),
            ended: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from this address; another one may have to end for it. `None`
    /// where none can.
    pub async fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let until = tokio::time::Instant::now() + LEAVE;
        loop {
            {
                let mut state = self.state();
                state.beat = Instant::now();
                state.failing = None;
                if state.open.len() < self.limit {
                    state.full = None;
                    let (number, connection) = (state.next, Arc::new(Connection::new(peer)));
                    state.next += 1;
                    state.open.insert(number, Arc::clone(&connection));
                    return Some(Place { door: Arc::clone(self), number, connection });
                }
                // One that is told to end leaves room for one.
                let leaving = state.open.values().any(|c| c.leaving.load(Ordering::Relaxed));
                if !leaving && !self.end_one(&state) {
                    state.full.get_or_insert_with(Instant::now);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
            }
            if tokio::time::timeout_at(until, self.left.notified()).await.is_err() {
                self.state().full.get_or_insert_with(Instant::now);
                self.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
    }

    /// Notes that a connection could not be accepted. Where descriptors are short, one is ended.
    pub fn failed(&self, error: &io::Error) {
        tracing::debug!(%error, "a connection could not be accepted");
        let mut state = self.state();
        state.beat = Instant::now();
        state.failing.get_or_insert_with(|| (Instant::now(), error.to_string()));
        self.end_one(&state);
    }

    /// Notes that accepting goes on, and nobody comes.
    pub fn waits(&self) {
        let mut state = self.state();
        state.beat = Instant::now();
        state.failing = None;
        if state.open.len() < self.limit {
            state.full = None;
        }
    }

    /// Ends a connection for another, where one may be.
    fn end_one(&self, state: &State) -> bool {
        let victim = victim(state.open.values(), self.limit);
        if let Some(victim) = &victim {
            victim.leaving.store(true, Ordering::Relaxed);
            victim.leave.notify_one();
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        victim.is_some()
    }

    /// Why nobody can get in; `None` where they can.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state();
        if let Some((since, error)) = &state.failing
            && since.elapsed() >= FAILING
        {
            return Some(format!("connections cannot be accepted: {error}"));
        }
        if state.full.is_some_and(|since| since.elapsed() >= STUCK) {
            return Some(format!(
                "all {} connections are taken, and none can be ended",
                self.limit
            ));
        }
        let silent = state.beat.elapsed();
        (silent >= STUCK)
            .then(|| format!("nobody has looked for connections for {} s", silent.as_secs()))
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.state().open.len()
    }

    /// Connections that were ended for another, and those that were not let in.
    pub fn turned_away(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

/// Which connection ends for another: one that nobody has proved; else one without a request; else
/// any of an address that has more than a quarter of all. Of these the oldest, of the address that
/// has most of them.
fn victim<'a>(
    open: impl Iterator<Item = &'a Arc<Connection>> + Clone,
    limit: usize,
) -> Option<Arc<Connection>> {
    let of_most = |eligible: &dyn Fn(&Connection) -> bool, least: usize| {
        let mut peers: HashMap<IpAddr, (usize, &Arc<Connection>)> = HashMap::new();
        for c in open.clone().filter(|c| !c.leaving.load(Ordering::Relaxed) && eligible(c)) {
            peers.entry(c.peer).or_insert((0, c)).0 += 1;
        }
        peers
            .into_iter()
            .filter(|(_, (n, _))| *n >= least)
            .max_by_key(|(peer, (n, _))| (*n, *peer))
            .map(|(_, (_, oldest))| Arc::clone(oldest))
    };
    of_most(&|c| !c.is_proven(), 1)
        .or_else(|| of_most(&Connection::is_idle, 1))
        .or_else(|| of_most(&|_| true, limit / 4 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// Ends as a connection's task does when it is told to.
    async fn ends_when_told(place: Place) {
        place.connection().must_leave().await;
    }

    #[test]
    fn a_flood_ends_its_own_connections_and_no_one_elses() {
        runtime().block_on(async {
            let door = Door::new(8);
            let proven = door.enter(at(1)).await.unwrap();
            proven.connection().prove();
            let young = door.enter(at(2)).await.unwrap();
            for _ in 0..100 {
                tokio::spawn(ends_when_told(door.enter(at(66)).await.unwrap()));
            }
            assert_eq!(door.open(), 8);
            for kept in [&proven, &young] {
                assert!(!kept.connection.leaving.load(Ordering::Relaxed));
            }
            let (ended, refused) = door.turned_away();
            assert_eq!((ended, refused, door.trouble()), (94, 0, None));
        });
    }

    #[test]
    fn the_proven_end_only_when_they_ask_nothing_or_are_far_too_many() {
        let busy = |n, proven| {
            let c = Arc::new(Connection::new(at(n)));
            c.proven.store(proven, Ordering::Relaxed);
            c.asked.store(1, Ordering::Relaxed);
            c
        };
        let idle = Arc::new(Connection::new(at(9)));
        idle.prove();
        let mut open = vec![busy(1, true), busy(2, true), idle];
        assert_eq!(victim(open.iter(), 12).unwrap().peer, at(9));
        open.pop();
        assert!(victim(open.iter(), 12).is_none(), "each has its share");
        open.extend((0..4).map(|_| busy(3, true)));
        assert_eq!(victim(open.iter(), 12).unwrap().peer, at(3));
        open.push(busy(4, false));
        assert_eq!(victim(open.iter(), 12).unwrap().peer, at(4));
    }

    #[test]
    fn trouble_is_told_when_nobody_can_get_in() {
        runtime().block_on(async {
            let door = Door::new(1);
            let only = door.enter(at(1)).await.unwrap();
            only.connection().prove();
            let asked = only.connection().is_asked();
            // An address that has all the room has more than its share, but it does not end.
            assert!(door.enter(at(2)).await.is_none());
            assert_eq!(door.turned_away().1, 1);
            let long_ago = Instant::now().checked_sub(STUCK).unwrap();
            door.state().full = Some(long_ago);
            assert!(door.trouble().unwrap().contains("all 1 connections are taken"));
            drop((asked, only));
            door.waits();
            assert_eq!(door.trouble(), None);
            door.failed(&io::Error::from_raw_os_error(24));
            assert_eq!(door.trouble(), None, "once is nothing");
            door.state().failing.as_mut().unwrap().0 = long_ago;
            assert!(door.trouble().unwrap().contains("cannot be accepted"));
            door.waits();
            door.state().beat = long_ago;
            assert!(door.trouble().unwrap().contains("nobody has looked"));
        });
    }
}
