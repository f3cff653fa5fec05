//! How much memory a batch takes.
//!
//! Owns the estimate: the sizes of the structures, their text, and what the allocator adds. Unused
//! capacity of the long lists is not counted, because the program never touches that memory. Must
//! never depend on what the fields mean.

use std::mem::size_of;

use super::{AskedName, Edge, Observed, Opening, WatchedInterface};
use crate::{Labels, Pod, Span, Spans};

/// A leaf of a B-tree has room for 11 entries, and is there for the first one.
const LEAF: usize = 11;

/// Bytes that the allocator takes for a block of memory: the allocator (glibc, 64 bits) adds 8,
/// gives multiples of 16, and 32 at least.
fn block(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

/// A short list has room for four, and for a power of two.
fn list<T>(n: usize) -> usize {
    if n == 0 { 0 } else { block(n.next_power_of_two().max(4) * size_of::<T>()) }
}

fn map<K, V>(n: usize) -> usize {
    // Half of the room of a leaf can be empty, where there are several.
    let leaves = if n <= LEAF { n.min(1) } else { n.div_ceil(LEAF / 2) };
    leaves * block(LEAF * (size_of::<K>() + size_of::<V>()) + 16)
}

fn labels(labels: &Labels) -> usize {
    let text: usize = labels.iter().map(|(k, v)| block(k.len()) + block(v.len())).sum();
    block(size_of::<usize>() * 5) + map::<String, String>(labels.len()) + text
}

fn spans(spans: &Spans) -> usize {
    list::<Span>(spans.0.len())
}

/// Of a pod in [`Observed::pods`], in bytes.
pub(crate) fn pod(pod: &Pod) -> usize {
    let w = &pod.workload;
    let words = [&w.namespace, &w.kind, &w.name].map(|s| block(s.len()));
    let shared = [pod.name.len(), pod.uid.len(), pod.node.len()].map(|n| block(n + 16));
    size_of::<Pod>()
        + words.iter().chain(&shared).sum::<usize>()
        + labels(&pod.labels)
        + labels(&pod.selector)
        + block(pod.addresses.len() * size_of::<std::net::IpAddr>() + 16)
        + pod.capture.footprint()
}

/// Of an edge in [`Observed::edges`], in bytes.
pub(crate) fn edge(edge: &Edge) -> usize {
    size_of::<Edge>()
        + list::<String>(edge.call.dns.len())
        + list::<Opening>(edge.openings.len())
        + edge.call.names().map(|name| block(name.len())).sum::<usize>()
}

/// Of a name in [`Observed::asked`], in bytes.
pub(crate) fn asked(asked: &AskedName) -> usize {
    size_of::<AskedName>() + block(asked.question.len())
}

/// Of an entry of [`Observed::watching`], in bytes.
pub(crate) fn watching(watching: &WatchedInterface) -> usize {
    let domains = &watching.folded.domains;
    size_of::<WatchedInterface>()
        + spans(&watching.spans)
        + map::<std::net::IpAddr, ()>(watching.ownership.claimed.len())
        + map::<String, u64>(domains.len())
        + domains.keys().map(|d| block(d.len())).sum::<usize>()
}

impl Observed {
    /// How many bytes of memory it takes, or a little less.
    pub fn footprint(&self) -> usize {
        self.head_footprint()
            + self.pods.iter().map(pod).sum::<usize>()
            + self.edges.iter().map(edge).sum::<usize>()
            + self.asked.iter().map(asked).sum::<usize>()
            + self.watching.iter().map(watching).sum::<usize>()
    }

    /// The part of [`Observed::footprint`] that its first line makes.
    pub(crate) fn head_footprint(&self) -> usize {
        size_of::<Self>()
            + block(self.id.source.len())
            + block(self.node.len())
            + spans(&self.spans)
            + map::<String, u64>(self.counters.len())
            + self.counters.keys().map(|k| block(k.len())).sum::<usize>()
    }
}
