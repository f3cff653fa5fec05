//! Names of one connection, from the payload of its segments.
//!
//! Owns when a name is final, and which segments may name a later host. Must never decide which
//! bytes begin a head: `head` does.

use super::{FlowChange, FlowEntry, FlowExtra};
use crate::decode::Segment;
use crate::flow::head::{self, PayloadStart};
use crate::flow::hot::HotFlow;
use crate::flow::later_hosts::{Added, LaterHosts};
use crate::flow::pending::{JoinState, PendingHead};
use crate::observation::{Content, Orientation, Transport};

/// Segments of an initiator in which a head of any kind is searched. After them the connection
/// counts as nameless, and only requests are searched. A connection joined midway may begin with
/// the rest of a body.
const MAX_TRIES: u8 = 32;

impl FlowEntry {
    /// Reads a segment that may have a name, or that may be the rest of a head.
    pub(super) fn read_payload(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        by_initiator: bool,
        may_join: bool,
        change: &mut FlowChange,
    ) {
        if s.transport != Transport::Tcp {
            self.names_final = true;
            return;
        }
        let is_oriented = self.orientation <= Orientation::Request;
        if is_oriented && !by_initiator {
            return;
        }
        if let Some(FlowExtra::Pending(pending)) = self.extra.as_deref_mut() {
            if by_initiator {
                let state = pending.join(s, self.names.get_or_insert_default());
                if state != JoinState::Open {
                    change.head_ended = true;
                    change.head_incomplete = state == JoinState::Incomplete;
                    hot.requests &= !head::opens_tunnel(pending.bytes());
                    self.extra = None;
                    self.names_final = true;
                }
            }
            return;
        }
        match head::begins(s.payload) {
            PayloadStart::Head(content) => {
                if !is_oriented {
                    // The initiator is the end that sends a request or a ClientHello.
                    self.initiator_is_low = s.from == hot.key.low_end();
                    self.orientation = Orientation::Request;
                }
                self.begin_head(content, hot, s, may_join, change);
            }
            PayloadStart::TlsRecords => {
                self.content = Content::Tls;
                // Rings are read one after the other: the ClientHello of a connection whose SYN was
                // seen may be in the ring of another interface, which is read later.
                self.tries += 1;
                let hello_may_follow = self.isn.is_some() && !self.is_begun_by(s);
                self.names_final = !hello_may_follow || self.tries >= MAX_TRIES;
            }
            PayloadStart::Nothing => {
                self.tries += 1;
                if by_initiator && self.is_begun_by(s) {
                    self.content = Content::Other;
                    self.names_final = true;
                }
                if self.tries >= MAX_TRIES {
                    self.names_final = true;
                    hot.requests = true;
                }
            }
        }
    }

    /// Reads the first segment of a head, and begins to join the head where it is not whole.
    fn begin_head(
        &mut self,
        content: Content,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        may_join: bool,
        change: &mut FlowChange,
    ) {
        self.content = content;
        hot.requests = content == Content::Http1 && !head::opens_tunnel(s.payload);
        let whole = head::read(content, s.payload, self.names.get_or_insert_default());
        self.names_final = whole || s.cut || !may_join;
        if whole {
            return;
        }
        if s.cut {
            change.head_incomplete = true;
        } else if !may_join {
            change.head_dropped = true;
        } else {
            change.head_began = true;
            self.extra = Some(Box::new(FlowExtra::Pending(PendingHead::new(content, s))));
        }
    }

    /// Reads a segment that may begin with a later request.
    pub(super) fn take_later_request(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        may_add: bool,
        change: &mut FlowChange,
    ) {
        let Some(head) = head::later(s.payload) else { return };
        hot.requests = !head::opens_tunnel(s.payload);
        let Some(authority) = head.authority else {
            // A retransmission of a joined head's first segment loses nothing.
            change.head_incomplete = !head.complete && !change.repeated && !self.is_begun_by(s);
            return;
        };
        if self.names.as_ref().is_some_and(|n| n.authority.as_ref() == Some(&authority)) {
            return;
        }
        let extra = self
            .extra
            .get_or_insert_with(|| Box::new(FlowExtra::LaterHosts(LaterHosts::default())));
        if let FlowExtra::LaterHosts(later_hosts) = extra.as_mut() {
            let added = later_hosts.add(authority, s.time, may_add);
            change.new_host = added == Added::New;
            change.host_dropped = added == Added::Dropped && !change.repeated;
        }
    }
}
