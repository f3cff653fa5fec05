//! A proxy's own settings, as its pod runs it: which connections are redirected to it, since when,
//! and which DNS domain it was given.
//!
//! Owns reading them from containers and annotations. Must never take a default where the pod has a
//! setting.

use std::str::FromStr;

use super::CaptureScope;
use super::objects::{Container, ContainerStatus, PodObject, PodSpec, read};
use crate::model::Time;

/// The proxy's container. A native sidecar is one of the init containers.
pub(super) fn proxy(spec: &PodSpec) -> Option<&Container> {
    spec.containers.iter().chain(&spec.init_containers).find(|c| c.name == "istio-proxy")
}

/// When the proxy began to run; `None` where that is not known, or where it was restarted: it may
/// have run before.
pub(super) fn proxy_since(pod: &PodObject) -> Option<Time> {
    let status = &pod.status;
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let of_proxy = |s: &&ContainerStatus| s.name == "istio-proxy" && s.restart_count == 0;
    let state = &all.find(of_proxy)?.state;
    let running = state.running.as_ref().and_then(|r| r.started_at);
    running.or(state.terminated.as_ref().and_then(|t| t.started_at))
}

/// The cluster's DNS domain: what a sidecar is given behind `$(POD_NAMESPACE).svc.`
/// (`manifests/charts/istio-control/istio-discovery/files/injection-template.yaml`), or istiod as
/// it is (`pilot/cmd/pilot-discovery/app/cmd.go`).
pub(crate) fn dns_domain(pod: &PodObject) -> Option<String> {
    let domain = |c: &Container| option(&c.args, &["--domain"]).map(str::to_owned);
    let domain = match proxy(&pod.spec) {
        Some(proxy) => {
            let whole = domain(proxy)?;
            let (_, domain) = whole.split_once(".svc.")?;
            domain.to_owned()
        }
        None => domain(pod.spec.containers.iter().find(|c| c.name == "discovery")?)?,
    };
    let domain = domain.trim_matches('.').to_ascii_lowercase();
    // A variable is resolved in the container alone.
    (!domain.is_empty() && !domain.contains('$')).then_some(domain)
}

/// The value of an option, in any of the spellings that `pflag` takes: `-o 1`, `-o=1`, `-o1`,
/// `--name 1`, `--name=1`. The last one counts.
fn option<'a>(args: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    let mut args = args.iter().map(String::as_str).peekable();
    while let Some(arg) = args.next() {
        for name in names {
            let Some(rest) = arg.strip_prefix(name) else { continue };
            let short = !name.starts_with("--");
            if rest.is_empty() {
                found = args.peek().copied();
            } else if let Some(value) = rest.strip_prefix('=') {
                found = Some(value);
            } else if short {
                found = Some(rest);
            }
        }
    }
    found
}

/// The container that redirects connections to the proxy, or checks that the CNI has: both have
/// the same arguments (`istio-init`, `istio-validation`).
fn redirecting(spec: &PodSpec) -> Option<&Container> {
    let runs = |c: &&Container| {
        c.command
            .iter()
            .chain(&c.args)
            .any(|a| a == "istio-iptables" || a.ends_with("/istio-iptables"))
    };
    spec.init_containers.iter().chain(&spec.containers).find(runs)
}

/// Which outbound connections reach the proxy: by the arguments of `istio-iptables` as they are
/// (`tools/istio-iptables/pkg/cmd/root.go`), else by the annotations that become them, or that the
/// CNI reads (`traffic.sidecar.istio.io/…`, `cni/pkg/plugin/sidecar_redirect.go`).
pub(super) fn capture_scope(pod: &PodObject, refuse: &mut impl FnMut(&str, &str)) -> CaptureScope {
    let annotations = &pod.metadata.annotations;
    let container = redirecting(&pod.spec);
    let given = |options: [&str; 2], annotation: &str| -> Option<String> {
        match container {
            Some(c) => {
                option(&c.args, &options).or(option(&c.command, &options)).map(str::to_owned)
            }
            None => annotations.get(&format!("traffic.sidecar.istio.io/{annotation}")).cloned(),
        }
    };
    let mode = match container {
        Some(c) => option(&c.args, &["-m", "--istio-inbound-interception-mode"]),
        None => annotations.get("sidecar.istio.io/interceptionMode").map(String::as_str),
    };
    let include_ranges = given(["-i", "--istio-service-cidr"], "includeOutboundIPRanges");
    let exclude_ranges = given(["-x", "--istio-service-exclude-cidr"], "excludeOutboundIPRanges");
    let exclude_ports =
        given(["-o", "--istio-local-outbound-ports-exclude"], "excludeOutboundPorts");
    let include_ports = given(["-q", "--istio-outbound-ports"], "includeOutboundPorts");
    if mode == Some("NONE") {
        return CaptureScope { include_ranges: Some(Vec::new()), ..CaptureScope::default() };
    }
    let is_all = |text: &Option<String>| text.as_deref().is_some_and(|t| t.trim() == "*");
    let include_ranges = match &include_ranges {
        _ if is_all(&include_ports) || is_all(&include_ranges) => None,
        // `istio-iptables` takes an absent list for an empty one: nothing is redirected.
        None if container.is_some() => Some(Vec::new()),
        None => None,
        Some(text) => Some(list("includeOutboundIPRanges", text, refuse)),
    };
    let some = |text: Option<String>| text.filter(|t| t.trim() != "*").unwrap_or_default();
    CaptureScope {
        include_ranges,
        exclude_ranges: list("excludeOutboundIPRanges", &some(exclude_ranges), refuse),
        exclude_ports: list("excludeOutboundPorts", &some(exclude_ports), refuse),
        include_ports: list("includeOutboundPorts", &some(include_ports), refuse),
    }
}

/// The items of a list with commas. What cannot be read is passed to `refuse`.
fn list<T: FromStr, L: FromIterator<T>>(
    name: &str,
    text: &str,
    refuse: &mut impl FnMut(&str, &str),
) -> L {
    let parts = text.split(',').map(str::trim);
    parts.filter_map(|part| read(part, |text| refuse(name, text))).collect()
}
