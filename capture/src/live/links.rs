//! Network interfaces, followed by netlink (rtnetlink(7)).
//!
//! Owns the list of interfaces and what makes one that of a pod. Must never open an interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Multicast group of link changes (`RTNLGRP_LINK`, include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
/// Longest message read at once. The kernel fills dumps up to 32 KiB.
const BUFFER: usize = 64 * 1024;
/// The kernel's buffer for changes not read yet: a node that starts a hundred pods at once sends some thousand messages.
const KERNEL_BUFFER: i32 = 1024 * 1024;

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// It leads to another network namespace: a veth or netkit device whose peer is elsewhere. The peer of a pod's is.
    pub leads_elsewhere: bool,
    /// It is up (`IFF_UP`): before that it cannot be opened.
    pub up: bool,
}

/// What happened to the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, new or changed.
    There(Link),
    /// It is gone.
    Gone(u32),
    /// All that are there have been told since [`Links::list`]: what was not is gone.
    Listed,
    /// The kernel dropped messages: list again.
    Lost,
}

/// A subscription to changes of interfaces.
pub struct Links {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Links {
    /// Subscribes. Needs no privilege.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP_LINK)?;
        socket.set_non_blocking(true)?;
        // A smaller buffer still works: what overflows is told, and listed again.
        let _ = socket.set_rx_buf_sz(KERNEL_BUFFER);
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), sequence: 0 })
    }

    /// Asks for all interfaces. They come as changes, among those that happen meanwhile.
    ///
    /// # Errors
    /// When the kernel does not take the request.
    pub fn list(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Reads what has happened, without waiting.
    ///
    /// # Errors
    /// When the socket fails; what the kernel dropped is no error but [`Change::Lost`].
    pub fn read(&mut self, sink: &mut impl FnMut(Change)) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    sink(Change::Lost);
                    continue;
                }
                Err(e) => return Err(e),
            }
            let mut rest = &self.buffer[..];
            while let Some((length, next)) = split(rest) {
                // A message that cannot be read is of a kernel newer than the parser: the list tells the rest.
                if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
                    self.message(message, sink);
                }
                rest = next;
            }
        }
    }

    fn message(&self, message: NetlinkMessage<RouteNetlinkMessage>, sink: &mut impl FnMut(Change)) {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                if let Some(link) = read(&link) {
                    sink(Change::There(link));
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => sink(Change::Gone(link.header.index)),
            NetlinkPayload::Done(_) if message.header.sequence_number == self.sequence => sink(Change::Listed),
            // The list was interrupted by changes (NLM_F_DUMP_INTR) or refused.
            NetlinkPayload::Error(e) if e.code.is_some() => sink(Change::Lost),
            _ => {}
        }
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Length of the first message, and what follows it at the next multiple of four.
fn split(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length < 16 || length > bytes.len() {
        return None;
    }
    Some((length, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn read(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut elsewhere, mut pair) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name = Some(n.clone()),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                pair |= infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit)));
            }
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        leads_elsewhere: pair && elsewhere,
        up: message.header.flags.contains(LinkFlags::Up),
    })
}
