//! Reports of one connection.
//!
//! Owns what a report contains, and which connections are never reported. Must never decide when a
//! connection is reported.

use super::{FlowEntry, FlowExtra};
use crate::flow::hot::HotFlow;
use crate::flow::later_hosts::HostSelection;
use crate::observation::{Connection, ConnectionNames, Observation};

impl FlowEntry {
    /// Reports what changed since the last report: the connection, and then each later host that
    /// was named.
    pub(in crate::flow) fn report(
        &mut self,
        hot: &mut HotFlow,
        sink: &mut impl FnMut(Observation),
    ) {
        if !hot.changed || self.is_suppressed() {
            return;
        }
        let connection = self.connection(hot);
        self.reported = true;
        self.earlier = 0;
        hot.changed = false;
        hot.packets = 0;
        sink(Observation::Connection(connection));
        self.report_later_hosts(hot, HostSelection::Changed, sink);
    }

    /// Reports the selected later hosts, without the connection itself.
    pub(in crate::flow) fn report_later_hosts(
        &mut self,
        hot: &HotFlow,
        selection: HostSelection,
        sink: &mut impl FnMut(Observation),
    ) {
        if self.is_suppressed() {
            return;
        }
        let Some(mut extra) = self.extra.take() else { return };
        if let FlowExtra::LaterHosts(later_hosts) = extra.as_mut() {
            later_hosts.report(selection, |host| {
                let dns = self.names.as_ref().map(|n| n.dns.clone()).unwrap_or_default();
                let names = ConnectionNames {
                    authority: Some(host.authority.to_string()),
                    dns,
                    ..ConnectionNames::default()
                };
                let (first, last, is_new) = (host.first, host.last, !host.reported);
                // Packets are reported with the connection.
                let connection =
                    Connection { first, last, packets: 0, names, is_new, ..self.connection(hot) };
                sink(Observation::Connection(connection));
            });
        }
        self.extra = Some(extra);
    }

    /// Whether it is never reported from here.
    fn is_suppressed(&self) -> bool {
        self.translated_duplicate
            || self.forged
            || self.is_left_to_caller()
            || self.is_initiator_unseen()
    }

    fn connection(&self, hot: &HotFlow) -> Connection {
        let (initiator, responder) = self.ends(&hot.key);
        Connection {
            initiator,
            responder,
            transport: hot.key.transport(),
            orientation: self.orientation,
            from_start: self.from_start,
            answered: self.answered,
            refused: self.refused,
            first: self.first,
            last: hot.last,
            isn: self.isn,
            closed: self.closed,
            packets: self.earlier + u64::from(hot.packets),
            content: self.content,
            names: self.names.as_deref().cloned().unwrap_or_default(),
            interface: hot.interface,
            is_new: !self.reported,
        }
    }
}
