//! Packets in, observations out.
//!
//! It reads captures (libpcap, pcapng, compressed or piped), decodes frames without allocation, and
//! follows connections in a bounded table on packet time. It also reads the names that packets
//! show: DNS answers, the ClientHello of TLS, and the authority of HTTP requests. It depends on no
//! other package of the project. It must never contain anything of Kubernetes, an async runtime, or
//! a database.
//!
//! Capturing on the interfaces of a node (module `live`) works on Linux only. It is a cargo
//! feature, on by default. Without it, all dependencies work on other systems too.
//!
//! ```text
//! source ─► FrameBatch ─► decode ─► Segment ─► flow ─► Observation
//!                            names: dns, tls, http ─┘     └─ meter composes
//! ```
//!
//! A capture in, its connections out:
//!
//! ```
//! use sidecarta_capture::frame::FrameBatch;
//! use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
//! use sidecarta_capture::observation::Observation;
//! use sidecarta_capture::source::CaptureReader;
//!
//! let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/q-formats/micro.pcap");
//! let mut reader = CaptureReader::open(&[capture.into()]);
//! let mut meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
//!
//! let mut connections = 0;
//! let mut sink = |observation| {
//!     if let Observation::Connection(connection) = observation {
//!         assert!(connection.first <= connection.last);
//!         connections += 1;
//!     }
//! };
//! let mut batch = FrameBatch::default();
//! while reader.next_batch(&mut batch) {
//!     meter.batch(&batch, &mut sink);
//! }
//! meter.finish(&mut sink);
//!
//! assert!(reader.errors().is_empty());
//! assert!(connections > 0);
//! assert_eq!(meter.counters().evicted_flows, 0);
//! ```
//!
//! `examples/read.rs` prints them.

#![warn(unreachable_pub)]

mod bytes;
pub mod decode;
pub mod dns;
pub mod flow;
pub mod frame;
pub mod http;
mod interfaces;
// Only the filter in the kernel needs some of it.
#[cfg_attr(not(feature = "live"), allow(dead_code))]
mod layout;
#[cfg(feature = "live")]
pub mod live;
pub mod loss;
pub mod meter;
pub mod observation;
mod owners;
mod skim;
pub mod source;
pub mod tls;
mod tunnel;
