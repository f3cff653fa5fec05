//! `sidecarta accept`, `sidecarta ignore` and `sidecarta alerts`.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::output::{self, Format};
use super::remote::RecordSource;
use super::{
    CommandOutcome, OutputOptions, ReadOptions, ViewOptions, open_to_change, open_to_read,
    read_outcome,
};
use crate::clock::now;
use crate::model::Alert;
use crate::novelty::{self, AlertPatience, Decision};
use crate::present::ShownAlert;
use crate::records::StoreDefect;
use crate::store::{Access, Store};

/// How often `--follow` asks the recorder.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// Accept what is known: from then on, every other dependency raises an alert
///
/// All workloads of a namespace, or of all namespaces: from then on, another workload that calls
/// raises an alert as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sidecarta accept -n shop            # all workloads of a namespace
  sidecarta accept -n shop web cart   # two of them
  sidecarta accept --recorder https://recorder.sidecarta:15098 -n shop")]
pub(super) struct AcceptOptions {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Only these workloads, by name
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<String>,
}

/// Silence an alert, and say why
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidecarta ignore new-dependency/shop/Deployment/web/shop/cart:80 \
                  --reason 'moved in release 12'"
)]
pub(super) struct IgnoreOptions {
    #[command(flatten)]
    read: ReadOptions,
    /// The alert's identity, as `sidecarta alerts` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Why; shown beside the alert
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Show what differs from what was accepted
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidecarta alerts -n shop\n  sidecarta alerts --follow --recorder \
                  https://recorder.sidecarta:15098"
)]
pub(super) struct AlertsOptions {
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    output: OutputOptions,
    /// Also those that are ignored
    #[arg(long)]
    all: bool,
    /// Run until interrupted, and print each new alert on a line of its own (asks a recorder)
    #[arg(long)]
    follow: bool,
}

/// The decision of the user who runs this program, on a store of this machine.
fn local_decision() -> Decision {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    Decision { by: Some(format!("{user} (local)")), at: now() }
}

pub(super) fn accept(options: &AcceptOptions) -> anyhow::Result<CommandOutcome> {
    let (namespace, names) = (options.view.namespace.as_deref(), &options.workloads);
    let accepted: Vec<(String, u64)> = match options.read.source()? {
        RecordSource::Recorder(recorder) => {
            let body = json!({"namespace": namespace, "workloads": names}).to_string().into_bytes();
            let answer: Value =
                serde_json::from_slice(&recorder.ask(Method::POST, "/v1/accept", body)?.body)?;
            let all = answer["accepted"].as_object().cloned().unwrap_or_default();
            all.into_iter().map(|(id, n)| (id, n.as_u64().unwrap_or(0))).collect()
        }
        RecordSource::Store(store) => {
            let mut store = open_to_change(&store)?;
            let accepted = novelty::accept(&mut store, namespace, names, &local_decision())?;
            store.close()?;
            accepted.into_iter().map(|(id, n)| (id.to_string(), n as u64)).collect()
        }
    };
    anyhow::ensure!(
        !accepted.is_empty(),
        "no such workload is known: `sidecarta status` lists them"
    );
    for (id, n) in &accepted {
        let mut out = String::new();
        output::line(&mut out, format_args!("{id}: {n} dependencies accepted"));
        output::print(&out)?;
    }
    Ok(CommandOutcome::Done)
}

pub(super) fn ignore(options: &IgnoreOptions) -> anyhow::Result<CommandOutcome> {
    anyhow::ensure!(
        !options.reason.trim().is_empty(),
        "the reason is empty: say why the alert is silenced"
    );
    match options.read.source()? {
        RecordSource::Recorder(recorder) => {
            let body = json!({"id": options.id, "reason": options.reason}).to_string().into_bytes();
            recorder.ask(Method::POST, "/v1/ignore", body)?;
        }
        RecordSource::Store(store) => {
            let mut store = open_to_change(&store)?;
            let decision = local_decision();
            let n = novelty::ignore(&mut store, &options.id, &options.reason, &decision)?;
            store.close()?;
            anyhow::ensure!(
                n > 0,
                "there is no alert {}: `sidecarta alerts` lists them",
                options.id
            );
        }
    }
    Ok(CommandOutcome::Done)
}

/// The alerts, and the outcome: `Partial` if a part of the store is missing.
fn fetch(
    options: &AlertsOptions,
    source: &RecordSource,
) -> anyhow::Result<(Vec<Alert>, CommandOutcome)> {
    let namespace = options.view.namespace.as_deref();
    let (mut all, outcome): (Vec<Alert>, CommandOutcome) = match source {
        RecordSource::Recorder(recorder) => (recorder.alerts(namespace)?, CommandOutcome::Done),
        RecordSource::Store(store) => {
            // A replay or an import compares nothing with what was accepted, so that is done now.
            // If the store cannot be written, the alerts are found but not stored.
            let mut store = match Store::open(store, Access::Existing) {
                Ok(store) => store,
                Err(_) => open_to_read(store)?,
            };
            novelty::review(&mut store, now(), AlertPatience::default())?;
            let (all, missing) = (store.alerts(namespace)?, StoreDefect::of(&store));
            store.close()?;
            (all.into_iter().map(|r| r.alert).collect(), read_outcome(missing.as_ref()))
        }
    };
    all.retain(|a| options.all || a.ignored.is_none());
    Ok((all, outcome))
}

pub(super) fn alerts(options: &AlertsOptions) -> anyhow::Result<CommandOutcome> {
    let source = options.read.source()?;
    let (all, outcome) = fetch(options, &source)?;
    if options.follow {
        anyhow::ensure!(
            matches!(source, RecordSource::Recorder(_)),
            "--follow asks a recorder: pass --recorder URL"
        );
        let mut shown = BTreeSet::new();
        let mut next = all;
        loop {
            for alert in next.iter().filter(|a| !shown.contains(&a.id())) {
                let (raised, kind) = (output::moment(alert.raised), alert.kind.name());
                let mut out = String::new();
                output::line(&mut out, format_args!("{raised}  {kind}  {}", alert.text()));
                output::print(&out)?;
            }
            shown.extend(next.iter().map(Alert::id));
            std::thread::sleep(FOLLOW_EVERY);
            next = fetch(options, &source)?.0;
        }
    }
    match options.output.output {
        Format::Table => output::print(&table(&all))?,
        format => output::data(format, &all.iter().map(ShownAlert::from).collect::<Vec<_>>())?,
    }
    Ok(outcome)
}

fn table(all: &[Alert]) -> String {
    if all.is_empty() {
        return "no alerts: all that is seen was accepted, or nothing was accepted yet \
                (`sidecarta accept`)\n"
            .to_owned();
    }
    let mut t = output::table(&["ID", "RAISED", "CONNECTIONS", "LAST SEEN", "WHAT"]);
    for a in all {
        let ignored = match &a.ignored {
            Some(why) => {
                let by = a.ignored_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                let at = a
                    .ignored_at
                    .map(|at| format!(" at {}", output::moment(at)))
                    .unwrap_or_default();
                format!(" (ignored{by}{at}: {why})")
            }
            None => String::new(),
        };
        t.add_row([
            a.id(),
            output::moment(a.raised),
            a.connections.to_string(),
            output::moment(a.last_seen),
            format!("{}{ignored}", a.text()),
        ]);
    }
    output::render(&t)
}
