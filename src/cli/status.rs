//! `sidecarta status`.

use clap::Args;

use super::output::{self, Format};
use super::remote::Place;
use super::{Outcome, OutputOptions, ReadOptions, ViewOptions};
use crate::model::Source;
use crate::present::{NodeUnverified, Status};

const EXAMPLE: &str = "\
Example:
  sidecarta status
  sidecarta status -n bookinfo -o json";

/// Show per workload what was watched, what is known, and what is not
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    output: OutputOptions,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let namespace = options.view.namespace.as_deref();
    let place = options.read.place()?;
    let memory = place.memory(namespace)?;
    let outcome = super::read_all(memory.missing.as_ref());
    let mut status = Status::of(memory);
    let mut limits = Vec::new();
    if let Place::Recorder(recorder) = &place {
        let told = recorder.limits(namespace)?;
        (limits, status.unverified) = (told.limits, told.unverified);
    } else {
        limits.extend(status.unverified.iter().map(NodeUnverified::text));
    }
    match options.output.output {
        Format::Table => {
            output::print(&table(&status))?;
            for limit in limits {
                let mut out = String::new();
                output::line(&mut out, format_args!("limited: {limit}"));
                output::print(&out)?;
            }
        }
        format => output::data(format, &status)?,
    }
    Ok(outcome)
}

fn table(status: &Status) -> String {
    let missing = status.missing.as_ref().map(|m| format!("missing: {m}\n")).unwrap_or_default();
    if status.workloads.is_empty() {
        return missing + "the store knows no workload yet: `sidecarta replay` fills it\n";
    }
    let mut t = output::table(&[
        "WORKLOAD",
        "MESH",
        "WATCHED",
        "PODS",
        "CONNECTIONS",
        "MIDWAY",
        "DEPENDENCIES",
        "NEXT IS NEW",
        "BEST EVIDENCE",
    ]);
    for w in &status.workloads {
        let plane =
            w.data_plane.map_or_else(|| "?".to_owned(), |p| format!("{p:?}").to_lowercase());
        let watched = if w.watched.pods == 0 {
            "no".to_owned()
        } else {
            output::duration(w.watched.nanoseconds)
        };
        let kinds: Vec<String> = w.dependencies.iter().map(|(k, n)| format!("{n} {k}")).collect();
        t.add_row([
            w.workload.to_string(),
            plane,
            watched,
            format!("{} ({} from start)", w.watched.pods, w.watched.pods_from_start),
            w.connections.to_string(),
            w.midway.to_string(),
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") },
            w.chance_that_next_is_new
                .map_or_else(|| "-".to_owned(), |p| format!("{:.1} %", 100.0 * p)),
            w.evidence.keys().next().map_or("-", |g| g.describe()).to_owned(),
        ]);
    }
    let mut out = output::render(&t);
    for w in &status.workloads {
        for m in &w.scope_misses {
            output::line(
                &mut out,
                format_args!(
                    "scope miss: {} reached {}:{} at the Service's own address {} times, last {}: its Sidecar lacks the host",
                    w.workload,
                    m.destination,
                    m.port,
                    m.tally.connections,
                    output::moment(m.tally.last_seen)
                ),
            );
        }
    }
    out.push_str(&missing);
    for w in &status.workloads {
        for u in &w.unknown {
            output::line(&mut out, format_args!("not known: {}: {u}", w.workload));
        }
    }
    for w in status.workloads.iter().filter(|w| w.not_accepted) {
        out.push_str(&format!(
            "not accepted: {}: it was not there when its namespace was accepted\n",
            w.workload
        ));
    }
    for s in &status.sources {
        let losses = losses(s);
        if !losses.is_empty() {
            output::line(&mut out, format_args!("lost: {}: {}", s.label, losses.join(", ")));
        }
    }
    out
}

/// The losses of a source, in words.
pub(super) fn losses(source: &Source) -> Vec<String> {
    source.losses().map(|(name, n)| format!("{name} {n}")).collect()
}
