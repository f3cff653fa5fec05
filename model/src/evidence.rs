//! By which evidence a destination was resolved, with examples that a person can find in the
//! capture.
//!
//! Owns the grades and their order. Must never resolve a destination.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Merge, Tally, Time};

/// Grade of evidence, strongest first (the order of the enum is the order of every report).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// The client's Envoy named the Service in its ClientHello: `outbound_.PORT_.SUBSET_.HOST`.
    IstioSni,
    /// A ClientHello of the application named the host.
    Sni,
    /// A DNS answer gave this address to this client, then the client connected to it.
    DnsAnswer,
    /// The HTTP request head named the host.
    HttpAuthority,
    /// The address on the wire is the Service's own.
    ServiceAddress,
    /// The address is an endpoint of exactly one Service.
    Endpoint,
    /// The address is an endpoint of several Services.
    EndpointOfSeveral,
    /// The address alone: outside the cluster, a pod outside any Service, or unknown.
    Address,
    /// Imported from a log or from Prometheus.
    Imported,
}

impl Grade {
    /// The grade in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::IstioSni => "Istio SNI",
            Self::Sni => "TLS server name",
            Self::DnsAnswer => "DNS answer, then connection",
            Self::HttpAuthority => "HTTP authority",
            Self::ServiceAddress => "the Service's own address",
            Self::Endpoint => "pod endpoint of one Service",
            Self::EndpointOfSeveral => "pod endpoint of several Services",
            Self::Address => "address only",
            Self::Imported => "imported",
        }
    }
}

/// A connection that a person can find in the capture.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Example {
    /// Time of its first packet.
    pub time: Time,
    /// Address and port of the initiator.
    pub from: SocketAddr,
    /// Responder on the wire.
    pub to: SocketAddr,
    /// The name that was the evidence, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Examples that are stored per grade: the two earliest and the latest.
const EXAMPLES: usize = 3;

/// The evidence of one grade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EvidenceFields")]
pub struct Evidence {
    /// How often, first and last time.
    #[serde(flatten)]
    pub tally: Tally,
    /// The two earliest and the latest connection.
    pub examples: Vec<Example>,
}

/// The fields of evidence as they are read. Reading is quicker without a flattened field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EvidenceFields {
    connections: u64,
    first_seen: Time,
    last_seen: Time,
    examples: Vec<Example>,
}

impl From<EvidenceFields> for Evidence {
    fn from(
        EvidenceFields { connections, first_seen, last_seen, examples }: EvidenceFields,
    ) -> Self {
        Self { tally: Tally { connections, first_seen, last_seen }, examples }
    }
}

impl Merge for Evidence {
    fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
        self.examples.extend(other.examples.iter().cloned());
        self.examples.sort();
        self.examples.dedup();
        // "First two and last of the union" can be computed from the same of the parts, so this is
        // associative.
        if self.examples.len() > EXAMPLES {
            self.examples.drain(EXAMPLES - 1..self.examples.len() - 1);
        }
    }
}
