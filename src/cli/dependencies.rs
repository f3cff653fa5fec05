//! `sidecarta dependencies`.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};

use super::duration::nanoseconds;
use super::output::{self, Format};
use super::{Outcome, ReadOptions, ViewOptions, graph};
use crate::memory::Decided;
use crate::model::{Dependency, Grade, Time, WorkloadId};
use crate::present::Shown;

const EXAMPLE: &str = "\
Example:
  sidecarta dependencies -n bookinfo
  sidecarta dependencies -o mermaid > calls.mmd";

/// Show what each workload calls, with the evidence
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Mark as stale what was not seen for this long while its workload was
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = nanoseconds)]
    stale_after: u64,
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
    let memory = options.read.place()?.memory(options.view.namespace.as_deref())?;
    let seen: BTreeMap<WorkloadId, Time> =
        memory.workloads.into_iter().map(|w| (w.id, w.last_seen)).collect();
    let stale = |d: &Dependency| {
        seen.get(&d.key.workload).is_some_and(|s| d.is_stale(*s, options.stale_after))
    };
    let (all, decided) = (memory.dependencies, memory.decided);
    match options.output {
        View::Table => output::print(&table(&all, stale, &decided))?,
        View::Json => output::data(Format::Json, &all.iter().map(Shown::from).collect::<Vec<_>>())?,
        View::Yaml => output::data(Format::Yaml, &all.iter().map(Shown::from).collect::<Vec<_>>())?,
        View::Mermaid => output::print(&graph::mermaid(&all))?,
        View::Dot => output::print(&graph::dot(&all))?,
    }
    Ok(Outcome::Done)
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

fn table(all: &[Dependency], stale: impl Fn(&Dependency) -> bool, decided: &Decided) -> String {
    if all.is_empty() {
        return "no dependencies are known here yet; `sidecarta status` tells what was watched\n"
            .to_owned();
    }
    let mut t = output::table(&[
        "WORKLOAD",
        "CALLS",
        "TYPE",
        "PORT",
        "CONNECTIONS",
        "LAST SEEN",
        "EVIDENCE",
        "REMARKS",
    ]);
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
            [
                stale(d).then(|| "stale".to_owned()),
                decided.lacks(d).map(str::to_owned),
                Some(remarks(d)).filter(|r| !r.is_empty()),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
        ]);
    }
    output::render(&t)
}
