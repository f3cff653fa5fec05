//! Every counter that a [`Source`](super::Source) can have: its name, its unit, who counts it, and
//! whether it is a loss.
//!
//! Owns the definitions. What "nothing was lost" means follows from them, and so do the names that
//! a batch may carry. Must never count.

use std::fmt;

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CounterUnit {
    /// Packets.
    Packets,
    /// Bytes of packets.
    Bytes,
    /// Connections.
    Connections,
    /// DNS lookups.
    Lookups,
    /// Interfaces, or changes of them.
    Interfaces,
    /// Lines of batches: an edge, a name asked for, or a watched interface.
    Lines,
    /// Captures.
    Captures,
    /// Observations of any kind.
    Observations,
    /// Occurrences.
    Times,
}

impl fmt::Display for CounterUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Connections => "connections",
            Self::Lookups => "look-ups",
            Self::Interfaces => "interfaces",
            Self::Lines => "lines",
            Self::Captures => "captures",
            Self::Observations => "observations",
            Self::Times => "times",
        })
    }
}

/// Which part of the program counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountedBy {
    /// The capture layer.
    Capture,
    /// An agent: collecting, attribution, gathering. A replay counts the same.
    Agent,
    /// Learning: resolving what an agent or a capture shows.
    Learning,
    /// The check of a batch. No batch may carry it.
    Checking,
}

/// The definition of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name, as it is stored and shown.
    pub name: &'static str,
    /// The unit of one step of it.
    pub unit: CounterUnit,
    /// The program that raises it.
    pub by: CountedBy,
    /// Whether something may not have been learned because of it.
    pub is_loss: bool,
}

macro_rules! counters {
    ($(
        $(#[doc = $doc:literal])+
        $id:ident = $name:literal, $unit:ident, $by:ident, $loss:ident;
    )+) => {
        $($(#[doc = $doc])+ pub const $id: &str = $name;)+

        /// All counters, in the order of their definition.
        pub const ALL: &[Counter] = &[$(Counter {
            name: $name,
            unit: CounterUnit::$unit,
            by: CountedBy::$by,
            is_loss: counters!(@ $loss),
        }),+];
    };
    (@ loss) => { true };
    (@ fact) => { false };
}

counters! {
    /// Packets read.
    PACKETS = "packets", Packets, Capture, fact;
    /// Bytes of packet data read.
    BYTES = "bytes", Bytes, Capture, fact;
    /// TCP, UDP and SCTP packets that were used.
    USED = "used", Packets, Capture, fact;
    /// Not IP.
    NOT_IP = "not-ip", Packets, Capture, fact;
    /// IP, but no TCP, UDP or SCTP.
    OTHER_TRANSPORT = "other-transport", Packets, Capture, fact;
    /// IP fragments after the first.
    LATER_FRAGMENTS = "later-fragments", Packets, Capture, fact;
    /// Found in packets of a tunnel: VXLAN, Geneve, GRE, IP in IP.
    UNWRAPPED = "unwrapped", Packets, Capture, fact;
    /// Of a tunnel that only its ends can read: WireGuard, ESP.
    ENCRYPTED_TUNNEL = "encrypted-tunnel", Packets, Capture, fact;
    /// Link layer unknown or cut.
    BAD_LINK = "bad-link", Packets, Capture, loss;
    /// Network header cut or malformed.
    BAD_NETWORK = "bad-network", Packets, Capture, loss;
    /// Transport header cut or malformed.
    BAD_TRANSPORT = "bad-transport", Packets, Capture, loss;
    /// Link type that is not read.
    UNKNOWN_LINK_TYPE = "unknown-link-type", Packets, Capture, loss;
    /// Payload that was cut where a name might be in it.
    CUT_PAYLOAD = "cut-payload", Packets, Capture, loss;
    /// Multicast, broadcast, loopback and unspecified addresses.
    NOT_UNICAST = "not-unicast", Packets, Capture, fact;
    /// DNS messages that could not be read.
    BAD_DNS = "bad-dns", Packets, Capture, loss;
    /// Connections whose ClientHello or request head never completed.
    INCOMPLETE_HEAD = "incomplete-head", Connections, Capture, loss;
    /// Later requests for hosts that there was no room to remember.
    DROPPED_AUTHORITIES = "dropped-authorities", Connections, Capture, loss;
    /// Connections forgotten because the flow table was full.
    EVICTED_FLOWS = "evicted-flows", Connections, Capture, loss;
    /// Connections whose head was not joined because too many others were being joined.
    EVICTED_HEADS = "evicted-heads", Connections, Capture, loss;
    /// DNS answers that there was no room to remember.
    EVICTED_ANSWERS = "evicted-answers", Lookups, Capture, loss;
    /// Interfaces whose totals there was no room to store.
    EVICTED_INTERFACES = "evicted-interfaces", Interfaces, Capture, loss;
    /// Connections seen only where they arrive, of pods that other agents watch.
    ARRIVING = "arriving-connections", Connections, Capture, fact;
    /// Packets that a pod sent with an address that is not its own.
    FORGED = "forged-source", Packets, Capture, loss;
    /// DNS answers to questions that their receiver was not seen to ask.
    UNASKED_ANSWERS = "unasked-answers", Lookups, Capture, loss;
    /// Sightings of a packet already seen on another interface.
    REPEATED_SIGHTINGS = "repeated-sightings", Packets, Capture, fact;

    /// Packets that the kernel had no room for.
    RING_DROPPED = "ring-dropped", Packets, Agent, loss;
    /// Packets that an interface dropped.
    INTERFACE_DROPPED = "interface-dropped", Packets, Agent, loss;
    /// Observations that nobody took from the collector.
    UNHEARD = "unheard-observations", Observations, Agent, loss;
    /// Interfaces that could not be opened.
    NOT_OPENED = "interfaces-not-opened", Interfaces, Agent, loss;
    /// Interfaces that failed while they were read.
    INTERFACES_FAILED = "interfaces-failed", Interfaces, Agent, loss;
    /// Times that the kernel had no room for news of interfaces.
    CHANGES_LOST = "interface-changes-lost", Times, Agent, loss;
    /// Times that the clock was set.
    CLOCK_STEPS = "clock-steps", Times, Agent, loss;
    /// Observations of unknown addresses that there was no room to let wait.
    WAITING_OVERFLOW = "waiting-overflow", Observations, Agent, loss;
    /// Connections reported by the capture layer.
    CONNECTIONS = "connections", Connections, Agent, fact;
    /// Connections of pods: learned.
    LEARNED = "learned", Connections, Agent, fact;
    /// From a node or a pod on its network: kubelet's probes, node agents.
    FROM_NODE = "from-node", Connections, Agent, fact;
    /// Of pods of other nodes. The agents there report them.
    ELSEWHERE = "from-elsewhere", Connections, Agent, fact;
    /// From outside the cluster.
    FROM_OUTSIDE = "from-outside", Connections, Agent, fact;
    /// From an address in the range of pods that no known pod had at that time.
    UNATTRIBUTED = "unattributed", Connections, Agent, loss;
    /// From an address that several pods claim.
    CONTESTED = "contested-source", Connections, Agent, loss;
    /// The initiator is a guess.
    GUESSED = "guessed-initiator", Connections, Agent, loss;
    /// Joined midway.
    MIDWAY = "midway", Connections, Agent, fact;
    /// Look-ups reported by the capture layer.
    LOOKUPS = "look-ups", Lookups, Agent, fact;
    /// Of a node, of pods of other nodes, or from outside the cluster.
    LOOKUPS_OF_OTHERS = "look-ups-of-others", Lookups, Agent, fact;
    /// Of names that the DNS says are none: steps of the search path.
    LOOKUPS_DENIED = "look-ups-denied", Lookups, Agent, fact;
    /// From an address that no known pod had at that time, or that several pods claim.
    LOOKUPS_UNATTRIBUTED = "look-ups-unattributed", Lookups, Agent, loss;
    /// Connections of a pod beyond its share of a batch: folded.
    FOLDED = "connections-folded", Connections, Agent, loss;
    /// Look-ups of a pod beyond its share of a batch: folded.
    NAMES_FOLDED = "names-folded", Lookups, Agent, loss;
    /// Edges of batches that were refused for good.
    EDGES_REFUSED = "edges-refused", Lines, Agent, loss;
    /// Edges for which an agent of an older version had no room.
    EDGES_DROPPED = "edges-dropped", Lines, Agent, loss;
    /// Names asked for, for which an agent of an older version had no room.
    NAMES_DROPPED = "names-dropped", Lines, Agent, loss;

    /// Look-ups of names that no object of the cluster has.
    LOOKUPS_OUTSIDE = "look-ups-outside", Lookups, Learning, fact;
    /// External addresses beyond those listed one by one.
    UNLISTED = "external-addresses-not-listed", Connections, Learning, loss;
    /// Neither end is known: a snapshot of another cluster shows here.
    STRANGE = "neither-end-known", Connections, Learning, fact;
    /// To an address whose owner changed between the connections of one edge.
    CHANGED_HANDS = "responder-changed", Connections, Learning, loss;
    /// Captures that could not be opened, or are none.
    CAPTURES_NOT_READ = "captures-not-read", Captures, Learning, loss;
    /// Captures that could not be read to their end.
    CAPTURES_CUT = "captures-cut", Captures, Learning, loss;

    /// About pods of other nodes: refused.
    LINES_ELSEWHERE = "lines-of-other-nodes", Lines, Checking, loss;
    /// Lines that contradict themselves: refused.
    IMPOSSIBLE = "lines-impossible", Lines, Checking, loss;
    /// Lines with impossible times or counts. They count with corrected ones.
    CORRECTED = "times-corrected", Lines, Checking, loss;
    /// Observations for which no possible time was found.
    UNDATED = "times-unknown", Observations, Checking, loss;
    /// About pods that the API server does not know: stored as unverified. What becomes of them is
    /// counted under the names that follow.
    UNVERIFIED = "lines-unverified", Lines, Checking, fact;
    /// Of these, learned once the API server knew their pod.
    CONFIRMED = "lines-confirmed", Lines, Checking, fact;
    /// Of these, dropped because the API server never knew their pod.
    EXPIRED = "lines-unverified-expired", Lines, Checking, loss;
    /// Of these, dropped for lack of room.
    DROPPED = "lines-unverified-dropped", Lines, Checking, loss;
    /// Sum of counters whose names this program does not know.
    UNKNOWN = "unknown-counters", Times, Checking, loss;
}

/// The counter of this name.
pub fn named(name: &str) -> Option<&'static Counter> {
    ALL.iter().find(|c| c.name == name)
}

/// Whether a counter of this name is a loss. A counter that is not defined counts as a loss.
pub fn is_loss(name: &str) -> bool {
    named(name).is_none_or(|c| c.is_loss)
}

/// Whether a batch may carry a counter of this name.
pub fn may_be_sent(name: &str) -> bool {
    named(name).is_some_and(|c| matches!(c.by, CountedBy::Capture | CountedBy::Agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn an_undefined_counter_is_a_loss_and_no_batch_may_carry_it() {
        assert!(is_loss("ring-dropped") && !is_loss("packets") && is_loss("made-up"));
        assert!(
            may_be_sent("packets")
                && may_be_sent(FOLDED)
                && !may_be_sent(DROPPED)
                && !may_be_sent("made-up")
        );
    }
}
