//! `sidecarta explain`.

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::generate::{
    GenerationInput, ReadyOptions, SourceOptions, WorkloadNames, no_such_workload, outcomes,
    read_input,
};
use super::output::{self, Format};
use super::{CommandOutcome, OutputOptions};
use crate::generate::calls::Origin;
use crate::generate::minimal::{FORCE_SCAN, Reason};
use crate::generate::{self, KeptCall, SILENT};
use crate::model::{Dependency, Example, Grade, Tally, WorkloadId};
use crate::scope::Route;

const EXAMPLE: &str = "\
Examples:
  sidecarta explain --cluster cluster.yaml default/my-shell
  sidecarta explain --cluster cluster.yaml default/my-shell reviews.bookinfo.svc.cluster.local";

/// Show for each egress host of a workload which calls and which evidence ask for it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct ExplainOptions {
    #[command(flatten)]
    source: SourceOptions,
    /// The workload, or a pod of it; then, only this host
    #[arg(value_name = "NAMESPACE/WORKLOAD [HOST]")]
    names: Vec<String>,
    #[command(flatten)]
    ready: ReadyOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    workload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    withheld: Option<generate::Withheld>,
    /// Known calls that no list is sure to keep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<generate::Gap>,
    hosts: Vec<ExplainedHost>,
    not_covered: Vec<NotCovered>,
    rejected: Vec<RejectedHost>,
    notes: Vec<String>,
}

/// An egress host that is listed, with the calls that ask for it.
#[derive(Debug, Serialize)]
struct ExplainedHost {
    host: String,
    why: String,
    calls: Vec<ExplainedCall>,
}

/// A call with its route and the evidence for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedCall {
    host: String,
    port: u16,
    protocol: &'static str,
    origin: Origin,
    route: Route,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Tally>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<Grade>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<Example>,
}

/// A call that no egress host concerns.
#[derive(Debug, Serialize)]
struct NotCovered {
    #[serde(flatten)]
    call: ExplainedCall,
    why: String,
}

/// A candidate that is not listed.
#[derive(Debug, Serialize)]
struct RejectedHost {
    host: String,
    why: String,
}

/// Runs `sidecarta explain`.
pub(super) fn run(options: &ExplainOptions) -> anyhow::Result<CommandOutcome> {
    let (cluster, names) = options.source.cluster.and_names(&options.names);
    let (workload, host) = match names.as_slice() {
        [workload] => (workload, None),
        [workload, host] => (workload, Some(host.as_str())),
        _ => anyhow::bail!(
            "name one workload: `sidecarta explain --cluster PATH... NAMESPACE/WORKLOAD [HOST]`; \
             given are {names:?}"
        ),
    };
    let input = read_input(&options.source, &cluster)?;
    let names = WorkloadNames::new(&input.snapshot, &input.subjects);
    let id = names.find(workload).cloned().with_context(|| no_such_workload(workload))?;
    let mut how =
        generate::GenerateOptions { detail: true, ..generate::GenerateOptions::default() };
    options.ready.apply(&mut how);
    let all = outcomes(&input, &how, &|w| *w == id);
    let outcome = all.into_iter().next().with_context(|| format!("nothing is known of {id}"))?;
    let explanation = explain(&id, &outcome, &input, host);
    if let Some(host) = host
        && explanation.hosts.is_empty()
        && explanation.not_covered.is_empty()
        && explanation.rejected.is_empty()
    {
        let listed = outcome.proof.as_ref().map(|p| p.hosts.join(", ")).unwrap_or_default();
        anyhow::bail!("nothing that is known of {id} concerns {host}; its hosts are {listed}");
    }
    match options.output.output {
        Format::Table => output::print(&text(&explanation))?,
        format => output::data(format, &explanation)?,
    }
    Ok(if input.partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

/// The explanation of a workload; with `host`, only what concerns this host.
fn explain(
    id: &WorkloadId,
    outcome: &generate::GroupOutcome,
    input: &GenerationInput,
    host: Option<&str>,
) -> Explanation {
    let mesh = input.snapshot.meshes.first();
    let explained_call = |k: &KeptCall| {
        let learned = input.learned.get(&k.workload);
        let dependency = k.planned.dependency.and_then(|i| learned?.dependencies.get(i));
        explained_call(k, dependency, mesh)
    };
    let wanted = |text: &str| host.is_none_or(|h| concerns(text, &h.to_ascii_lowercase()));
    let listed = outcome.proof.iter().flat_map(|p| &p.hosts).filter(|h| wanted(h));
    let hosts = listed.map(|host| ExplainedHost {
        host: host.clone(),
        why: why_listed(host, outcome),
        calls: outcome
            .calls
            .iter()
            .filter(|k| k.hosts.contains(host))
            .map(explained_call)
            .collect(),
    });
    let not_covered =
        outcome.calls.iter().filter(|k| k.treatment.is_unrouted() && wanted(&k.planned.call.host));
    let not_covered = not_covered.map(|k| NotCovered {
        call: explained_call(k),
        why: "no Service, ServiceEntry or VirtualService that this workload may see has this host \
              and port: it is treated the same with and without the Sidecar"
            .to_owned(),
    });
    let rejected = outcome.rejected.iter().filter(|(h, _)| wanted(h));
    let rejected =
        rejected.map(|(host, why)| RejectedHost { host: host.clone(), why: why.clone() });
    Explanation {
        workload: id.to_string(),
        withheld: outcome.withheld.clone(),
        gaps: outcome.gaps.clone(),
        hosts: hosts.collect(),
        not_covered: not_covered.collect(),
        rejected: rejected.collect(),
        notes: outcome.remarks.clone(),
    }
}

/// Whether a host or egress host is the given one, or begins with its first labels.
fn concerns(text: &str, host: &str) -> bool {
    text == host
        || text.ends_with(&format!("/{host}"))
        || text.starts_with(&format!("{host}."))
        || text.contains(&format!("/{host}."))
}

/// Why an egress host is listed.
fn why_listed(host: &str, outcome: &generate::GroupOutcome) -> String {
    match outcome.proof.as_ref().and_then(|p| p.reasons.get(host)) {
        _ if host == SILENT => "nothing was called that a host could cover".to_owned(),
        _ if host == FORCE_SCAN => "makes istiod scan instead of looking exact hosts up".to_owned(),
        Some(Reason::Call(i)) => match outcome.calls.get(*i) {
            Some(k) => format!(
                "without it the call of {}:{} would be treated otherwise",
                k.planned.call.host, k.planned.call.port
            ),
            None => "a call needs it".to_owned(),
        },
        Some(Reason::Implied(host, port)) => {
            let senders = outcome.implied.iter().filter(|i| i.host == *host && i.port == *port);
            let by: Vec<&str> = senders.map(|i| i.why.as_str()).collect();
            format!("implied: the proxy itself sends to {host}:{port} ({})", by.join("; "))
        }
        Some(Reason::Inbound(pod, port)) => format!(
            "the workload's own Service: without it port {port} of {pod} loses the connection \
             pool that a DestinationRule sets"
        ),
        Some(Reason::Assumed) => {
            "it was called, and the snapshot has no such Service: it is listed by its name"
                .to_owned()
        }
        Some(Reason::Unproved) => "no narrower list keeps every call as it is".to_owned(),
        None => "it can be left out".to_owned(),
    }
}

fn explained_call(
    k: &KeptCall,
    dependency: Option<&Dependency>,
    mesh: &crate::mesh::Mesh,
) -> ExplainedCall {
    let call = &k.planned.call;
    ExplainedCall {
        host: call.host.clone(),
        port: call.port,
        protocol: call.protocol.name(),
        origin: k.planned.origin,
        route: Route::of(&k.treatment, mesh),
        seen: dependency.map(|d| d.tally),
        evidence: dependency.map(|d| d.evidence.keys().copied().collect()).unwrap_or_default(),
        example: dependency
            .and_then(|d| d.evidence.values().flat_map(|e| &e.examples).next().cloned()),
    }
}

/// The explanation as text for people.
fn text(e: &Explanation) -> String {
    let mut out = String::new();
    output::line(&mut out, &e.workload);
    if let Some(w) = &e.withheld {
        output::line(&mut out, format_args!("withheld: {}", w.reason));
    }
    if !e.gaps.is_empty() {
        out.push_str("\nnot kept for sure by any list:\n");
        e.gaps.iter().for_each(|g| output::line(&mut out, format_args!("  {g}")));
    }
    for h in &e.hosts {
        out.push('\n');
        output::line(&mut out, &h.host);
        output::line(&mut out, format_args!("  {}", h.why));
        h.calls.iter().for_each(|c| add_call(c, &mut out));
    }
    if !e.not_covered.is_empty() {
        out.push_str("\nnot covered by any host:\n");
        for n in &e.not_covered {
            add_call(&n.call, &mut out);
            output::line(&mut out, format_args!("    {}", n.why));
        }
    }
    if !e.rejected.is_empty() {
        out.push_str("\nrejected:\n");
        let all = e.rejected.iter();
        all.for_each(|r| output::line(&mut out, format_args!("  {}: {}", r.host, r.why)));
    }
    if !e.notes.is_empty() {
        out.push_str("\nnotes:\n");
        e.notes.iter().for_each(|n| output::line(&mut out, format_args!("  {n}")));
    }
    out
}

/// Adds the lines of a call.
fn add_call(c: &ExplainedCall, out: &mut String) {
    let origin = match c.origin {
        Origin::Learned => "seen",
        Origin::Addressed => "addressed by this name",
        Origin::Possible => "possibly addressed by this name",
        Origin::Declared => "declared",
        Origin::LookedUp => "looked up",
    };
    let mut call =
        format!("  call {}://{}:{}, {origin}: {}", c.protocol, c.host, c.port, c.route.kind);
    if !c.route.virtual_services.is_empty() {
        let all: Vec<&str> = c.route.virtual_services.iter().map(String::as_str).collect();
        call.push_str(&format!(", by the VirtualService {}", all.join(", ")));
    }
    output::line(out, call);
    if let Some(t) = &c.seen {
        let evidence: Vec<&str> = c.evidence.iter().map(|g| g.describe()).collect();
        out.push_str(&format!(
            "    {} connections, first {}, last {}; evidence: {}\n",
            t.connections,
            output::moment(t.first_seen),
            output::moment(t.last_seen),
            evidence.join(", ")
        ));
    }
    if let Some(x) = &c.example {
        let name = x.name.as_deref().map(|n| format!(" naming {n}")).unwrap_or_default();
        let (time, from, to) = (x.time, x.from, x.to);
        output::line(out, format_args!("    for example {time} from {from} to {to}{name}"));
    }
}
