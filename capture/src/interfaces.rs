//! Totals per interface, and the addresses that stand at one end of all its packets.

use std::collections::HashMap;

use crate::flow::key::FlowKey;
use crate::observation::{CommonAddress, InterfaceId, InterfaceSpan, Nanos, Observation};

/// Totals of the interfaces seen, bounded.
#[derive(Debug)]
pub(crate) struct Interfaces {
    known: HashMap<InterfaceId, u32>,
    spans: Vec<InterfaceSpan>,
    seen_v4: Vec<bool>,
    seen_v6: Vec<bool>,
    /// The one counted last: captures of one interface never look further.
    recent: Option<(InterfaceId, u32)>,
    limit: usize,
}

impl Interfaces {
    pub fn new(limit: usize) -> Self {
        Self {
            known: HashMap::new(),
            spans: Vec::new(),
            seen_v4: Vec::new(),
            seen_v6: Vec::new(),
            recent: None,
            limit,
        }
    }

    /// Counts a packet; true where its interface is one too many.
    pub fn count(
        &mut self,
        id: InterfaceId,
        time: Nanos,
        key: &FlowKey,
        from_low: bool,
        hops: u8,
    ) -> bool {
        let at = match self.recent {
            Some((recent, at)) if recent == id => at as usize,
            _ => {
                let Some(at) = self.find(id, time) else { return true };
                self.recent = Some((id, at as u32));
                at
            }
        };
        let span = &mut self.spans[at];
        span.first = span.first.min(time);
        span.last = span.last.max(time);
        span.packets += 1;
        let (common, seen) = match key.is_v6() {
            false => (&mut span.common_v4, &mut self.seen_v4[at]),
            true => (&mut span.common_v6, &mut self.seen_v6[at]),
        };
        if *seen && common.is_empty() {
            return false;
        }
        let (from, to) = (key.address(from_low), key.address(!from_low));
        if !*seen {
            *seen = true;
            let new = |address| CommonAddress { address, unrouted: 0, routed: 0 };
            *common = if key.is_to_itself() { vec![new(from)] } else { vec![new(from), new(to)] };
        } else {
            common.retain(|c| c.address == from || c.address == to);
        }
        if let Some(sender) = common.iter_mut().find(|c| c.address == from) {
            // Initial values of the operating systems in use: Linux and macOS 64, Windows 128,
            // network devices 255.
            *(if matches!(hops, 64 | 128 | 255) {
                &mut sender.unrouted
            } else {
                &mut sender.routed
            }) += 1;
        }
        false
    }

    fn find(&mut self, id: InterfaceId, time: Nanos) -> Option<usize> {
        if let Some(&at) = self.known.get(&id) {
            return Some(at as usize);
        }
        if self.spans.len() >= self.limit {
            return None;
        }
        self.known.insert(id, self.spans.len() as u32);
        self.spans.push(InterfaceSpan {
            interface: id,
            first: time,
            last: time,
            packets: 0,
            common_v4: Vec::new(),
            common_v6: Vec::new(),
        });
        self.seen_v4.push(false);
        self.seen_v6.push(false);
        Some(self.spans.len() - 1)
    }

    /// Forgets an interface that is gone, and tells its totals a last time.
    pub fn forget(&mut self, id: InterfaceId, sink: &mut impl FnMut(Observation)) {
        let Some(at) = self.known.remove(&id) else { return };
        self.recent = None;
        let at = at as usize;
        sink(Observation::Interface(self.spans.swap_remove(at)));
        self.seen_v4.swap_remove(at);
        self.seen_v6.swap_remove(at);
        if let Some(moved) = self.spans.get(at) {
            self.known.insert(moved.interface, at as u32);
        }
    }

    /// Tells all totals, in order of the interfaces.
    pub fn report(&self, sink: &mut impl FnMut(Observation)) {
        let mut all: Vec<&InterfaceSpan> = self.spans.iter().collect();
        all.sort_by_key(|s| s.interface);
        all.into_iter().for_each(|s| sink(Observation::Interface(s.clone())));
    }
}
