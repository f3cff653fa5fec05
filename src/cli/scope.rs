//! `sidecarta scope`: what a pod sees, as `istioctl proxy-config` shows it, from a snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::output::{self, Format};
use super::{ClusterOptions, CommandOutcome, OutputOptions};
use crate::cluster::Cluster;
use crate::generate::DeclaredCall;
use crate::generate::calls::Planner;
use crate::mesh::{Mesh, MeshPod, Sidecar, VirtualService, sidecar_from_text};
use crate::model::valid;
use crate::scope::report::ScopeReport;
use crate::scope::{Client, Route, Scope, ScopeCall, everything, listeners, policy};
use crate::snapshot;

const EXAMPLE: &str = "\
Examples:
  sidecarta scope --cluster cluster.yaml shop/web-7d4b9c
  sidecarta scope --cluster cluster.yaml shop/web-7d4b9c --call reviews:9080 \
--call https://api.example.com:443
  sidecarta scope --cluster cluster.yaml shop/web-7d4b9c --sidecar new.yaml -o json

A call is [PROTOCOL://]HOST:PORT[@ADDRESS]; the protocol is http, tls or tcp, by default as the port
declares.";

/// Show what a pod sees under Istio's scoping, and why
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct ScopeOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// The pod (or a workload: its first pod)
    #[arg(value_name = "NAMESPACE/POD")]
    pod: Vec<String>,
    /// Try this Sidecar in place of the one that applies
    #[arg(long, value_name = "FILE")]
    sidecar: Option<PathBuf>,
    /// Also show the route of this call; may be repeated
    #[arg(long, value_name = "CALL")]
    call: Vec<String>,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeAnswer {
    #[serde(flatten)]
    scope: ScopeReport,
    /// The Sidecar that is tried would not apply to the pod.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    does_not_select: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    calls: Vec<CallAnswer>,
    /// VirtualServices of the mesh that are not in the pod's scope, with the reason.
    virtual_services_not_in_scope: Vec<OutOfScope>,
}

/// A call and its route in the scope.
#[derive(Debug, Serialize)]
struct CallAnswer {
    host: String,
    port: u16,
    protocol: &'static str,
    address: String,
    route: Route,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OutOfScope {
    virtual_service: String,
    #[serde(skip)]
    kind: &'static str,
    why: String,
}

/// Runs `sidecarta scope`.
pub(super) fn run(options: &ScopeOptions) -> anyhow::Result<CommandOutcome> {
    let (cluster, names) = options.cluster.and_names(&options.pod);
    let [name] = names.as_slice() else {
        bail!(
            "name one pod: `sidecarta scope --cluster PATH... NAMESPACE/POD`; given are {names:?}"
        );
    };
    let snapshot = snapshot::load_mesh(&cluster.cluster, cluster.cluster_domain.as_deref())?;
    let partial = super::report_snapshot(&snapshot.report);
    let pod = pod(&snapshot, name)?;
    let mesh = snapshot.meshes.of(pod.revision.as_deref());
    let address = pod.addresses.first().map(ToString::to_string);
    let client =
        Client { namespace: &pod.namespace, labels: &pod.labels, address: address.as_deref() };
    let tried = options.sidecar.as_ref().map(read_sidecar).transpose()?;
    let applied = match &tried {
        Some(s) => {
            if is_of_other_namespace(s, client.namespace, &mesh.config.root_namespace) {
                output::warn(format_args!(
                    "the Sidecar {}/{} is of another namespace than the pod and would not apply to \
                     it; shown is what it would give",
                    s.namespace, s.name
                ));
            } else if !s.selects(client.labels) {
                output::warn(format_args!(
                    "the selector of {} does not match the pod, so the Sidecar would not apply to \
                     it; shown is what it would give",
                    s.name
                ));
            }
            Some(s)
        }
        None => mesh.applied(client.namespace, client.labels),
    };
    let egress = listeners(applied);
    for host in egress.iter().flat_map(|e| &e.hosts).filter(|_| tried.is_some()) {
        if let Some(why) = crate::mesh::validate_egress_host(host) {
            output::warn(format_args!(
                "egress host {host:?}: istiod's validation refuses it: {why}"
            ));
        }
    }
    let scope = Scope::new(mesh, client.namespace, &egress, policy(mesh, applied));
    for (host, others) in dual_stack(&snapshot.cluster, &scope, pod) {
        output::note(format_args!(
            "dual stack is not modelled: {host} has {others} as well, and where istiod and the \
             proxy have both families, its listener has them too (`GetExtraAddressesForProxy`, \
             pilot/pkg/model/service.go)"
        ));
    }
    let mut calls = Vec::new();
    for text in &options.call {
        for call in parse(text, &scope, client)? {
            let route = Route::of(&scope.treat(&client, &call), mesh);
            let ScopeCall { host, port, protocol, address } = call;
            calls.push(CallAnswer {
                host,
                port,
                protocol: protocol.name(),
                address: address.to_string(),
                route,
            });
        }
    }
    let answer = ScopeAnswer {
        scope: ScopeReport::new(&scope, &client, applied),
        does_not_select: applied.is_some_and(|s| {
            let root = &mesh.config.root_namespace;
            tried.is_some()
                && (is_of_other_namespace(s, client.namespace, root) || !s.selects(client.labels))
        }),
        calls,
        virtual_services_not_in_scope: out_of_scope(mesh, &scope),
    };
    match options.output.output {
        Format::Table => output::print(&table(&answer, applied, mesh))?,
        format => output::data(format, &answer)?,
    }
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

/// If the pod has addresses of both families: the hosts of Services in scope that have both as
/// well, with their addresses for which the model has no listener.
fn dual_stack(cluster: &Cluster, scope: &Scope<'_>, pod: &MeshPod) -> Vec<(String, String)> {
    let both = |all: &[IpAddr]| all.iter().any(IpAddr::is_ipv4) && all.iter().any(IpAddr::is_ipv6);
    if !both(&pod.addresses) {
        return Vec::new();
    }
    let of = |host: &str, listener: &str| {
        let mut all = cluster.cluster_ips_of(host);
        let two = both(&all);
        all.retain(|a| a.to_string() != listener);
        all.sort_unstable();
        let words: Vec<String> = all.iter().map(ToString::to_string).collect();
        (two && !words.is_empty()).then(|| words.join(", "))
    };
    let services = scope.services.iter().map(|s| s.service);
    let found = services.filter_map(|s| Some((s.host.to_string(), of(&s.host, &s.address)?)));
    found.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Whether a Sidecar is of another namespace than the pod, and not the mesh's default.
fn is_of_other_namespace(s: &Sidecar, namespace: &str, root: &str) -> bool {
    let default = s.selector.is_none() && s.namespace == root;
    !s.namespace.is_empty() && s.namespace != namespace && !default
}

/// The pod of this name, else the first pod of the workload of this name.
fn pod<'s>(snapshot: &'s snapshot::Snapshot, name: &str) -> anyhow::Result<&'s MeshPod> {
    let Some((namespace, short)) = name.split_once('/') else {
        bail!("{name:?} names no pod: write NAMESPACE/POD");
    };
    let known = |name: &str| snapshot.meshes.all().find_map(|m| m.pod(namespace, name));
    if let Some(pod) = known(short) {
        return Ok(pod);
    }
    let of_workload = snapshot
        .cluster
        .pods()
        .iter()
        .filter(|p| p.workload.namespace == namespace && p.workload.name == short);
    of_workload.filter_map(|p| known(&p.name)).next().with_context(|| {
        let all = snapshot.meshes.first().pods().iter();
        let same_namespace = all.filter(|p| p.namespace == namespace);
        let examples: Vec<&str> = same_namespace.map(|p| p.name.as_str()).take(5).collect();
        let absent = format!("no pod and no workload {name} is in the snapshot");
        match examples.as_slice() {
            [] => format!("{absent}, nor any pod of the namespace {namespace}"),
            some => format!("{absent}; of {namespace} there are {}", some.join(", ")),
        }
    })
}

fn read_sidecar(path: &PathBuf) -> anyhow::Result<Sidecar> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the Sidecar {}", path.display()))?;
    sidecar_from_text(&text).map_err(|e| anyhow::anyhow!("{} is no Sidecar: {e}", path.display()))
}

/// Reads a call, `[PROTOCOL://]HOST:PORT[@ADDRESS]`. A host with several addresses gives several
/// calls.
fn parse(text: &str, scope: &Scope<'_>, client: Client<'_>) -> anyhow::Result<Vec<ScopeCall>> {
    let wrong = || {
        format!(
            "{text:?} is no call: write [PROTOCOL://]HOST:PORT[@ADDRESS], for example \
             reviews.shop.svc.cluster.local:9080"
        )
    };
    let (protocol, rest) =
        text.split_once("://").map_or((None, text), |(p, r)| (Some(p.to_owned()), r));
    let (rest, address) = rest.split_once('@').map_or((rest, None), |(r, a)| (r, Some(a)));
    let (host, port) = rest.rsplit_once(':').with_context(wrong)?;
    let port = port.parse().ok().with_context(wrong)?;
    let address = address.map(str::parse).transpose().ok().with_context(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    valid::called_host(&host).with_context(wrong)?;
    // The host is resolved in the whole mesh, whether it is in scope or not.
    let everything = [everything()];
    let full = Scope::new(scope.mesh, scope.namespace, &everything, scope.policy);
    let mut planner = Planner::new(&full, client);
    planner.declare(&DeclaredCall {
        workload: String::new(),
        host,
        port: Some(port),
        protocol,
        address,
        from: String::new(),
    });
    let plan = planner.finish();
    plan.remarks.iter().for_each(output::note);
    Ok(plan.calls.into_iter().map(|p| p.call).collect())
}

fn out_of_scope(mesh: &Mesh, scope: &Scope<'_>) -> Vec<OutOfScope> {
    let in_scope = |v: &VirtualService| {
        scope.listeners.iter().any(|l| l.virtual_services.iter().any(|x| x.order == v.order))
    };
    let why = |v: &VirtualService| {
        let namespace = scope.namespace;
        if !v.mesh {
            "it is bound to gateways only (its `gateways` do not name `mesh`)".to_owned()
        } else if !v.export.public() && (v.export.lists("~") || !v.export.lists(namespace)) {
            format!("it is not exported to {namespace}")
        } else {
            let entry = |h: &String| format!("{}/{h}", v.namespace);
            let hosts: Vec<String> = v.hosts.iter().map(entry).collect();
            format!(
                "no egress host imports it: its own namespace counts, so list {}",
                hosts.join(" or ")
            )
        }
    };
    let all = mesh.virtual_services().iter().filter(|v| !in_scope(v));
    let mut out: Vec<OutOfScope> =
        all.map(|v| OutOfScope { virtual_service: v.id(), kind: v.kind(), why: why(v) }).collect();
    out.sort_by(|a, b| a.virtual_service.cmp(&b.virtual_service));
    out
}

/// The answer as text for people.
fn table(answer: &ScopeAnswer, applied: Option<&Sidecar>, mesh: &Mesh) -> String {
    let mut out = String::new();
    add_sidecar(&mut out, answer, applied, mesh);
    add_listeners(&mut out, &answer.scope);
    add_services(&mut out, &answer.scope);
    for call in &answer.calls {
        add_call(&mut out, call);
    }
    if !answer.virtual_services_not_in_scope.is_empty() {
        out.push_str("\nnot in scope:\n");
        for u in &answer.virtual_services_not_in_scope {
            output::line(&mut out, format_args!("  {} {}: {}", u.kind, u.virtual_service, u.why));
        }
    }
    out
}

/// Adds the Sidecar that applies, and the size of the scope.
fn add_sidecar(out: &mut String, answer: &ScopeAnswer, applied: Option<&Sidecar>, mesh: &Mesh) {
    match applied {
        Some(s) => {
            let kind = match (&s.selector, s.namespace == mesh.config.root_namespace) {
                _ if answer.does_not_select => "tried: it does not select the pod",
                (Some(_), _) => "its selector matches",
                (None, true) => "the mesh's default",
                (None, false) => "the namespace's default",
            };
            output::line(out, format_args!("Sidecar        {}/{} ({kind})", s.namespace, s.name));
        }
        None => out.push_str(
            "Sidecar        none: everything that is exported to the namespace is imported\n",
        ),
    }
    let s = &answer.scope;
    out.push_str(&format!("unknown hosts  {}\n", s.outbound_traffic_policy));
    let endpoints: u64 = s.clusters.values().sum();
    out.push_str(&format!("clusters       {} with {endpoints} endpoints\n\n", s.clusters.len()));
}

/// Adds the egress listeners with their hosts and VirtualServices.
fn add_listeners(out: &mut String, s: &ScopeReport) {
    for l in &s.listeners {
        let port = l.port.map_or_else(|| "catch-all".to_owned(), |p| format!("port {p}"));
        let virtuals = if l.virtual_services.is_empty() {
            "none".to_owned()
        } else {
            l.virtual_services.join(", ")
        };
        output::line(out, format_args!("egress listener, {port}: {}", l.hosts.join(", ")));
        output::line(out, format_args!("  VirtualServices: {virtuals}"));
    }
    out.push('\n');
}

/// Adds the table of Services.
fn add_services(out: &mut String, s: &ScopeReport) {
    let mut t =
        output::table(&["HOST", "NAMESPACE", "KIND", "PORTS", "DESTINATION RULES", "ALIASES"]);
    for x in &s.services {
        let ports: Vec<String> = x.ports.iter().map(ToString::to_string).collect();
        let rules = s.destination_rules.get(&x.host).map(|r| r.join(", ")).unwrap_or_default();
        t.add_row([
            x.host.clone(),
            x.namespace.clone(),
            x.kind.to_owned(),
            ports.join(","),
            rules,
            x.aliases.join(", "),
        ]);
    }
    out.push_str(&output::render(&t));
}

/// Adds a call with its route.
fn add_call(out: &mut String, c: &CallAnswer) {
    let by: Vec<String> = c.route.virtual_services.iter().cloned().collect();
    let mut call =
        format!("call {}://{}:{} to {}: {}", c.protocol, c.host, c.port, c.address, c.route.kind);
    if !by.is_empty() {
        call.push_str(&format!(", by {}", by.join(", ")));
    }
    out.push('\n');
    output::line(out, call);
    for cluster in &c.route.clusters {
        output::line(out, format_args!("  {cluster}"));
    }
    if !c.route.mirrors.is_empty() {
        let all: Vec<String> = c.route.mirrors.iter().cloned().collect();
        output::line(out, format_args!("  mirrored to {}", all.join(", ")));
    }
}
