//! `sidecarta accept`, `sidecarta ignore` and `sidecarta alerts`.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::output::{self, Format};
use super::remote::{Place, query};
use super::{Outcome, OutputOptions, ReadOptions, ViewOptions, existing};
use crate::clock::now;
use crate::model::Alert;
use crate::novelty::{self, Patience};
use crate::present::ShownAlert;

/// How often `--follow` looks.
const LOOK: Duration = Duration::from_secs(2);

/// Accept what is known: from then on, what is not among it raises an alert
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

/// Say of an alert that nobody wants to hear of it, and why
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidecarta ignore new-dependency/shop/Deployment/web/shop/cart:80 --reason 'moved in release 12'"
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

/// Show what is not as it was accepted
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidecarta alerts -n shop\n  sidecarta alerts --follow --recorder https://recorder.sidecarta:15098"
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
    /// Go on, and print each new one on a line of its own (asks a recorder; a store is open to one
    /// process only)
    #[arg(long)]
    follow: bool,
}

pub(super) fn accept(options: &AcceptOptions) -> anyhow::Result<Outcome> {
    let (namespace, names) = (options.view.namespace.as_deref(), &options.workloads);
    let accepted: Vec<(String, u64)> = match options.read.place()? {
        Place::Recorder(recorder) => {
            let body = json!({"namespace": namespace, "workloads": names}).to_string().into_bytes();
            let answer: Value =
                serde_json::from_slice(&recorder.ask(Method::POST, "/v1/accept", body)?.body)?;
            let all = answer["accepted"].as_object().cloned().unwrap_or_default();
            all.into_iter().map(|(id, n)| (id, n.as_u64().unwrap_or(0))).collect()
        }
        Place::Store(store) => {
            let mut store = existing(&store)?;
            let accepted = novelty::accept(
                &mut store,
                namespace,
                |id| names.is_empty() || names.contains(&id.name),
                now(),
            )?;
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
    Ok(Outcome::Done)
}

pub(super) fn ignore(options: &IgnoreOptions) -> anyhow::Result<Outcome> {
    match options.read.place()? {
        Place::Recorder(recorder) => {
            let body = json!({"id": options.id, "reason": options.reason}).to_string().into_bytes();
            recorder.ask(Method::POST, "/v1/ignore", body)?;
        }
        Place::Store(store) => {
            let mut store = existing(&store)?;
            let n = novelty::ignore(&mut store, &options.id, &options.reason)?;
            store.close()?;
            anyhow::ensure!(
                n > 0,
                "there is no alert {}: `sidecarta alerts` lists them",
                options.id
            );
        }
    }
    Ok(Outcome::Done)
}

fn fetch(options: &AlertsOptions, place: &Place) -> anyhow::Result<Vec<Alert>> {
    let namespace = options.view.namespace.as_deref();
    let mut all: Vec<Alert> = match place {
        Place::Recorder(recorder) => {
            let path = format!("/v1/alerts{}", query(namespace));
            serde_json::from_slice(&recorder.ask(Method::GET, &path, Vec::new())?.body)?
        }
        Place::Store(store) => {
            // Whatever has filled the store, a replay or an import: it is held against what was
            // accepted now.
            let mut store = existing(store)?;
            novelty::review(&mut store, now(), Patience::default())?;
            let all = store.alerts(namespace)?;
            store.close()?;
            all.into_iter().map(|r| r.alert).collect()
        }
    };
    all.retain(|a| options.all || a.ignored.is_none());
    Ok(all)
}

pub(super) fn alerts(options: &AlertsOptions) -> anyhow::Result<Outcome> {
    let place = options.read.place()?;
    let all = fetch(options, &place)?;
    if options.follow {
        anyhow::ensure!(
            matches!(place, Place::Recorder(_)),
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
            std::thread::sleep(LOOK);
            next = fetch(options, &place)?;
        }
    }
    match options.output.output {
        Format::Table => output::print(&table(&all))?,
        format => output::data(format, &all.iter().map(ShownAlert::from).collect::<Vec<_>>())?,
    }
    Ok(Outcome::Done)
}

fn table(all: &[Alert]) -> String {
    if all.is_empty() {
        return "no alerts: all that is seen was accepted, or nothing was accepted yet (`sidecarta accept`)\n".to_owned();
    }
    let mut t = output::table(&["ID", "RAISED", "CONNECTIONS", "LAST SEEN", "WHAT"]);
    for a in all {
        let ignored =
            a.ignored.as_ref().map(|why| format!(" (ignored: {why})")).unwrap_or_default();
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
