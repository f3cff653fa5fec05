//! One opened interface.
//!
//! Owns the choice of how it is read: a ring of this crate's for an Ethernet device, as pods'
//! interfaces are, and libpcap for all else. Must never block, and never put an interface into
//! promiscuous mode: what a pod sends and receives passes its veth.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pcap::{Active, Capture, Error, Linktype, Precision};

use super::filter::{self, FilterConfig, FilterLink};
use super::ring::{self, Ring};
use super::uplink;
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::InterfaceId;

/// libpcap makes rings of blocks of 256 KiB (`MAXIMUM_SNAPLEN`, pcap-linux.c). With a single one
/// the kernel would have nowhere to put what comes while that block is read.
pub const MIN_RING_BYTES: u32 = 512 * 1024;

/// Bytes kept of a packet that is only a sample: all headers, and the beginning of what is none of
/// the known requests but may be one. A stream's packets have up to 64 KiB, and with
/// [`HandleConfig::snap`] of each a ring is full, and this process woken, after a handful.
const SAMPLED_SNAP_BYTES: u32 = 256;

/// How to open interfaces.
#[derive(Clone, Debug)]
pub struct HandleConfig {
    /// Of packets that begin nothing, one in this many is kept, at random. 1 keeps all.
    pub sample: u32,
    /// Bytes kept of each packet.
    pub snap: u32,
    /// Kernel ring of each interface, in bytes; where libpcap reads it, at least [`MIN_RING_BYTES`].
    pub ring: u32,
    /// How long the kernel may hold packets back, in milliseconds.
    pub block_timeout_millis: u32,
    /// Of pods' interfaces, only what the pod sends is read. The kernel makes a copy of the head of
    /// each packet that an interface sends before it asks the filter; this spares them. Not seen
    /// then: DNS answers, what refuses a call, and calls that arrive.
    pub pod_sends_only: bool,
}

impl Default for HandleConfig {
    fn default() -> Self {
        Self {
            sample: 32,
            snap: 2_048,
            ring: 128 * 1024,
            block_timeout_millis: 100,
            pod_sends_only: false,
        }
    }
}

/// Why an interface could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The right to capture is missing.
    #[error("capturing on {0} needs the capability CAP_NET_RAW")]
    Rights(String),
    /// It is gone or not up (any more): no fault.
    #[error("the interface {0} is gone or down")]
    Gone(String),
    /// The process or the system has no descriptor or no memory for one more handle.
    #[error("there is no room for a handle to capture on {name}: {source}")]
    Exhausted {
        /// Name of the interface.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses for another reason.
    #[error("cannot capture on {name}: {source}")]
    Refused {
        /// Name of the interface.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// libpcap refuses.
    #[error("cannot capture on {name}: {source}")]
    Libpcap {
        /// Name of the interface.
        name: String,
        /// What libpcap says.
        source: Error,
    },
    /// Its link type is none of those that are read.
    #[error("cannot capture on {name}: its link type {number} is not read")]
    LinkType {
        /// Name of the interface.
        name: String,
        /// Number of the link type (DLT_…).
        number: i32,
    },
}

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleRead {
    /// Nothing more is there now.
    Empty,
    /// There may be more.
    More,
    /// The interface is gone or down.
    Gone,
    /// Reading failed.
    Failed(String),
}

/// Packets that the kernel or the device dropped, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedPackets {
    /// For want of room in the ring.
    pub ring: u64,
    /// By the interface.
    pub interface: u64,
}

impl DroppedPackets {
    /// Adds what came between two answers of the same handle.
    pub(super) fn add(&mut self, before: Self, now: Self) {
        self.ring += now.ring.saturating_sub(before.ring);
        self.interface += now.interface.saturating_sub(before.interface);
    }
}

/// All interfaces at once.
pub const ANY: &str = "any";

enum HandleSource {
    Ring(Ring),
    Libpcap(Capture<Active>),
}

/// An opened interface.
pub struct Handle {
    source: HandleSource,
    name: String,
    id: InterfaceId,
    link: LinkType,
    /// Which way a packet passes means something.
    of_pod: bool,
}

impl Handle {
    /// Opens an interface, or [`ANY`] for all (with index 0: each packet carries that of its own).
    /// Unless the default route leads through it, it leads to a pod and nowhere else, so that what
    /// it receives is what the pod sends.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(name: &str, index: u32, settings: &HandleConfig) -> Result<Self, OpenError> {
        let id = InterfaceId { source: 0, index };
        if name != ANY {
            let of_pod = !uplink::has_default_route(name);
            let program = filter::program(FilterLink::Ethernet, &config(settings, of_pod));
            let received_only = of_pod && settings.pod_sends_only;
            let ring = Ring::open(
                index,
                settings.ring,
                settings.block_timeout_millis,
                received_only,
                &program,
            );
            let ring = ring.map_err(|e| refused(name, e))?;
            if let Some(ring) = ring {
                return Ok(Self {
                    source: HandleSource::Ring(ring),
                    name: name.to_owned(),
                    id,
                    link: LinkType::ETHERNET,
                    of_pod,
                });
            }
        }
        let fail = |e| refused_by_libpcap(name, index, e);
        let inactive = Capture::from_device(name).map_err(fail)?;
        let inactive = inactive
            .snaplen(i32::try_from(settings.snap).unwrap_or(i32::MAX))
            .buffer_size(i32::try_from(settings.ring.max(MIN_RING_BYTES)).unwrap_or(i32::MAX))
            .timeout(i32::try_from(settings.block_timeout_millis).unwrap_or(i32::MAX))
            .promisc(false)
            .immediate_mode(false)
            .precision(Precision::Nano);
        let mut capture = inactive.open().map_err(fail)?.setnonblock().map_err(fail)?;
        if name == ANY {
            capture.set_datalink(Linktype(i32::from(LinkType::LINUX_SLL2.0))).map_err(fail)?;
        }
        let number = capture.get_datalink().0;
        let link = u16::try_from(number).map_or(LinkType(u16::MAX), LinkType);
        let layer = match link {
            LinkType::ETHERNET => FilterLink::Ethernet,
            LinkType::RAW | LinkType::RAW_DLT => FilterLink::RawIp,
            LinkType::LINUX_SLL2 => FilterLink::Cooked,
            _ => return Err(OpenError::LinkType { name: name.to_owned(), number }),
        };
        // SAFETY: the descriptor belongs to `capture`, which outlives this borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(capture.as_raw_fd()) };
        filter::attach(socket, &filter::program(layer, &config(settings, false)))
            .map_err(|e| refused(name, e))?;
        Ok(Self {
            source: HandleSource::Libpcap(capture),
            name: name.to_owned(),
            id,
            link,
            of_pod: false,
        })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which one; index 0 for [`ANY`].
    pub fn id(&self) -> InterfaceId {
        self.id
    }

    /// What to wait on.
    pub(crate) fn raw_fd(&self) -> std::os::fd::RawFd {
        match &self.source {
            HandleSource::Ring(ring) => ring.raw_fd(),
            HandleSource::Libpcap(capture) => capture.as_raw_fd(),
        }
    }

    /// The kernel adds no more packets; what is there can be read.
    ///
    /// # Errors
    /// When the kernel refuses, and goes on adding.
    pub(crate) fn close_to_packets(&self) -> io::Result<()> {
        // SAFETY: the descriptor belongs to this handle, which outlives the borrow.
        filter::attach(unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }, &filter::nothing())
    }

    /// Hands on at most `limit` frames that are there already.
    pub fn read(&mut self, limit: usize, sink: &mut impl FnMut(Frame<'_>)) -> HandleRead {
        let (interface, link, of_pod) = (self.id, self.link, self.of_pod);
        let capture = match &mut self.source {
            HandleSource::Libpcap(capture) => capture,
            HandleSource::Ring(ring) => {
                let result = ring.read(limit, &mut |p| {
                    let direction = if of_pod { p.direction } else { Direction::Unknown };
                    sink(Frame {
                        time: p.time,
                        interface,
                        link,
                        direction,
                        wire_len: p.wire_len,
                        data: p.data,
                    });
                });
                return match result {
                    Ok(seen) if seen >= limit => HandleRead::More,
                    Ok(_) => HandleRead::Empty,
                    Err(e) if is_gone(&e) => HandleRead::Gone,
                    Err(e) => HandleRead::Failed(e.to_string()),
                };
            }
        };
        let mut seen = 0;
        let result = capture.dispatch(Some(limit), |packet| {
            seen += 1;
            sink(Frame {
                // With Precision::Nano the field for microseconds holds nanoseconds.
                time: packet
                    .header
                    .ts
                    .tv_sec
                    .saturating_mul(1_000_000_000)
                    .saturating_add(packet.header.ts.tv_usec),
                interface,
                link,
                direction: Direction::Unknown,
                wire_len: packet.header.len,
                data: packet.data,
            });
        });
        match result {
            Ok(_) | Err(Error::TimeoutExpired) if seen >= limit => HandleRead::More,
            Ok(_) | Err(Error::TimeoutExpired | Error::NoMorePackets) => HandleRead::Empty,
            // libpcap has taken the errno from the socket, and tells it in words only.
            Err(_) if ring::probe(self.id.index).is_err_and(|e| is_gone(&e)) => HandleRead::Gone,
            Err(e) => HandleRead::Failed(e.to_string()),
        }
    }

    /// Whether packets were dropped since [`Handle::dropped`] was called, as far as what was read
    /// tells.
    pub(crate) fn is_losing(&self) -> bool {
        matches!(&self.source, HandleSource::Ring(ring) if ring.is_losing())
    }

    /// What was dropped since it was opened; `None` where the kernel does not say.
    pub fn dropped(&mut self) -> Option<DroppedPackets> {
        let capture = match &mut self.source {
            HandleSource::Libpcap(capture) => capture,
            // A veth has no queue of its own that could drop.
            HandleSource::Ring(ring) => {
                return Some(DroppedPackets { ring: ring.dropped().ok()?, interface: 0 });
            }
        };
        let stat = capture.stats().ok()?;
        Some(DroppedPackets {
            ring: u64::from(stat.dropped),
            interface: u64::from(stat.if_dropped),
        })
    }
}

fn config(settings: &HandleConfig, callers_only: bool) -> FilterConfig {
    let (sample, snap) = (settings.sample, settings.snap);
    FilterConfig {
        sample,
        snap,
        sampled_snap: snap.min(SAMPLED_SNAP_BYTES),
        always_ports: Vec::new(),
        callers_only,
    }
}

/// Whether an error of the kernel says that an interface is gone or down.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::ENETDOWN))
}

fn refused(name: &str, source: io::Error) -> OpenError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::Rights(name),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
            OpenError::Exhausted { name, source }
        }
        _ if is_gone(&source) => OpenError::Gone(name),
        _ => OpenError::Refused { name, source },
    }
}

/// libpcap tells why in words only, which change with its version and the language of the system:
/// whoever tries the same without it has an errno.
fn refused_by_libpcap(name: &str, index: u32, source: Error) -> OpenError {
    match ring::probe(index) {
        Err(error) => refused(name, error),
        Ok(()) => OpenError::Libpcap { name: name.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(errno: i32) -> &'static str {
        match refused("veth0", io::Error::from_raw_os_error(errno)) {
            OpenError::Rights(_) => "rights",
            OpenError::Gone(_) => "gone",
            OpenError::Exhausted { .. } => "exhausted",
            _ => "refused",
        }
    }

    #[test]
    fn the_cause_of_a_refusal_is_its_errno() {
        for (errnos, want) in [
            (&[libc::EPERM, libc::EACCES][..], "rights"),
            (&[libc::ENODEV, libc::ENXIO, libc::ENETDOWN], "gone"),
            (&[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS], "exhausted"),
            (&[libc::EINVAL, libc::EIO, libc::ENOPROTOOPT], "refused"),
        ] {
            assert!(errnos.iter().all(|e| cause(*e) == want), "{want}");
        }
        let said = refused("veth0", io::Error::from_raw_os_error(libc::EMFILE));
        assert!(std::error::Error::source(&said).is_some(), "the error of the kernel is kept");
    }

    /// Words that once decided must not: an interface may be called so.
    #[test]
    fn no_word_in_a_message_decides() {
        for why in ["permission", "Too many open files", "No such device", "went down"] {
            let source = io::Error::other(why);
            assert!(matches!(refused("veth0", source), OpenError::Refused { .. }), "{why}");
        }
    }

    /// With the right to capture an interface that is not there is gone; without it, that right is
    /// what is missing.
    #[test]
    fn what_libpcap_refuses_is_asked_of_the_kernel() {
        let words = || Error::PcapError("some words".to_owned());
        let none = u32::MAX >> 1;
        match refused_by_libpcap("none", none, words()) {
            OpenError::Gone(_) => {
                let loopback = refused_by_libpcap("lo", 1, words());
                assert!(matches!(loopback, OpenError::Libpcap { .. } | OpenError::Gone(_)));
            }
            error => assert!(matches!(error, OpenError::Rights(_)), "{error}"),
        }
    }
}
