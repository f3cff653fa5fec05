//! One opened interface.
//!
//! Owns the choice of how it is read: with a ring of this crate for an Ethernet device, as pods'
//! interfaces are, and with libpcap for all others. Must never block, and never put an interface
//! into promiscuous mode: all that a pod sends and receives passes its veth.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pcap::{Active, Capture, Error, Linktype, Packet, Precision};

use super::filter::{self, DatagramRule, FilterConfig, FilterLink};
use super::ring::{self, Ring, RingPacket};
use super::uplink;
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::InterfaceId;

/// Smallest ring that libpcap reads, in bytes. It makes rings of blocks of 256 KiB
/// (`MAXIMUM_SNAPLEN`, pcap-linux.c). With a single block, the kernel would drop packets while that
/// block is read.
pub const MIN_RING_BYTES: u32 = 512 * 1024;

/// Bytes captured of a sampled packet: all headers, and the beginning of what may be a request with
/// another method. Packets of a stream have up to 64 KiB. With [`HandleConfig::snap_bytes`] of
/// each, a handful of them would fill a block and wake this process.
const SAMPLED_SNAP_BYTES: u32 = 256;

/// How an interface is opened.
#[derive(Clone, Debug)]
pub struct HandleConfig {
    /// Of packets that open, close or name nothing, the filter passes one in this many, at random.
    /// 1 passes all.
    pub sample: u32,
    /// Bytes captured of each packet, at most.
    pub snap_bytes: u32,
    /// Bytes of the ring of each interface. Where libpcap reads it, at least [`MIN_RING_BYTES`].
    pub ring_bytes: u32,
    /// Milliseconds after which the kernel delivers a block that is not full.
    pub block_timeout_millis: u32,
    /// On pods' interfaces, read only frames that the pod sends. The kernel copies the head of each
    /// packet that an interface sends before it asks the filter, and this avoids the copy. Then DNS
    /// answers, refusals of calls, and calls that arrive are not seen.
    pub pod_sends_only: bool,
}

impl Default for HandleConfig {
    fn default() -> Self {
        Self {
            sample: 32,
            snap_bytes: 2_048,
            ring_bytes: 128 * 1024,
            block_timeout_millis: 100,
            pod_sends_only: false,
        }
    }
}

/// Why an interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The right to capture is missing.
    #[error("capturing on {0} needs the capability CAP_NET_RAW")]
    Rights(String),
    /// It is gone, or not up. That is no fault.
    #[error("the interface {0} is gone or down")]
    Gone(String),
    /// The process or the system has no descriptor or memory for another handle.
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
    /// libpcap refuses for a reason that the kernel does not confirm.
    #[error("cannot capture on {name}: {source}")]
    Libpcap {
        /// Name of the interface.
        name: String,
        /// What libpcap says.
        source: Error,
    },
    /// Its link type is not supported.
    #[error("cannot capture on {name}: its link type {number} is not read")]
    LinkType {
        /// Name of the interface.
        name: String,
        /// Number of the link type (DLT_…).
        number: i32,
    },
}

/// Result of reading a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleRead {
    /// There are no more frames now.
    Empty,
    /// There may be more frames.
    More,
    /// The interface is gone or down.
    Gone,
    /// Reading failed, for this reason.
    Failed(String),
}

/// Number of packets that the kernel or the device dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedPackets {
    /// Dropped by the kernel, because the ring was full.
    pub ring: u64,
    /// Dropped by the device.
    pub interface: u64,
}

impl DroppedPackets {
    /// Adds the difference of two counts of the same handle, and returns it.
    pub(super) fn add(&mut self, before: Self, now: Self) -> u64 {
        let ring = now.ring.saturating_sub(before.ring);
        let interface = now.interface.saturating_sub(before.interface);
        self.ring += ring;
        self.interface += interface;
        ring + interface
    }
}

/// Name of the handle for all interfaces.
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
    /// It leads to a pod, so that the direction of a packet identifies the sender.
    of_pod: bool,
    datagrams: DatagramRule,
}

impl Handle {
    /// Opens an interface, or all of them with [`ANY`] and index 0. Then each packet carries the
    /// index of its interface. An interface leads to a pod, unless a default route leads through
    /// it. What the interface of a pod receives, the pod has sent.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(name: &str, index: u32, settings: &HandleConfig) -> Result<Self, OpenError> {
        if name != ANY
            && let Some(handle) = Self::open_ring(name, index, settings)?
        {
            return Ok(handle);
        }
        Self::open_libpcap(name, index, settings)
    }

    /// Opens an interface with a ring of this crate. `None` where it is no Ethernet device.
    fn open_ring(
        name: &str,
        index: u32,
        settings: &HandleConfig,
    ) -> Result<Option<Self>, OpenError> {
        let of_pod = !uplink::leads_to_other_hosts(name);
        let filter = match of_pod {
            true => pod_filter_config(settings, DatagramRule::All),
            false => filter_config(settings),
        };
        let ring = Ring::open(
            index,
            settings.ring_bytes,
            settings.block_timeout_millis,
            of_pod && settings.pod_sends_only,
            &filter::program(FilterLink::Ethernet, &filter),
        );
        let ring = ring.map_err(|e| refused(name, e))?;
        Ok(ring.map(|ring| Self {
            source: HandleSource::Ring(ring),
            name: name.to_owned(),
            id: InterfaceId { source: 0, index },
            link: LinkType::ETHERNET,
            of_pod,
            datagrams: filter.datagrams,
        }))
    }

    fn open_libpcap(name: &str, index: u32, settings: &HandleConfig) -> Result<Self, OpenError> {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let fail = |e| refused_by_libpcap(name, index, e);
        let inactive = Capture::from_device(name)
            .map_err(fail)?
            .snaplen(number(settings.snap_bytes))
            .buffer_size(number(settings.ring_bytes.max(MIN_RING_BYTES)))
            .timeout(number(settings.block_timeout_millis))
            .promisc(false)
            .immediate_mode(false)
            .precision(Precision::Nano);
        let mut capture = inactive.open().map_err(fail)?.setnonblock().map_err(fail)?;
        if name == ANY {
            capture.set_datalink(Linktype(i32::from(LinkType::LINUX_SLL2.0))).map_err(fail)?;
        }
        let number = capture.get_datalink().0;
        let link = u16::try_from(number).map_or(LinkType(u16::MAX), LinkType);
        let start = match link {
            LinkType::ETHERNET => FilterLink::Ethernet,
            LinkType::RAW | LinkType::RAW_DLT => FilterLink::RawIp,
            LinkType::LINUX_SLL2 => FilterLink::Cooked,
            _ => return Err(OpenError::LinkType { name: name.to_owned(), number }),
        };
        // SAFETY: the descriptor belongs to `capture`, which outlives this borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(capture.as_raw_fd()) };
        filter::attach(socket, &filter::program(start, &filter_config(settings)))
            .map_err(|e| refused(name, e))?;
        Ok(Self {
            source: HandleSource::Libpcap(capture),
            name: name.to_owned(),
            id: InterfaceId { source: 0, index },
            link,
            of_pod: false,
            datagrams: DatagramRule::Sampled,
        })
    }

    /// Which datagrams that its pod sends are passed.
    pub(crate) fn datagrams(&self) -> DatagramRule {
        self.datagrams
    }

    /// Changes which datagrams that its pod sends are passed. `settings`: those that it was opened
    /// with.
    ///
    /// # Errors
    /// When the kernel refuses. Then the rule stays.
    pub(crate) fn set_datagrams(
        &mut self,
        datagrams: DatagramRule,
        settings: &HandleConfig,
    ) -> io::Result<()> {
        let program =
            filter::program(FilterLink::Ethernet, &pod_filter_config(settings, datagrams));
        // SAFETY: the descriptor belongs to this handle, which outlives the borrow.
        filter::attach(unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }, &program)?;
        self.datagrams = datagrams;
        Ok(())
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its identity, with index 0 for [`ANY`].
    pub fn id(&self) -> InterfaceId {
        self.id
    }

    /// The descriptor to wait on.
    pub(crate) fn raw_fd(&self) -> std::os::fd::RawFd {
        match &self.source {
            HandleSource::Ring(ring) => ring.raw_fd(),
            HandleSource::Libpcap(capture) => capture.as_raw_fd(),
        }
    }

    /// Makes the kernel add no more packets. Those that are there can be read.
    ///
    /// # Errors
    /// When the kernel refuses. Then it continues to add packets.
    pub(crate) fn close_to_packets(&self) -> io::Result<()> {
        // SAFETY: the descriptor belongs to this handle, which outlives the borrow.
        filter::attach(unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }, &filter::nothing())
    }

    /// Passes frames that are there to `sink`, about `limit` of them.
    pub fn read(&mut self, limit: usize, sink: &mut impl FnMut(Frame<'_>)) -> HandleRead {
        let (interface, link, of_pod) = (self.id, self.link, self.of_pod);
        match &mut self.source {
            HandleSource::Ring(ring) => read_ring(ring, limit, &mut |packet| {
                let direction = if of_pod { packet.direction } else { Direction::Unknown };
                sink(Frame {
                    time: packet.time,
                    interface,
                    link,
                    direction,
                    wire_len: packet.wire_len,
                    data: packet.data,
                });
            }),
            HandleSource::Libpcap(capture) => {
                read_libpcap(capture, interface.index, limit, |packet| {
                    let ts = packet.header.ts;
                    sink(Frame {
                        // With Precision::Nano the field for microseconds contains nanoseconds.
                        time: ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_usec),
                        interface,
                        link,
                        direction: Direction::Unknown,
                        wire_len: packet.header.len,
                        data: packet.data,
                    });
                })
            }
        }
    }

    /// Whether packets were dropped since the last call of [`Handle::dropped`], as far as the
    /// blocks that were read show it.
    pub(crate) fn is_losing(&self) -> bool {
        matches!(&self.source, HandleSource::Ring(ring) if ring.is_losing())
    }

    /// Packets dropped since it was opened. `None` where the kernel does not return it.
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

fn read_ring(ring: &mut Ring, limit: usize, sink: &mut impl FnMut(RingPacket<'_>)) -> HandleRead {
    match ring.read(limit, sink) {
        Ok(seen) if seen >= limit => HandleRead::More,
        Ok(_) => HandleRead::Empty,
        Err(e) if is_gone(&e) => HandleRead::Gone,
        Err(e) => HandleRead::Failed(e.to_string()),
    }
}

fn read_libpcap(
    capture: &mut Capture<Active>,
    index: u32,
    limit: usize,
    mut sink: impl FnMut(Packet<'_>),
) -> HandleRead {
    let mut seen = 0;
    let result = capture.dispatch(Some(limit), |packet| {
        seen += 1;
        sink(packet);
    });
    match result {
        Ok(_) | Err(Error::TimeoutExpired) if seen >= limit => HandleRead::More,
        Ok(_) | Err(Error::TimeoutExpired | Error::NoMorePackets) => HandleRead::Empty,
        // libpcap has taken the errno from the socket, and returns it as text only.
        Err(_) if ring::probe(index).is_err_and(|e| is_gone(&e)) => HandleRead::Gone,
        Err(e) => HandleRead::Failed(e.to_string()),
    }
}

/// The filter for an interface that leads to no pod.
fn filter_config(settings: &HandleConfig) -> FilterConfig {
    FilterConfig {
        sample: settings.sample,
        snap_bytes: settings.snap_bytes,
        sampled_snap_bytes: settings.snap_bytes.min(SAMPLED_SNAP_BYTES),
        always_ports: Vec::new(),
        datagrams: DatagramRule::Sampled,
        callers_only: false,
    }
}

/// The filter for the interface of a pod.
fn pod_filter_config(settings: &HandleConfig, datagrams: DatagramRule) -> FilterConfig {
    FilterConfig { datagrams, callers_only: true, ..filter_config(settings) }
}

/// Whether an error of the kernel means that an interface is gone or down.
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

/// libpcap returns the reason as text only, which changes with its version and the language of the
/// system. So the same is tried without libpcap, which gives an errno.
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
    }

    #[test]
    fn the_error_of_the_kernel_is_the_source_of_a_refusal() {
        let error = refused("veth0", io::Error::from_raw_os_error(libc::EMFILE));
        assert!(
            std::error::Error::source(&error).is_some(),
            "the error of the kernel is its source"
        );
    }

    /// An interface may have a name with these words.
    #[test]
    fn the_words_of_a_message_do_not_decide() {
        for why in ["permission", "Too many open files", "No such device", "went down"] {
            let source = io::Error::other(why);
            assert!(matches!(refused("veth0", source), OpenError::Refused { .. }), "{why}");
        }
    }

    /// With the right to capture, a missing interface is gone. Without it, the right is missing.
    #[test]
    fn the_kernel_gives_the_cause_of_a_refusal_of_libpcap() {
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
