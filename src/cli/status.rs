//! `sidecarta status`.

use clap::Args;

use super::output::{self, Format};
use super::remote::RecordSource;
use super::{CommandOutcome, OutputOptions, ReadOptions, ViewOptions};
use crate::model::Source;
use crate::present::{NodeUnverified, StatusReport};

const EXAMPLE: &str = "\
Example:
  sidecarta status
  sidecarta status --unready
  sidecarta status -n bookinfo -o json";

/// Show per workload what was watched, what is known, and what is not
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct StatusOptions {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Only the workloads of which not enough is known to write a Sidecar, with the reason and with
    /// what to restart
    #[arg(long)]
    unready: bool,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs `sidecarta status`.
pub(super) fn run(options: &StatusOptions) -> anyhow::Result<CommandOutcome> {
    let namespace = options.view.namespace.as_deref();
    let source = options.read.source()?;
    let (records, alerts) = source.records_and_alerts(namespace)?;
    let outcome = super::read_outcome(records.missing.as_ref());
    let mut status = StatusReport::of(records);
    status.add_blocked_calls(alerts);
    if options.unready {
        status.workloads.retain(|w| w.not_ready.is_some());
        match options.output.output {
            Format::Table => output::print(&unready_table(&status))?,
            format => output::data(format, &status)?,
        }
        return Ok(outcome);
    }
    let mut limits = Vec::new();
    if let RecordSource::Recorder(recorder) = &source {
        let answer = recorder.limits(namespace)?;
        (limits, status.unverified) = (answer.limits, answer.unverified);
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

/// The workloads that are not ready, each with the reason; then the commands that restart those
/// whose start was not watched.
fn unready_table(status: &StatusReport) -> String {
    if status.workloads.is_empty() {
        return "every workload is ready that can have a Sidecar\n".to_owned();
    }
    let mut t = output::table(&["WORKLOAD", "REASON"]);
    let all = || status.workloads.iter().filter_map(|w| Some((w, w.not_ready.as_ref()?)));
    for (w, not_ready) in all() {
        let reason = not_ready.reason.trim_start_matches("not ready: ");
        t.add_row([w.workload.to_string(), reason.to_owned()]);
    }
    let mut out = output::render(&t);
    let restarts: Vec<&str> = all().filter_map(|(_, n)| n.restart.as_deref()).collect();
    if !restarts.is_empty() {
        out.push_str("their start was not watched; with agents on their nodes, run\n");
        restarts.iter().for_each(|r| output::line(&mut out, format_args!("  {r}")));
    }
    out
}

fn table(status: &StatusReport) -> String {
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
        let watched = match (w.watched.pods, w.watched.gaps) {
            (0, _) => "no".to_owned(),
            (_, 0) => output::duration(w.watched.nanoseconds),
            (_, gaps) => format!(
                "{}, {gaps} gaps ({})",
                output::duration(w.watched.nanoseconds),
                output::duration(w.watched.gap_nanoseconds)
            ),
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
                    "scope miss: {} reached {}:{} at the Service's own address {} times, last {}: \
                     its Sidecar lacks the host",
                    w.workload,
                    m.destination,
                    m.port,
                    m.tally.connections,
                    output::moment(m.tally.last_seen)
                ),
            );
        }
    }
    for blocked in &status.blocked_calls {
        output::line(
            &mut out,
            format_args!(
                "blocked, probably: {} looked {} up {} times, last {}, and never reached it: the \
                 policy is REGISTRY_ONLY and its Sidecar lacks the host",
                blocked.workload,
                blocked.destination,
                blocked.lookups,
                output::moment(blocked.last_seen)
            ),
        );
    }
    out.push_str(&missing);
    for w in &status.workloads {
        for u in &w.unknown {
            output::line(&mut out, format_args!("not known: {}: {u}", w.workload));
        }
    }
    let unready = status.workloads.iter().filter(|w| w.not_ready.is_some()).count();
    if unready > 0 {
        out.push_str(&format!(
            "not ready: {unready} of {} workloads: `sidecarta status --unready` says why\n",
            status.workloads.len()
        ));
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

/// The losses of a source: name and number of each.
pub(super) fn losses(source: &Source) -> Vec<String> {
    source.losses().map(|(name, n)| format!("{name} {n}")).collect()
}
