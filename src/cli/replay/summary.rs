//! The summary that a replay prints.
//!
//! Owns its sums and its words. Must never change what was learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::cli::{output, status};
use crate::learn::LearnedCapture;
use crate::model::{
    Batch, DependencyKey, Destination, Merge, Record, Source, Spans, Tally, WorkloadId, counter,
    sums,
};

/// A scope miss of a workload.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MissedCall {
    workload: String,
    destination: String,
    port: u16,
    #[serde(flatten)]
    tally: Tally,
}

/// What a replay did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    captures: u64,
    /// Paths of captures that were merged before with this snapshot.
    #[serde(rename = "alreadyHeld")]
    pub already_merged: Vec<String>,
    /// Counters of all captures, with what was counted before.
    pub counters: BTreeMap<String, u64>,
    /// Connections that captures of earlier replays showed as well. They count nothing.
    counted_before: u64,
    /// Those of them for which these captures show another dependency than they are counted for.
    counted_elsewhere: u64,
    /// Captures that were merged before added something together with the others.
    pub together: bool,
    /// Number of captures in the store whose counted connections are not in the ledger.
    pub uncounted: u64,
    workloads: u64,
    dependencies: BTreeMap<&'static str, u64>,
    scope_misses: Vec<MissedCall>,
    ambiguous: Vec<String>,
    unresolved: Vec<String>,
    pub notes: Vec<String>,
    /// The batch of the only capture so far. Within one capture, no dependency comes twice.
    #[serde(skip)]
    only: Option<Batch>,
    /// Dependencies of several captures, each with its scope misses.
    #[serde(skip)]
    merged: HashMap<DependencyKey, (Tally, Option<Tally>)>,
    #[serde(skip)]
    workload_ids: BTreeSet<WorkloadId>,
}

impl Summary {
    /// Adds what was learned from a capture.
    pub fn add(&mut self, learned: LearnedCapture) {
        let LearnedCapture { batch, before, elsewhere, .. } = learned;
        self.counted_elsewhere += elsewhere;
        self.captures += 1;
        self.counted_before += before.get(counter::CONNECTIONS).copied().unwrap_or(0);
        sums::merge(&mut self.counters, &before);
        for record in &batch.records {
            match record {
                Record::Source(s) => {
                    sums::merge(&mut self.counters, &s.counters);
                }
                Record::Workload(w) => {
                    self.workload_ids.insert(w.id.clone());
                }
                _ => {}
            }
        }
        if self.captures == 1 {
            self.only = Some(batch);
        } else {
            self.only.take().into_iter().chain([batch]).for_each(|batch| self.merge(batch));
        }
    }

    fn merge(&mut self, batch: Batch) {
        for record in batch.records {
            let Record::Dependency(d) = record else { continue };
            let both = |(tally, missed): &mut (Tally, Option<Tally>)| {
                tally.merge(&d.tally);
                missed.merge(&d.scope_miss);
            };
            self.merged.entry(d.key).and_modify(both).or_insert((d.tally, d.scope_miss));
        }
    }

    /// Computes the lists from all captures that were added.
    pub fn summarise(&mut self) {
        self.workloads = self.workload_ids.len() as u64;
        let records = self.only.iter().flat_map(|batch| &batch.records);
        let of_only = records.filter_map(|record| match record {
            Record::Dependency(d) => Some((&d.key, d.tally, d.scope_miss)),
            _ => None,
        });
        let of_several = self.merged.iter().map(|(key, (tally, missed))| (key, *tally, *missed));
        let mut listed: Vec<_> = Vec::new();
        for (key, tally, missed) in of_only.chain(of_several) {
            *self.dependencies.entry(key.destination.kind()).or_default() += 1;
            let is_uncertain = matches!(
                key.destination,
                Destination::Ambiguous { .. } | Destination::Unresolved { .. }
            );
            if missed.is_some() || is_uncertain {
                listed.push((key, tally, missed));
            }
        }
        listed.sort_by_key(|(key, ..)| *key);
        for (key, tally, missed) in listed {
            let (workload, destination) = (key.workload.to_string(), key.destination.to_string());
            let (port, n) = (key.port, tally.connections);
            match &key.destination {
                Destination::Ambiguous { .. } => {
                    self.ambiguous
                        .push(format!("{workload}: {n} connections to one of {destination}"));
                }
                Destination::Unresolved { why, .. } => {
                    self.unresolved.push(format!(
                        "{workload}: {n} connections to {destination}:{port}: {why}"
                    ));
                }
                _ => {}
            }
            if let Some(tally) = missed {
                self.scope_misses.push(MissedCall { workload, destination, port, tally });
            }
        }
    }

    /// A counter of all captures.
    pub fn count(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// The summary as text.
    pub fn to_text(&self) -> String {
        let count = |name| self.count(name);
        let mut out = String::new();
        let mut line = |text: String| output::line(&mut out, text);
        line(format!(
            "packets       {} read, {} used, {} of no IP, {} of other protocols",
            count("packets"),
            count("used"),
            count("not-ip"),
            count("other-transport") + count("later-fragments") + count("not-unicast")
        ));
        let (unwrapped, encrypted) = (count(counter::UNWRAPPED), count(counter::ENCRYPTED_TUNNEL));
        if unwrapped > 0 {
            line(format!(
                "tunnels       {unwrapped} packets were found in packets of VXLAN, Geneve, GRE or \
                 IP in IP"
            ));
        }
        if encrypted > 0 {
            line(format!(
                "encrypted     {encrypted} packets of WireGuard or ESP: what is in them cannot be \
                 read here; capture on the interfaces of pods"
            ));
        }
        line(format!(
            "connections   {} in all: {} of pods, {} from nodes, {} from outside the cluster",
            count(counter::CONNECTIONS),
            count(counter::LEARNED),
            count(counter::FROM_NODE),
            count(counter::FROM_OUTSIDE)
        ));
        let kinds: Vec<String> =
            self.dependencies.iter().map(|(k, n)| format!("{n} {k}")).collect();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        line(format!("dependencies  {kinds}; of {} workloads", self.workloads));
        let source = Source {
            source: String::new(),
            label: String::new(),
            spans: Spans::default(),
            counters: self.counters.clone(),
        };
        let losses = status::losses(&source);
        line(format!(
            "lost          {}",
            if losses.is_empty() { "nothing".to_owned() } else { losses.join(", ") }
        ));
        for m in &self.scope_misses {
            line(format!(
                "scope miss    {} reached {}:{} at the Service's own address {} times: its Envoy \
                 had no configuration for it",
                m.workload, m.destination, m.port, m.tally.connections
            ));
        }
        self.ambiguous.iter().for_each(|a| line(format!("ambiguous     {a}")));
        self.unresolved.iter().for_each(|u| line(format!("unresolved    {u}")));
        self.notes.iter().for_each(|n| line(format!("note          {n}")));
        for path in &self.already_merged {
            line(format!(
                "unchanged     {path} was learned before, with this snapshot: nothing changed"
            ));
        }
        let new = self.captures - self.already_merged.len() as u64;
        if new > 0 && self.counted_before > 0 {
            line(format!(
                "once          {} connections count nothing: captures that were learned before \
                 show them as well",
                self.counted_before
            ));
        }
        if self.counted_elsewhere > 0 {
            line(format!(
                "elsewhere     {} of them stay counted for what was known of them before; what is \
                 known now is listed without them",
                self.counted_elsewhere
            ));
        }
        if self.together {
            line(
                "together      these captures show more together than those learned before did: \
                 that was added"
                    .to_owned(),
            );
        }
        if self.uncounted > 0 {
            line(format!(
                "note          {} captures were learned by a program that did not record their \
                 connections: what these show as well counts twice. Replay them again, alone: \
                 nothing counts then, and their connections are recorded",
                self.uncounted
            ));
        }
        out
    }
}
