//! `sidecarta dependencies`.

use clap::{Args, ValueEnum};

use super::duration::nanoseconds;
use super::output::{self, Format};
use super::{CommandOutcome, ReadOptions, ViewOptions, graph};
use crate::clock;
use crate::model::{Dependency, Grade};
use crate::present::ShownDependency;
use crate::records::Decided;
use crate::verify;

const EXAMPLE: &str = "\
Example:
  sidecarta dependencies -n bookinfo
  sidecarta dependencies -o mermaid > calls.mmd";

/// Show what each workload calls, with the evidence
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct DependenciesOptions {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Mark as stale what was not seen for this long while its workload was
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = nanoseconds)]
    stale_after: u64,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = DependenciesFormat::Table)]
    output: DependenciesFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DependenciesFormat {
    Table,
    Json,
    Yaml,
    Mermaid,
    Dot,
}

/// Runs `sidecarta dependencies`.
pub(super) fn run(options: &DependenciesOptions) -> anyhow::Result<CommandOutcome> {
    let records = options.read.source()?.records(options.view.namespace.as_deref())?;
    let outcome = super::read_outcome(records.missing.as_ref());
    let seen = records.last_seen(verify::latest(clock::now()));
    let stale = |d: &Dependency| {
        seen.get(&d.key.workload).is_some_and(|s| d.is_stale(*s, options.stale_after))
    };
    let (all, decided) = (records.dependencies, records.decided);
    let shown = || all.iter().map(ShownDependency::from).collect::<Vec<_>>();
    match options.output {
        DependenciesFormat::Table => output::print(&table(&all, stale, &decided))?,
        DependenciesFormat::Json => output::data(Format::Json, &shown())?,
        DependenciesFormat::Yaml => output::data(Format::Yaml, &shown())?,
        DependenciesFormat::Mermaid => output::print(&graph::mermaid(&all))?,
        DependenciesFormat::Dot => output::print(&graph::dot(&all))?,
    }
    Ok(outcome)
}

/// The remarks about a dependency in a table.
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
        return "no dependencies are known here yet; `sidecarta status` shows what was watched\n"
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
        let all_remarks: Vec<String> = [
            stale(d).then(|| "stale".to_owned()),
            decided.lacks(d).map(str::to_owned),
            Some(remarks(d)).filter(|r| !r.is_empty()),
        ]
        .into_iter()
        .flatten()
        .collect();
        t.add_row([
            d.key.workload.to_string(),
            d.key.destination.to_string(),
            d.key.destination.kind().to_owned(),
            format!("{}/{}", d.key.port, d.key.protocol),
            d.tally.connections.to_string(),
            output::moment(d.tally.last_seen),
            evidence.to_owned(),
            all_remarks.join(", "),
        ]);
    }
    output::render(&t)
}
