//! `sidecarta dependencies`.

use clap::{Args, ValueEnum};

use super::output::{self, Format};
use super::{Outcome, StoreOptions, ViewOptions, graph};
use crate::model::{Dependency, Evidence, Grade, Tally};
use serde::Serialize;
use std::collections::BTreeMap;

const EXAMPLE: &str = "\
Example:
  sidecarta dependencies -n bookinfo
  sidecarta dependencies -o mermaid > calls.mmd";

/// Show what each workload calls, with the evidence
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = View::Table)]
    output: View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum View {
    Table,
    Json,
    Yaml,
    Mermaid,
    Dot,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let store = options.store.existing()?;
    let all = store.dependencies(options.view.namespace.as_deref())?;
    match options.output {
        View::Table => output::print(&table(&all))?,
        View::Json => output::data(Format::Json, &all.iter().map(Shown::from).collect::<Vec<_>>())?,
        View::Yaml => output::data(Format::Yaml, &all.iter().map(Shown::from).collect::<Vec<_>>())?,
        View::Mermaid => output::print(&graph::mermaid(&all))?,
        View::Dot => output::print(&graph::dot(&all))?,
    }
    Ok(Outcome::Done)
}

/// A dependency as programs read it: evidence is a list, strongest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    workload: &'a crate::model::WorkloadId,
    destination: &'a crate::model::Destination,
    port: u16,
    protocol: crate::model::Protocol,
    connections: u64,
    first_seen: crate::model::Time,
    last_seen: crate::model::Time,
    evidence: Vec<ShownEvidence<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_miss: Option<Tally>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    addressed: &'a BTreeMap<String, Tally>,
    midway: u64,
    guessed: u64,
    unanswered: u64,
}

#[derive(Debug, Serialize)]
struct ShownEvidence<'a> {
    grade: Grade,
    description: &'static str,
    #[serde(flatten)]
    evidence: &'a Evidence,
}

impl<'a> From<&'a Dependency> for Shown<'a> {
    fn from(d: &'a Dependency) -> Self {
        Self {
            workload: &d.key.workload,
            destination: &d.key.destination,
            port: d.key.port,
            protocol: d.key.protocol,
            connections: d.tally.connections,
            first_seen: d.tally.first_seen,
            last_seen: d.tally.last_seen,
            evidence: d
                .evidence
                .iter()
                .map(|(grade, evidence)| ShownEvidence { grade: *grade, description: grade.describe(), evidence })
                .collect(),
            scope_miss: d.scope_miss,
            addressed: &d.addressed,
            midway: d.midway,
            guessed: d.guessed,
            unanswered: d.unanswered,
        }
    }
}

/// What a dependency deserves to be marked with in a table.
pub(super) fn remarks(d: &Dependency) -> String {
    let mut out = Vec::new();
    if let Some(missed) = d.scope_miss {
        out.push(format!("SCOPE MISS ({})", missed.connections));
    }
    if let crate::model::Destination::Unresolved { why, .. } = &d.key.destination {
        out.push(why.to_string());
    }
    if d.guessed > 0 {
        out.push(format!("direction guessed ({})", d.guessed));
    }
    if d.unanswered > 0 && d.unanswered == d.tally.connections {
        out.push("never answered".to_owned());
    }
    out.join(", ")
}

fn table(all: &[Dependency]) -> String {
    if all.is_empty() {
        return "no dependencies are known here yet; `sidecarta status` tells what was watched\n".to_owned();
    }
    let mut t = output::table(&["WORKLOAD", "CALLS", "TYPE", "PORT", "CONNECTIONS", "LAST SEEN", "EVIDENCE", "REMARKS"]);
    for d in all {
        let evidence = d.strongest().map_or("none", Grade::describe);
        t.add_row([
            d.key.workload.to_string(),
            d.key.destination.to_string(),
            d.key.destination.kind().to_owned(),
            format!("{}/{}", d.key.port, d.key.protocol),
            d.tally.connections.to_string(),
            output::moment(d.tally.last_seen),
            evidence.to_owned(),
            remarks(d),
        ]);
    }
    output::render(&t)
}
