//! The node's evidence of the addresses behind its interfaces (rtnetlink(7)): host routes, and
//! neighbours with the port of the bridge that leads to them.
//!
//! Owns the reading of both. A neighbour answers for itself and may lie. So the first interface of
//! an address stays its interface while it is there. Changes of routes are received. Neighbours are
//! requested, since a pod that sends with many link-layer addresses would make the kernel send a
//! change for each. Must never read a packet of a pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::links::split;
use crate::observation::OwnerEvidence;

/// Multicast groups of changes: routes of IPv4 and of IPv6 (`RTNLGRP_…`,
/// include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 2] = [7, 11];
/// Longest message that is read, in bytes. The kernel fills dumps up to 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel's buffer for changes that were not read yet, in bytes.
const KERNEL_BUFFER_BYTES: i32 = 1024 * 1024;
/// Neighbours whose port a bridge was asked for, at a time. The kernel stores 1,024 neighbours
/// (`gc_thresh3`).
const MAX_BRIDGE_REQUESTS: usize = 4_096;
/// Interval in which neighbours are requested while an interface has none, at first and later. A
/// pod becomes a neighbour only when the node sends to it.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const LATER_INTERVAL: Duration = Duration::from_secs(10);

// Messages and flags (include/uapi/linux/rtnetlink.h, netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
/// Attributes of a route.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Type of a route to an interface.
const RTN_UNICAST: u8 = 1;
/// Attributes of a neighbour (include/uapi/linux/neighbour.h).
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
/// States in which a neighbour has no valid link-layer address: incomplete, failed, and those that
/// need none.
const NUD_UNKNOWN: u16 = 0x01 | 0x20 | 0x40;
/// Bytes of `struct nlmsghdr`, `struct rtmsg` and `struct ndmsg`.
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const NEIGHBOUR_BYTES: usize = 12;

/// A subscription to the node's routes, and requests for its neighbours.
pub(super) struct NodeEvidence {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    /// Dumps that were not requested yet. The kernel allows one at a time.
    pending_dumps: Vec<(u16, u8)>,
    /// Sequence number of the current dump.
    current_dump: Option<u32>,
    /// Since when neighbours are requested, and the time of the next request.
    asking_since: Instant,
    next_request: Instant,
    routes: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// The first interface on which each neighbour was seen.
    neighbours: HashMap<IpAddr, u32>,
    /// Neighbours whose port a bridge was asked for, by the sequence number of the request.
    bridge_requests: HashMap<u32, IpAddr>,
    /// Interfaces that lead to another network namespace.
    watched: BTreeSet<u32>,
}

impl NodeEvidence {
    /// Subscribes. Needs no privilege.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        // A smaller buffer still works. After an overflow, all is listed again.
        let _ = socket.set_rx_buf_sz(KERNEL_BUFFER_BYTES);
        let mut this = Self {
            socket,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            sequence: 0,
            pending_dumps: Vec::new(),
            current_dump: None,
            asking_since: Instant::now(),
            next_request: Instant::now(),
            routes: BTreeMap::new(),
            neighbours: HashMap::new(),
            bridge_requests: HashMap::new(),
            watched: BTreeSet::new(),
        };
        this.list()?;
        Ok(this)
    }

    /// Requests all routes and neighbours.
    fn list(&mut self) -> io::Result<()> {
        self.routes.clear();
        self.pending_dumps = vec![
            (RTM_GETNEIGH, AF_INET6),
            (RTM_GETNEIGH, AF_INET),
            (RTM_GETROUTE, AF_INET6),
            (RTM_GETROUTE, AF_INET),
        ];
        self.next_dump()
    }

    fn next_dump(&mut self) -> io::Result<()> {
        if self.current_dump.is_some() {
            return Ok(());
        }
        let Some((kind, family)) = self.pending_dumps.pop() else { return Ok(()) };
        // `struct rtmsg` and `struct ndmsg` both begin with the family and have 12 bytes.
        let mut body = [0; ROUTE_BYTES];
        body[0] = family;
        self.current_dump = Some(self.request(kind, NLM_F_REQUEST | NLM_F_DUMP, &body)?);
        Ok(())
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER_BYTES + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(|_| self.sequence)
    }

    /// Adds an interface that leads to a pod.
    pub(super) fn watch(&mut self, index: u32) {
        if self.watched.insert(index) {
            (self.asking_since, self.next_request) = (Instant::now(), Instant::now());
        }
    }

    /// Requests neighbours, where it is time to and an interface has none.
    ///
    /// # Errors
    /// When the kernel refuses the request.
    pub(super) fn request_neighbours(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let resolved: BTreeSet<u32> =
            self.neighbours.values().chain(self.routes.keys()).copied().collect();
        if now < self.next_request
            || !self.pending_dumps.is_empty()
            || self.watched.is_subset(&resolved)
        {
            return Ok(());
        }
        let wait =
            if now - self.asking_since < LATER_INTERVAL { FIRST_INTERVAL } else { LATER_INTERVAL };
        self.next_request = now + wait;
        self.pending_dumps = vec![(RTM_GETNEIGH, AF_INET6), (RTM_GETNEIGH, AF_INET)];
        self.next_dump()
    }

    /// Removes an interface.
    pub(super) fn forget(&mut self, index: u32) {
        self.watched.remove(&index);
        self.routes.remove(&index);
        self.neighbours.retain(|_, i| *i != index);
    }

    /// Whether all requests were answered.
    pub(super) fn is_complete(&self) -> bool {
        self.current_dump.is_none()
            && self.pending_dumps.is_empty()
            && self.bridge_requests.is_empty()
    }

    /// The addresses behind an interface, as far as the node has evidence: routes, then neighbours.
    pub(super) fn of(&self, index: u32) -> Vec<(IpAddr, OwnerEvidence)> {
        let routes = self.routes.get(&index).into_iter().flatten();
        let mut all: Vec<(IpAddr, OwnerEvidence)> =
            routes.map(|a| (*a, OwnerEvidence::Route)).collect();
        let routed = |a: &IpAddr| self.routes.values().any(|r| r.contains(a));
        let neighbours = self.neighbours.iter().filter(|(_, i)| **i == index);
        let mut neighbours: Vec<IpAddr> = neighbours.map(|(a, _)| *a).collect();
        neighbours.sort_unstable();
        all.extend(
            neighbours.into_iter().filter(|a| !routed(a)).map(|a| (a, OwnerEvidence::Neighbour)),
        );
        all
    }

    /// Reads all messages so far, without waiting. True where something changed.
    ///
    /// # Errors
    /// When the socket fails. Dropped messages are no error: all is listed again.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    (self.current_dump, self.bridge_requests) = (None, HashMap::new());
                    self.list()?;
                    continue;
                }
                Err(e) => return Err(e),
            }
            let buffer = std::mem::take(&mut self.buffer);
            let mut rest = &buffer[..];
            while let Some((length, next)) = split(rest) {
                changed |= self.message(&rest[..length])?;
                rest = next;
            }
            self.buffer = buffer;
        }
    }

    fn message(&mut self, message: &[u8]) -> io::Result<bool> {
        let (Some(kind), Some(sequence)) = (half(message, 4), message.get(8..).and_then(word))
        else {
            return Ok(false);
        };
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match kind {
            RTM_NEWROUTE | RTM_DELROUTE => Ok(self.route(kind == RTM_NEWROUTE, body)),
            RTM_NEWNEIGH => self.neighbour(sequence, body),
            NLMSG_DONE | NLMSG_ERROR => {
                // The end of a dump, or its refusal (a family that the kernel does not have), or a
                // bridge without a port for the neighbour.
                self.bridge_requests.remove(&sequence);
                if self.current_dump == Some(sequence) {
                    self.current_dump = None;
                }
                self.next_dump().map(|()| false)
            }
            _ => Ok(false),
        }
    }

    /// Applies a route. Only routes to a single address through an interface count.
    fn route(&mut self, is_present: bool, body: &[u8]) -> bool {
        let (Some(&family), Some(&prefix), Some(&kind)) = (body.first(), body.get(1), body.get(7))
        else {
            return false;
        };
        let host = matches!((family, prefix), (AF_INET, 32) | (AF_INET6, 128));
        if !host || kind != RTN_UNICAST {
            return false;
        }
        let (mut to, mut through) = (None, None);
        for (kind, value) in attributes(body.get(ROUTE_BYTES..).unwrap_or_default()) {
            match kind {
                RTA_DST => to = address(value),
                RTA_OIF => through = word(value),
                _ => {}
            }
        }
        let (Some(to), Some(through)) = (to, through) else { return false };
        let routes = self.routes.entry(through).or_default();
        if is_present { routes.insert(to) } else { routes.remove(&to) }
    }

    /// Applies an entry of the neighbour table, or of a bridge's forwarding table where it was
    /// requested.
    fn neighbour(&mut self, sequence: u32, body: &[u8]) -> io::Result<bool> {
        let (Some(&family), Some(index), Some(state)) =
            (body.first(), body.get(4..8).and_then(word), half(body, 8))
        else {
            return Ok(false);
        };
        if family == AF_BRIDGE {
            return Ok(self
                .bridge_requests
                .remove(&sequence)
                .is_some_and(|a| self.assign(a, index)));
        }
        let (mut to, mut mac) = (None, None);
        for (kind, value) in attributes(body.get(NEIGHBOUR_BYTES..).unwrap_or_default()) {
            match kind {
                NDA_DST => to = address(value),
                NDA_LLADDR => mac = Some(value),
                _ => {}
            }
        }
        let resolved = state != 0 && state & NUD_UNKNOWN == 0;
        let (Some(to), Some(mac), true) = (to, mac, resolved) else { return Ok(false) };
        if self.watched.contains(&index) {
            return Ok(self.assign(to, index));
        }
        if !self.neighbours.contains_key(&to) && self.bridge_requests.len() < MAX_BRIDGE_REQUESTS {
            // Asks the bridge which port leads to it. A device that is no bridge refuses.
            let mut body = [0; NEIGHBOUR_BYTES].to_vec();
            body[0] = AF_BRIDGE;
            push(&mut body, NDA_LLADDR, mac);
            push(&mut body, NDA_MASTER, &index.to_ne_bytes());
            let request = self.request(RTM_GETNEIGH, NLM_F_REQUEST, &body)?;
            self.bridge_requests.insert(request, to);
        }
        Ok(false)
    }

    fn assign(&mut self, address: IpAddr, index: u32) -> bool {
        let family = |a: &IpAddr| a.is_ipv6();
        let other = |(a, i): (&IpAddr, &u32)| *i == index && family(a) == family(&address);
        // The first address of an interface stays its own, and the first interface of an address.
        if !self.watched.contains(&index)
            || self.neighbours.contains_key(&address)
            || self.neighbours.iter().any(other)
            || is_link_local(address)
        {
            return false;
        }
        self.neighbours.insert(address, index);
        true
    }
}

impl AsFd for NodeEvidence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into()),
        16 => bytes.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into()),
        _ => None,
    }
}

/// Attributes (`struct rtattr`): length, type, value, padded to four bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
