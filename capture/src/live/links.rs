//! Network interfaces, as netlink lists and changes them (rtnetlink(7)).
//!
//! Owns the list of interfaces, and the rule which of them lead to a pod. Must never open an
//! interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Multicast group of link changes (`RTNLGRP_LINK`, include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
/// Longest message that is read, in bytes. The kernel fills dumps up to 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel's buffer for changes that were not read yet, in bytes. A node that starts a hundred
/// pods at a time sends some thousand messages.
const KERNEL_BUFFER_BYTES: i32 = 1024 * 1024;

// Messages (include/uapi/linux/rtnetlink.h) and attributes (include/uapi/linux/if_link.h).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// Bytes of `struct ifinfomsg`, which attributes follow.
const HEADER_BYTES: usize = 16;

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Index that the kernel gives the interface in this network namespace.
    pub index: u32,
    /// Name of the interface.
    pub name: String,
    /// It is a veth or netkit device whose peer is in another network namespace. That is so for the
    /// interfaces of pods.
    pub leads_elsewhere: bool,
    /// It is up (`IFF_UP`). Before that it cannot be opened.
    pub up: bool,
}

/// A change of the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkChange {
    /// This interface is there, new or changed.
    Present(Link),
    /// The interface with this index is gone.
    Removed(u32),
    /// All interfaces were listed since [`Links::list`]. Others are gone.
    Listed,
    /// The kernel dropped messages. They must be listed again.
    Lost,
}

/// A subscription to changes of interfaces.
pub(super) struct Links {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Links {
    /// Subscribes. Needs no privilege.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP_LINK)?;
        socket.set_non_blocking(true)?;
        // A smaller buffer still works. After an overflow, all interfaces are listed again.
        let _ = socket.set_rx_buf_sz(KERNEL_BUFFER_BYTES);
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_BYTES), sequence: 0 })
    }

    /// Requests a list of all interfaces. They come as changes, between those that happen
    /// meanwhile.
    ///
    /// # Errors
    /// When the kernel refuses the request.
    pub(super) fn list(&mut self) -> io::Result<()> {
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

    /// Reads all changes so far, without waiting.
    ///
    /// # Errors
    /// When the socket fails. Dropped messages are no error but [`LinkChange::Lost`].
    pub(super) fn read(&mut self, sink: &mut impl FnMut(LinkChange)) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    sink(LinkChange::Lost);
                    continue;
                }
                Err(e) => return Err(e),
            }
            let mut rest = &self.buffer[..];
            while let Some((length, next)) = split(rest) {
                if let Ok(message) = NetlinkMessage::<LinkMessageKind>::deserialize(&rest[..length])
                {
                    self.message(message, sink);
                }
                rest = next;
            }
        }
    }

    fn message(&self, message: NetlinkMessage<LinkMessageKind>, sink: &mut impl FnMut(LinkChange)) {
        match message.payload {
            NetlinkPayload::InnerMessage(LinkMessageKind::New(link)) => {
                sink(LinkChange::Present(link))
            }
            NetlinkPayload::InnerMessage(LinkMessageKind::Gone(index)) => {
                sink(LinkChange::Removed(index))
            }
            NetlinkPayload::Done(_) if message.header.sequence_number == self.sequence => {
                sink(LinkChange::Listed)
            }
            // The list was interrupted by changes (NLM_F_DUMP_INTR) or refused.
            NetlinkPayload::Error(e) if e.code.is_some() => sink(LinkChange::Lost),
            _ => {}
        }
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Length of the first message, and the bytes after it, from the next multiple of four on.
pub(super) fn split(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length < 16 || length > bytes.len() {
        return None;
    }
    Some((length, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// A message about links. Only the attributes are read that show where a link leads. A parser of
/// all attributes would fail where a newer kernel has changed one, and the interface would be
/// missed silently.
enum LinkMessageKind {
    New(Link),
    Gone(u32),
    Other,
}

impl NetlinkDeserializable for LinkMessageKind {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            RTM_NEWLINK => Ok(link(payload)?.map_or(Self::Other, Self::New)),
            RTM_DELLINK => Ok(Self::Gone(LinkHeader::parse(payload)?.index)),
            _ => Ok(Self::Other),
        }
    }
}

fn link(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let (mut name, mut elsewhere, mut pair) = (None, false, false);
    for attribute in NlasIterator::new(payload.get(HEADER_BYTES..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            IFLA_IFNAME => {
                name = Some(String::from_utf8_lossy(word(attribute.value())).into_owned())
            }
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => {
                for info in NlasIterator::new(attribute.value()) {
                    let info = info?;
                    pair |= info.kind() == IFLA_INFO_KIND
                        && matches!(word(info.value()), b"veth" | b"netkit");
                }
            }
            _ => {}
        }
    }
    let up = header.flags.contains(LinkFlags::Up);
    Ok(name.map(|name| Link { index: header.index, name, leads_elsewhere: pair && elsewhere, up }))
}

/// A string as the kernel ends it.
fn word(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute (`struct nlattr`, include/uapi/linux/netlink.h), padded.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A message of the kernel about a link: `struct ifinfomsg`, its name, where its peer is, and
    /// its kind with the attributes of that kind.
    fn deserialized(elsewhere: bool, kind: &[u8], data: &[u8]) -> Option<Link> {
        let info = attribute(18, &[attribute(1, kind), attribute(2, data)].concat());
        let peer = if elsewhere { attribute(37, &0i32.to_ne_bytes()) } else { Vec::new() };
        let mut body = [0u8, 0, 1, 0].to_vec();
        body.extend(7i32.to_ne_bytes());
        body.extend([1u32.to_ne_bytes(), [0; 4]].concat());
        body.extend([attribute(3, b"lxc1\0"), peer, info].concat());
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend([16u16.to_ne_bytes(), [0; 2]].concat());
        bytes.extend([0; 8]);
        bytes.extend(body);
        match NetlinkMessage::<LinkMessageKind>::deserialize(&bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(LinkMessageKind::New(link)) => Some(link),
            _ => None,
        }
    }

    /// The attributes that `netkit_fill_info` (drivers/net/netkit.c) writes for a primary device in
    /// L3 mode, with those of the newest kernels: primary, policy, mode, scrub, headroom, tailroom,
    /// the peer's policy and scrub. The last one is unknown to every parser.
    fn netkit() -> Vec<u8> {
        let number = |kind, n: u32| attribute(kind, &n.to_ne_bytes());
        let all = [
            attribute(2, &[1]),
            number(3, 0),
            number(5, 1),
            number(6, 1),
            number(4, 2),
            number(7, 0),
            number(99, 1),
        ];
        let room = [attribute(8, &0u16.to_ne_bytes()), attribute(9, &0u16.to_ne_bytes())];
        [all.concat(), room.concat()].concat()
    }

    #[test]
    fn a_pair_with_its_other_end_in_another_namespace_leads_to_a_pod() {
        let link = Link { index: 7, name: "lxc1".to_owned(), leads_elsewhere: true, up: true };
        assert_eq!(deserialized(true, b"veth\0", b"").unwrap(), link);
        assert_eq!(deserialized(true, b"netkit\0", &netkit()).unwrap(), link);
        assert_eq!(
            deserialized(true, b"netkit\0", b"\x03\0").unwrap(),
            link,
            "with any attributes of its kind"
        );
    }

    #[test]
    fn other_devices_lead_to_no_pod() {
        for (elsewhere, kind) in
            [(false, &b"veth\0"[..]), (false, b"netkit\0"), (true, b"vlan\0"), (true, b"macvlan\0")]
        {
            let link = deserialized(elsewhere, kind, b"").unwrap();
            assert!(!link.leads_elsewhere, "{kind:?}");
        }
    }
}
