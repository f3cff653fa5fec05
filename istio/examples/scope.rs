//! What istiod selects for a pod, and where its calls go.
//!
//! ```text
//! kubectl get pods,services,endpointslices,configmaps -A -o yaml > cluster.yaml
//! kubectl get sidecars,virtualservices,destinationrules,serviceentries -A -o yaml > istio.yaml
//! cargo run -p sidecarta-istio --example scope -- shop/web-0 cluster.yaml istio.yaml \
//!     --call http://cart.shop.svc.cluster.local:80
//! ```
//! A call is `PROTOCOL://HOST:PORT`; the host's address is that of its Service.

#![allow(clippy::print_stdout)] // it is a program

use std::fs;

use anyhow::{Context, bail};
use sidecarta_istio::mesh::{Mesh, MeshBuilder};
use sidecarta_istio::objects::read_yaml;
use sidecarta_istio::scope::{CallProtocol, Client, Route, Scope, ScopeCall, listeners, policy};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context("usage: scope NAMESPACE/POD PATH... [--call CALL]...")?;
    let (mut builder, mut calls) = (MeshBuilder::default(), Vec::new());
    while let Some(arg) = args.next() {
        if arg == "--call" {
            calls.push(args.next().context("--call needs a call")?);
            continue;
        }
        let text = fs::read_to_string(&arg).with_context(|| arg.clone())?;
        let objects = read_yaml(&text).with_context(|| arg.clone())?;
        objects.into_iter().for_each(|object| builder.add(object));
    }
    let (mesh, problems) = builder.build();
    problems.iter().for_each(|p| println!("note: {p}"));

    let (namespace, short) = name.split_once('/').context("a pod is NAMESPACE/POD")?;
    let pod = mesh.pod(namespace, short).with_context(|| format!("there is no pod {name}"))?;
    let address = pod.addresses.first().map(ToString::to_string);
    let client =
        Client { namespace: &pod.namespace, labels: &pod.labels, address: address.as_deref() };
    let sidecar = mesh.applied(client.namespace, client.labels);
    let egress = listeners(sidecar);
    let scope = Scope::new(&mesh, client.namespace, &egress, policy(&mesh, sidecar));

    let applies = sidecar.map_or("none".to_owned(), |s| format!("{}/{}", s.namespace, s.name));
    println!("Sidecar: {applies}; unknown hosts: {}", scope.policy.name());
    for service in &scope.services {
        let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        println!("in scope: {} (ports {})", service.service.entry(), ports.join(", "));
    }
    let size = scope.size(client.labels);
    println!("clusters: {}, with {} endpoints", size.clusters, size.endpoints);
    calls.iter().try_for_each(|text| show(&mesh, &scope, client, text))
}

/// Prints the route of a call.
fn show(mesh: &Mesh, scope: &Scope<'_>, client: Client<'_>, text: &str) -> anyhow::Result<()> {
    let call = parse(mesh, text)?;
    let treatment = scope.treat(&client, &call);
    let route = Route::of(&treatment, mesh);
    let by: Vec<&str> = route.virtual_services.iter().map(String::as_str).collect();
    println!("call {text} to {}: {}, VirtualServices: {by:?}", call.address, route.kind);
    for (cluster, weight) in treatment.steps.iter().flat_map(|s| &s.clusters) {
        // A destination that stands alone needs no weight.
        let share = if *weight > 0 { format!(", weight {weight}") } else { String::new() };
        println!("  {}{share}", cluster.name());
        for endpoint in scope.endpoints(cluster, client.labels) {
            println!("    {}", endpoint.address);
        }
    }
    Ok(())
}

/// Reads `PROTOCOL://HOST:PORT`.
fn parse(mesh: &Mesh, text: &str) -> anyhow::Result<ScopeCall> {
    let (protocol, rest) = text.split_once("://").context("a call is PROTOCOL://HOST:PORT")?;
    let (host, port) = rest.rsplit_once(':').context("a call has a port")?;
    let protocol = match protocol {
        "http" => CallProtocol::Http,
        "tls" => CallProtocol::Tls,
        "tcp" => CallProtocol::Tcp,
        other => bail!("{other} is none of http, tls, tcp"),
    };
    let address = mesh.services_of(host).find_map(|s| s.address.parse().ok());
    let address = address.with_context(|| format!("no Service has the host {host}"))?;
    Ok(ScopeCall { host: host.to_owned(), port: port.parse()?, protocol, address })
}
