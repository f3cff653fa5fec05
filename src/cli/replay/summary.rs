//! What a replay says that it did.
//!
//! Owns the words. Must never change what was learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::cli::{output, status};
use crate::learn::LearnedCapture;
use crate::model::{
    Batch, DependencyKey, Destination, Merge, Record, Source, Spans, Tally, WorkloadId, counter,
    sums,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Missed {
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
    pub already_held: Vec<String>,
    /// Of all captures, whether it was counted before or not.
    pub counters: BTreeMap<String, u64>,
    /// Connections that other captures showed before: they count nothing.
    counted_before: u64,
    /// Of these, connections of which another dependency is known now than they are counted for.
    counted_elsewhere: u64,
    /// CaptureLearner that are held have taught something in the company of the others.
    pub together: bool,
    /// CaptureLearner in the store of which it is not noted which connections they counted.
    pub uncounted: u64,
    workloads: u64,
    dependencies: BTreeMap<&'static str, u64>,
    scope_misses: Vec<Missed>,
    ambiguous: Vec<String>,
    unresolved: Vec<String>,
    pub notes: Vec<String>,
    #[serde(skip)]
    seen: Spans,
    /// The batch of the only capture so far: within one, no dependency comes twice.
    #[serde(skip)]
    only: Option<Batch>,
    /// Dependencies of several captures.
    #[serde(skip)]
    merged: HashMap<DependencyKey, (Tally, Option<Tally>)>,
    #[serde(skip)]
    known: BTreeSet<WorkloadId>,
}

impl Summary {
    pub fn add(&mut self, taught: LearnedCapture) {
        let LearnedCapture { batch, before, elsewhere, .. } = taught;
        self.counted_elsewhere += elsewhere;
        self.captures += 1;
        self.counted_before += before.get(counter::CONNECTIONS).copied().unwrap_or(0);
        sums::merge(&mut self.counters, &before);
        for record in &batch.records {
            match record {
                Record::Source(s) => {
                    self.seen.merge(&s.spans);
                    sums::merge(&mut self.counters, &s.counters);
                }
                Record::Workload(w) => {
                    self.known.insert(w.id.clone());
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

    pub fn summarise(&mut self) {
        self.workloads = self.known.len() as u64;
        self.dependencies.clear();
        self.scope_misses.clear();
        self.ambiguous.clear();
        self.unresolved.clear();
        let mut remarkable: Vec<_> = Vec::new();
        let only =
            self.only.iter().flat_map(|batch| &batch.records).filter_map(|record| match record {
                Record::Dependency(d) => Some((&d.key, d.tally, d.scope_miss)),
                _ => None,
            });
        for (key, tally, missed) in
            only.chain(self.merged.iter().map(|(key, (tally, missed))| (key, *tally, *missed)))
        {
            *self.dependencies.entry(key.destination.kind()).or_default() += 1;
            if missed.is_some()
                || matches!(
                    key.destination,
                    Destination::Ambiguous { .. } | Destination::Unresolved { .. }
                )
            {
                remarkable.push((key, tally, missed));
            }
        }
        remarkable.sort_by_key(|(key, ..)| *key);
        for (key, tally, missed) in remarkable {
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
                self.scope_misses.push(Missed { workload, destination, port, tally });
            }
        }
    }

    pub fn strange_example(&self, cluster: &crate::cluster::Cluster) -> String {
        match cluster.pods().iter().flat_map(|p| &*p.addresses).next() {
            Some(address) => format!(" (it holds pods such as {address})"),
            None => " (it holds no pod)".to_owned(),
        }
    }

    pub fn to_text(&self) -> String {
        let count = |name: &str| self.counters.get(name).copied().unwrap_or(0);
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
                "tunnels       {unwrapped} packets were found in packets of VXLAN, Geneve, GRE or IP in IP"
            ));
        }
        if encrypted > 0 {
            line(format!(
                "encrypted     {encrypted} packets of WireGuard or ESP: what is in them cannot be read here; capture on the interfaces \
                 of pods"
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
                "scope miss    {} reached {}:{} at the Service's own address {} times: its Envoy had no configuration for it",
                m.workload, m.destination, m.port, m.tally.connections
            ));
        }
        self.ambiguous.iter().for_each(|a| line(format!("ambiguous     {a}")));
        self.unresolved.iter().for_each(|u| line(format!("unresolved    {u}")));
        self.notes.iter().for_each(|n| line(format!("note          {n}")));
        for path in &self.already_held {
            line(format!(
                "unchanged     {path} was learned before, with this snapshot: nothing changed"
            ));
        }
        let new = self.captures - self.already_held.len() as u64;
        if new > 0 && self.counted_before > 0 {
            line(format!(
                "once          {} connections count nothing: captures that were learned before show \
                 them as well",
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
                "together      these captures show more together than those learned before did: that \
                 was added"
                    .to_owned(),
            );
        }
        if self.uncounted > 0 {
            line(format!(
                "note          {} captures were learned by a program that did not note their \
                 connections: what these show as well counts twice. Replay them again, alone: \
                 nothing counts then, and their connections are noted",
                self.uncounted
            ));
        }
        out
    }
}
