//! A meter and packets for it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where
#![allow(dead_code)] // each test file uses a part of it

use sidecarta_capture::frame::{Direction, Frame, LinkType};
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{Connection, InterfaceId, Observation};
use sidecarta_testkit::frame::Tcp;

pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds for which a name is awaited.
const PATIENCE: i64 = 2 * SECOND;

pub type Ip = [u8; 4];
pub const WEB: Ip = [10, 244, 1, 10];
pub const CART: Ip = [10, 244, 1, 11];
/// Address of the Service in front of [`CART`].
pub const SERVICE: Ip = [10, 96, 0, 11];

/// A meter, and the connections that it has reported.
pub struct Wire {
    pub meter: Meter,
    pub reported: Vec<Connection>,
}

/// A TCP segment without its addresses.
#[derive(Clone, Copy, Default)]
pub struct Packet<'a> {
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub payload: &'a [u8],
    /// Bytes of the payload that the snap length cut.
    pub cut: usize,
    pub interface: u32,
    pub direction: Direction,
}

impl Packet<'_> {
    /// As an Ethernet frame.
    pub fn bytes(&self, from: (Ip, u16), to: (Ip, u16)) -> Vec<u8> {
        let tcp =
            Tcp { seq: self.seq, ack: self.ack, syn: self.syn, payload: self.payload, psh: false };
        let mut data = tcp.frame(from, to);
        data.truncate(data.len() - self.cut);
        data
    }
}

impl Wire {
    /// A meter of a source that does not end.
    pub fn new() -> Self {
        Self::listening_on([])
    }

    /// A meter of a source that does not end, with these listening ports.
    pub fn listening_on<const N: usize>(ports: [u16; N]) -> Self {
        let known = ListeningPorts { ports: ports.into(), ..ListeningPorts::default() };
        Self::with(FlowConfig { live: true, ..FlowConfig::default() }, known)
    }

    /// A meter of captures.
    pub fn replay() -> Self {
        Self::with(FlowConfig::default(), ListeningPorts::default())
    }

    pub fn with(config: FlowConfig, known: ListeningPorts) -> Self {
        Self { meter: Meter::new(config, known), reported: Vec::new() }
    }

    pub fn packet(&mut self, time: i64, from: (Ip, u16), to: (Ip, u16), p: Packet<'_>) {
        self.take(time, LinkType::ETHERNET, &p.bytes(from, to), p.interface, p.direction);
    }

    /// A packet without a link layer.
    pub fn frame(&mut self, time: i64, data: &[u8], interface: u32, direction: Direction) {
        self.take(time, LinkType::RAW, data, interface, direction);
    }

    /// An Ethernet frame.
    pub fn ethernet(&mut self, time: i64, data: &[u8]) {
        self.take(time, LinkType::ETHERNET, data, 0, Direction::Unknown);
    }

    fn take(
        &mut self,
        time: i64,
        link: LinkType,
        data: &[u8],
        interface: u32,
        direction: Direction,
    ) {
        let interface = InterfaceId { source: 0, index: interface };
        let frame = Frame { time, interface, link, direction, wire_len: data.len() as u32, data };
        let reported = &mut self.reported;
        self.meter.frame(&frame, &mut |o| reported.extend(connection(o)));
    }

    /// SYN, SYN-ACK, and a request.
    pub fn call(&mut self, time: i64, port: u16) {
        let (web, cart) = ((WEB, port), (CART, 8080));
        self.packet(time, web, cart, Packet { seq: 7, syn: true, ..Packet::default() });
        self.packet(
            time + 1,
            cart,
            web,
            Packet { seq: 70, ack: Some(8), syn: true, ..Packet::default() },
        );
        self.request(time + 2, port);
    }

    pub fn request(&mut self, time: i64, port: u16) {
        let payload = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
        self.packet(
            time,
            (WEB, port),
            (CART, 8080),
            Packet { seq: 8, ack: Some(71), payload, ..Packet::default() },
        );
    }

    /// Reports of a tick.
    pub fn report_fresh(&mut self, now: i64) -> Vec<Connection> {
        let reported = &mut self.reported;
        self.meter.report_fresh(now, PATIENCE, &mut |o| reported.extend(connection(o)));
        std::mem::take(reported)
    }

    pub fn report_changed(&mut self, now: i64) -> Vec<Connection> {
        let reported = &mut self.reported;
        self.meter.report_changed(now, &mut |o| reported.extend(connection(o)));
        std::mem::take(reported)
    }

    pub fn finish(&mut self) -> Vec<Connection> {
        let reported = &mut self.reported;
        self.meter.finish(&mut |o| reported.extend(connection(o)));
        std::mem::take(reported)
    }
}

pub fn connection(o: Observation) -> Option<Connection> {
    match o {
        Observation::Connection(c) => Some(c),
        _ => None,
    }
}

/// Initiator ports of the connections that were reported for the first time.
pub fn new(reported: &[Connection]) -> Vec<u16> {
    reported.iter().filter(|c| c.is_new).map(|c| c.initiator.port()).collect()
}
