//! The open connections, and the choice of one to end when there is no room for a new one.
//!
//! Owns that choice. Connections that have not proven good end first, those of the address that
//! has most of them, the oldest first: so a flood ends its own connections. Must never refuse all
//! new connections while there is one that could be ended.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long to wait until a connection that was asked to end has ended.
const LEAVE: Duration = Duration::from_secs(1);
/// Without accepting, or without room, for this long, the server is reported as stuck.
const STUCK: Duration = Duration::from_secs(30);
/// Failures to accept are reported after this long.
const FAILING: Duration = Duration::from_secs(10);

/// An open connection.
#[derive(Debug)]
pub struct ServedConnection {
    peer: IpAddr,
    /// The client has shown who it is, or was answered with success.
    proven: AtomicBool,
    /// Requests that are not answered yet.
    requests: AtomicUsize,
    /// It was asked to end.
    leaving: AtomicBool,
    leave: Notify,
}

impl ServedConnection {
    fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            proven: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    /// The address at its other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Records that the client has shown who it is, or was answered with success.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Counts a request as open until the returned value is dropped.
    pub fn begin_request(self: &Arc<Self>) -> impl Drop + Send + use<> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Waits until this connection has to end because a new one needs its slot.
    pub async fn must_leave(&self) {
        self.leave.notified().await;
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

struct Busy(Arc<ServedConnection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The open connections, and the state of the loop that accepts them.
#[derive(Debug)]
struct DoorState {
    /// By number, the oldest first.
    open: BTreeMap<u64, Arc<ServedConnection>>,
    next: u64,
    /// When the loop last showed that it runs.
    beat: Instant,
    /// Since when accepting fails, and why.
    failing: Option<(Instant, String)>,
    /// Since when connections are refused because there is no room.
    full: Option<Instant>,
}

/// Bounds the number of connections.
#[derive(Debug)]
pub struct Door {
    limit: usize,
    state: Mutex<DoorState>,
    left: Notify,
    ended: AtomicU64,
    refused: AtomicU64,
}

/// The slot of a connection. It is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    door: Arc<Door>,
    number: u64,
    connection: Arc<ServedConnection>,
}

impl Slot {
    /// The connection in this slot.
    pub fn connection(&self) -> Arc<ServedConnection> {
        Arc::clone(&self.connection)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.door.state().open.remove(&self.number);
        self.door.left.notify_one();
    }
}

impl Door {
    /// Allows at most `limit` connections at once.
    pub fn new(limit: usize) -> Arc<Self> {
        let state = DoorState {
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

    fn state(&self) -> MutexGuard<'_, DoorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a connection from this address. If there is none, another connection is ended;
    /// `None` if none can be ended.
    pub async fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        let until = tokio::time::Instant::now() + LEAVE;
        loop {
            {
                let mut state = self.state();
                state.beat = Instant::now();
                state.failing = None;
                if state.open.len() < self.limit {
                    state.full = None;
                    let (number, connection) = (state.next, Arc::new(ServedConnection::new(peer)));
                    state.next += 1;
                    state.open.insert(number, Arc::clone(&connection));
                    return Some(Slot { door: Arc::clone(self), number, connection });
                }
                // A connection that was asked to end will free a slot, so no second one is ended.
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

    /// Records that accepting failed, and ends a connection: the reason may be that no descriptor
    /// is left.
    pub fn failed(&self, error: &io::Error) {
        tracing::debug!(%error, "a connection could not be accepted");
        let mut state = self.state();
        state.beat = Instant::now();
        state.failing.get_or_insert_with(|| (Instant::now(), error.to_string()));
        self.end_one(&state);
    }

    /// Records that the loop runs and no client connects.
    pub fn beat(&self) {
        let mut state = self.state();
        state.beat = Instant::now();
        state.failing = None;
        if state.open.len() < self.limit {
            state.full = None;
        }
    }

    /// Asks a connection to end, if one may be ended. Returns whether there was one.
    fn end_one(&self, state: &DoorState) -> bool {
        let victim = victim(state.open.values(), self.limit);
        if let Some(victim) = &victim {
            victim.leaving.store(true, Ordering::Relaxed);
            victim.leave.notify_one();
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        victim.is_some()
    }

    /// Why no client can connect; `None` if clients can.
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
            .then(|| format!("connections were not accepted for {} s", silent.as_secs()))
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.state().open.len()
    }

    /// How many connections were ended to make room, and how many were refused.
    pub fn turned_away(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

/// The connection to end for a new one: one that is not proven; else one without an open request;
/// else one of an address that has more than a quarter of all. Of these, the oldest of the address
/// that has most of them.
fn victim<'a>(
    open: impl Iterator<Item = &'a Arc<ServedConnection>> + Clone,
    limit: usize,
) -> Option<Arc<ServedConnection>> {
    let of_most = |eligible: &dyn Fn(&ServedConnection) -> bool, least: usize| {
        let mut peers: HashMap<IpAddr, (usize, &Arc<ServedConnection>)> = HashMap::new();
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
        .or_else(|| of_most(&ServedConnection::is_idle, 1))
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

    /// Drops a slot when its connection is asked to end, as the connection's task does.
    async fn end_when_asked(slot: Slot) {
        slot.connection().must_leave().await;
    }

    #[test]
    fn a_flood_ends_only_its_own_connections() {
        runtime().block_on(async {
            let door = Door::new(8);
            let proven = door.enter(at(1)).await.unwrap();
            proven.connection().prove();
            let young = door.enter(at(2)).await.unwrap();
            for _ in 0..100 {
                tokio::spawn(end_when_asked(door.enter(at(66)).await.unwrap()));
            }
            assert_eq!(door.open(), 8);
            for other in [&proven, &young] {
                assert!(!other.connection.leaving.load(Ordering::Relaxed));
            }
            let (ended, refused) = door.turned_away();
            assert_eq!((ended, refused, door.trouble()), (94, 0, None));
        });
    }

    #[test]
    fn proven_connections_end_only_if_idle_or_if_their_address_has_too_many() {
        let busy = |n, proven| {
            let c = Arc::new(ServedConnection::new(at(n)));
            c.proven.store(proven, Ordering::Relaxed);
            c.requests.store(1, Ordering::Relaxed);
            c
        };
        let idle = Arc::new(ServedConnection::new(at(9)));
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
    fn trouble_is_reported_when_no_client_can_connect() {
        runtime().block_on(async {
            let door = Door::new(1);
            let only = door.enter(at(1)).await.unwrap();
            only.connection().prove();
            let asked = only.connection().begin_request();
            // Its address has more than its share, but this connection does not end in time.
            assert!(door.enter(at(2)).await.is_none());
            assert_eq!(door.turned_away().1, 1);
            let long_ago = Instant::now().checked_sub(STUCK).unwrap();
            door.state().full = Some(long_ago);
            assert!(door.trouble().unwrap().contains("all 1 connections are taken"));
            drop((asked, only));
            door.beat();
            assert_eq!(door.trouble(), None);
            door.failed(&io::Error::from_raw_os_error(24));
            assert_eq!(door.trouble(), None, "a single failure is no trouble");
            door.state().failing.as_mut().unwrap().0 = long_ago;
            assert!(door.trouble().unwrap().contains("cannot be accepted"));
            door.beat();
            door.state().beat = long_ago;
            assert!(door.trouble().unwrap().contains("were not accepted for"));
        });
    }
}
