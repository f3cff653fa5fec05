//! Builds the mesh from objects, whatever order they come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};
use serde_json::Value;

use super::config::MeshConfig;
use super::destinationrule::Rules;
use super::host::is_wildcard;

use super::service::{Registry, Resolution, from_entry, from_kube};
use super::{
    Endpoint, Indexed, Mesh, MeshPod, ProviderUse, Service, Sidecar, Target, validate,
    virtualservice,
};
use crate::objects::{self, Known, MeshConfigSpec, Provided};
use sidecarta_model::{Time, selects};
use sidecarta_text::yaml;

/// Default DNS domain of a cluster.
const DOMAIN: &str = "cluster.local";

/// Collects objects; [`Builder::build`] makes the mesh.
///
/// # Examples
/// ```
/// use sidecarta_istio::mesh::Builder;
/// use sidecarta_istio::objects::read_yaml;
///
/// let mut builder = Builder::default().domain("cluster.example");
/// let text = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}}";
/// read_yaml(text)?.into_iter().for_each(|object| builder.add(object));
/// let (mesh, _) = builder.build();
/// assert!(mesh.has_host("cart.shop.svc.cluster.example"));
/// # Ok::<(), sidecarta_istio::objects::ReadError>(())
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    domain: Option<String>,
    pods: Vec<objects::Pod>,
    services: Vec<objects::Service>,
    slices: Vec<objects::EndpointSlice>,
    entries: Vec<objects::ServiceEntry>,
    virtual_services: Vec<objects::VirtualService>,
    rules: Vec<objects::DestinationRule>,
    sidecars: Vec<objects::Sidecar>,
    telemetries: Vec<objects::Telemetry>,
    policies: Vec<objects::AuthorizationPolicy>,
    config_maps: Vec<objects::ConfigMap>,
}

impl Builder {
    /// Uses this DNS domain in place of `cluster.local`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.trim_matches('.').to_owned());
        self
    }

    /// Takes an object.
    pub fn add(&mut self, object: Known) {
        match object {
            Known::Pod(o) => self.pods.push(o),
            Known::Service(o) => self.services.push(o),
            Known::EndpointSlice(o) => self.slices.push(o),
            Known::ConfigMap(o) => self.config_maps.push(o),
            Known::ServiceEntry(o) => self.entries.push(o),
            Known::VirtualService(o) => self.virtual_services.push(o),
            Known::DestinationRule(o) => self.rules.push(o),
            Known::Sidecar(o) => self.sidecars.push(o),
            Known::Telemetry(o) => self.telemetries.push(o),
            Known::AuthorizationPolicy(o) => self.policies.push(o),
            // It gives endpoints, and changes no host.
            Known::WorkloadEntry(_) => {}
        }
    }

    /// The mesh, and what in the objects istiod would refuse or leave out, in words.
    pub fn build(mut self) -> (Mesh, Vec<String>) {
        let mut problems = Vec::new();
        let domain = self.domain.take().unwrap_or_else(|| DOMAIN.to_owned());
        let config = self.config(&mut problems);
        validate::all(&self.sidecars, &self.virtual_services, &self.rules, &mut problems);
        let virtual_services = virtualservice::merge_all(
            &self.virtual_services,
            &config.virtual_service_export,
            &domain,
            &mut problems,
        );
        let rules = Rules::build(
            &self.rules,
            &config.root_namespace,
            &config.destination_rule_export,
            &domain,
        );
        let mut mesh = Mesh { config, domain, rules, virtual_services, ..Mesh::default() };
        self.pods_into(&mut mesh);
        self.services_into(&mut mesh);
        self.endpoints_into(&mut mesh);
        self.targets_into(&mut mesh);
        for (i, v) in mesh.virtual_services.iter().enumerate().filter(|(_, v)| v.mesh) {
            let index = mesh.virtual_by_namespace.entry(v.namespace.clone()).or_default();
            index.all.push(i as u32);
            for host in &v.hosts {
                if is_wildcard(host) {
                    index.wild.push((host.clone(), i as u32));
                } else {
                    index.exact.entry(host.clone()).or_default().push(i as u32);
                }
            }
        }
        mesh.sidecars = self.sidecars.iter().map(sidecar).collect();
        mesh.sidecars.sort_by(|a, b| {
            let key = |s: &Sidecar| {
                (s.selector.is_none(), s.created, s.name.clone(), s.namespace.clone())
            };
            key(a).cmp(&key(b))
        });
        mesh.provider_uses = self.provider_uses();
        (mesh, problems)
    }

    /// The ConfigMap `istio` (of a revision `istio-REVISION`, where there is no other).
    fn config(&self, problems: &mut Vec<String>) -> MeshConfig {
        let is_mesh = |c: &&objects::ConfigMap| {
            c.data.contains_key("mesh")
                && (c.metadata.name == "istio" || c.metadata.name.starts_with("istio-"))
        };
        let mut found: Vec<&objects::ConfigMap> = self.config_maps.iter().filter(is_mesh).collect();
        found.sort_by_key(|c| {
            let m = &c.metadata;
            (m.name != "istio", m.namespace != "istio-system", m.name.clone(), m.namespace.clone())
        });
        if let [first, second, ..] = found.as_slice() {
            problems.push(format!(
                "several ConfigMaps hold a MeshConfig: {}/{} is used, {}/{} is not",
                first.metadata.namespace,
                first.metadata.name,
                second.metadata.namespace,
                second.metadata.name
            ));
        }
        let Some(map) = found.first() else { return MeshConfig::default() };
        match yaml::from_str::<Option<MeshConfigSpec>>(&map.data["mesh"]) {
            Ok(spec) => MeshConfig::new(spec.unwrap_or_default()),
            Err(e) => {
                problems.push(format!(
                    "ConfigMap {}/{}: its MeshConfig cannot be read, defaults are used: {e}",
                    map.metadata.namespace, map.metadata.name
                ));
                MeshConfig::default()
            }
        }
    }

    fn pods_into(&self, mesh: &mut Mesh) {
        let ended = |p: &&objects::Pod| !matches!(p.status.phase.as_str(), "Succeeded" | "Failed");
        mesh.pods = self
            .pods
            .iter()
            .filter(ended)
            .map(|p| MeshPod {
                namespace: p.metadata.namespace.clone(),
                name: p.metadata.name.clone(),
                labels: Arc::clone(&p.metadata.labels),
                addresses: objects::addresses(p, |_| {}),
                ready: p.is_ready(),
            })
            .collect();
        mesh.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }

    fn services_into(&self, mesh: &mut Mesh) {
        let of_entries = self.entries.iter().flat_map(|e| from_entry(e, mesh.config.dns_capture));
        let mut all: Vec<Service> =
            self.services.iter().map(|s| from_kube(s, &mesh.domain)).chain(of_entries).collect();
        all.sort_by(|a, b| {
            let key = |s: &Service| (s.created, s.sort_name().to_owned(), s.namespace.clone());
            key(a).cmp(&key(b)).then_with(|| {
                (a.registry, &a.object, &a.address).cmp(&(b.registry, &b.object, &b.address))
            })
        });
        let aliases = aliases(&all);
        for (i, s) in all.iter_mut().enumerate() {
            s.order = i as u32;
            s.export = if s.declared_export.is_empty() {
                mesh.config.service_export.clone()
            } else {
                s.declared_export.clone()
            };
            if let Some(aliases) = aliases.get(&s.host) {
                s.aliases.clone_from(aliases);
            }
        }
        for (i, s) in all.iter().enumerate() {
            mesh.by_namespace.entry(s.namespace.clone()).or_default().push(i as u32);
            let new = Indexed { service: i as u32, uncertain: false };
            let by_namespace = mesh.by_host.entry(s.host.clone()).or_default();
            let Some(old) = by_namespace.get_mut(&s.namespace) else {
                by_namespace.insert(s.namespace.clone(), new);
                continue;
            };
            let kept = &all[old.service as usize];
            if kept.registry == Registry::External && s.registry == Registry::Kubernetes {
                *old = new;
            } else if kept.registry == s.registry
                && kept.created == s.created
                && kept.sort_name() == s.sort_name()
            {
                old.uncertain = true;
            }
        }
        for s in &mut all {
            s.contested =
                mesh.by_host.get(&s.host).is_some_and(|by_namespace| by_namespace.len() > 1);
        }
        mesh.services = all;
    }

    fn endpoints_into(&self, mesh: &mut Mesh) {
        let by_name: HashMap<(&str, &str), &MeshPod> =
            mesh.pods.iter().map(|p| ((p.namespace.as_str(), p.name.as_str()), p)).collect();
        let by_address: HashMap<String, &MeshPod> = mesh
            .pods
            .iter()
            .flat_map(|p| p.addresses.iter().map(move |a| (a.to_string(), p)))
            .collect();
        let ready_anyway: HashSet<(&str, &str)> = self
            .services
            .iter()
            .filter(|s| s.spec.publish_not_ready_addresses)
            .map(|s| (s.metadata.namespace.as_str(), s.metadata.name.as_str()))
            .collect();
        let nobody = Arc::new(BTreeMap::new());
        let mut all: HashMap<(String, String), Vec<Endpoint>> = HashMap::new();
        for slice in &self.slices {
            let meta = &slice.metadata;
            let Some(service) = meta.labels.get("kubernetes.io/service-name") else { continue };
            let anyway = ready_anyway.contains(&(meta.namespace.as_str(), service.as_str()));
            let into = all
                .entry((
                    meta.namespace.clone(),
                    format!("{service}.{}.svc.{}", meta.namespace, mesh.domain),
                ))
                .or_default();
            for e in slice.endpoints.iter().filter(|e| anyway || e.conditions.ready != Some(false))
            {
                for a in &e.addresses {
                    let named = e.target_ref.as_ref().filter(|t| t.kind == "Pod");
                    let pod = named
                        .and_then(|t| by_name.get(&(meta.namespace.as_str(), t.name.as_str())));
                    let labels = pod.or_else(|| by_address.get(a)).map_or(&nobody, |p| &p.labels);
                    for port in &slice.ports {
                        let new = Endpoint {
                            address: a.clone(),
                            port_name: port.name.clone(),
                            port_number: None,
                            labels: Arc::clone(labels),
                        };
                        if !into.contains(&new) {
                            into.push(new);
                        }
                    }
                }
            }
        }
        for entry in &self.entries {
            let spec = &entry.spec;
            // istiod makes a Service for each address, and each brings the endpoints once more.
            let addresses =
                from_entry(entry, mesh.config.dns_capture).len() / spec.hosts.len().max(1);
            for host in spec.hosts.iter().flat_map(|h| std::iter::repeat_n(h, addresses)) {
                let into = all.entry((entry.metadata.namespace.clone(), host.clone())).or_default();
                let mut add = |address: &str, labels: &Arc<BTreeMap<String, String>>| {
                    for port in &spec.ports {
                        into.push(Endpoint {
                            address: address.to_owned(),
                            port_name: port.name.clone(),
                            port_number: Some(port.number),
                            labels: Arc::clone(labels),
                        });
                    }
                };
                let dns = matches!(spec.resolution.as_str(), "DNS" | "DNS_ROUND_ROBIN");
                if let Some(selector) = &spec.workload_selector {
                    let of_namespace =
                        mesh.pods.iter().filter(|p| p.namespace == entry.metadata.namespace);
                    // Of pods that an entry selects, only ready ones count (`controller/pod.go`).
                    for p in
                        of_namespace.filter(|p| p.ready && selects(&selector.labels, &p.labels))
                    {
                        if let Some(a) = p.addresses.first() {
                            add(&a.to_string(), &p.labels);
                        }
                    }
                } else if spec.endpoints.is_empty() && dns {
                    add(host, &nobody);
                } else {
                    for e in &spec.endpoints {
                        add(&e.address, &Arc::new(e.labels.clone()));
                    }
                }
            }
        }
        mesh.endpoints = all;
    }

    /// Which Service ports each pod answers, the oldest Service first.
    fn targets_into(&self, mesh: &mut Mesh) {
        let by_name: HashMap<(&str, &str), &objects::Service> = self
            .services
            .iter()
            .map(|s| ((s.metadata.namespace.as_str(), s.metadata.name.as_str()), s))
            .collect();
        let mut of_namespace: HashMap<&str, Vec<&objects::Pod>> = HashMap::new();
        for p in &self.pods {
            of_namespace.entry(p.metadata.namespace.as_str()).or_default().push(p);
        }
        for (i, s) in mesh.services.iter().enumerate().filter(|(_, s)| !s.selector.is_empty()) {
            if s.resolution == Resolution::Alias {
                continue;
            }
            let matching = of_namespace.get(s.namespace.as_str()).into_iter().flatten();
            for p in matching.filter(|p| selects(&s.selector, &p.metadata.labels)) {
                let object = by_name.get(&(s.namespace.as_str(), s.object.as_str()));
                for port in &s.ports {
                    let spec =
                        object.filter(|_| s.registry == Registry::Kubernetes).and_then(|o| {
                            o.spec
                                .ports
                                .iter()
                                .find(|x| x.port == port.number && x.name == port.name)
                        });
                    let target = spec.map_or(Some(port.number), |x| {
                        objects::target_port(x, objects::named_ports(p))
                    });
                    let Some(target) = target else { continue };
                    let key = (s.namespace.clone(), p.metadata.name.clone());
                    mesh.targets.entry(key).or_default().push(Target {
                        service: i as u32,
                        port: port.number,
                        target,
                    });
                }
            }
        }
    }

    fn provider_uses(&self) -> Vec<ProviderUse> {
        let mut out = Vec::new();
        for t in &self.telemetries {
            let spec = t.spec.clone().unwrap_or_default();
            let part = |all: &[Provided]| {
                let on = all.iter().filter(|p| !p.disabled && !p.disable_span_reporting);
                on.flat_map(|p| p.providers.iter().map(|n| n.name.clone())).collect::<Vec<_>>()
            };
            let parts = [
                ("tracing", &spec.tracing),
                ("accessLogging", &spec.access_logging),
                ("metrics", &spec.metrics),
            ];
            // One that sets only a rate, say, leaves the providers as they are.
            let says =
                |p: &Provided| !p.providers.is_empty() || p.disabled || p.disable_span_reporting;
            let said = parts.into_iter().filter(|(_, p)| p.iter().any(says));
            let providers = said.map(|(name, p)| (name, part(p))).collect();
            out.push(ProviderUse {
                kind: "Telemetry",
                namespace: t.metadata.namespace.clone(),
                name: t.metadata.name.clone(),
                selector: spec.selector.unwrap_or_default().match_labels,
                providers,
            });
        }
        for p in &self.policies {
            let spec = p.spec.clone().unwrap_or_default();
            if spec.action != "CUSTOM" {
                continue;
            }
            out.push(ProviderUse {
                kind: "AuthorizationPolicy",
                namespace: p.metadata.namespace.clone(),
                name: p.metadata.name.clone(),
                selector: spec.selector.unwrap_or_default().match_labels,
                providers: vec![(
                    "authorization",
                    spec.provider.into_iter().map(|n| n.name).collect(),
                )],
            });
        }
        out.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
        out
    }
}

/// ExternalName Services by the host that they lead to in the end (`resolveServiceAliases`). A
/// circle leads nowhere.
fn aliases(services: &[Service]) -> HashMap<String, Vec<(String, String)>> {
    let alias = |s: &&Service| s.resolution == Resolution::Alias;
    let to: HashMap<&str, &str> = services
        .iter()
        .filter(alias)
        .filter_map(|s| Some((s.host.as_str(), s.external_name.as_deref()?)))
        .collect();
    let mut out: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for s in services.iter().filter(alias) {
        let mut seen: HashSet<&str> = HashSet::default();
        seen.insert(&s.host);
        let mut at = s.external_name.as_deref().unwrap_or_default();
        let concrete = loop {
            if !seen.insert(at) {
                break None;
            }
            match to.get(at) {
                Some(next) => at = next,
                None => break Some(at),
            }
        };
        if let Some(concrete) = concrete {
            out.entry(concrete.to_owned()).or_default().push((s.namespace.clone(), s.host.clone()));
        }
    }
    out.values_mut().for_each(|v| v.sort());
    out
}

/// Reads a Sidecar.
pub(super) fn sidecar(object: &objects::Sidecar) -> Sidecar {
    let (meta, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
    let set = |v: Option<Value>| v.filter(|v| !v.is_null());
    Sidecar {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        selector: spec.workload_selector.map(|s| s.labels),
        egress: spec.egress,
        outbound_traffic_policy: set(spec.outbound_traffic_policy),
        ingress: spec.ingress,
        inbound_connection_pool: set(spec.inbound_connection_pool),
        generated: meta
            .labels
            .get("app.kubernetes.io/managed-by")
            .is_some_and(|m| m == "sidecarta"),
    }
}

/// Reads one Sidecar from YAML or JSON text, as a file that is to be tried.
///
/// # Errors
/// When the text is no Sidecar, with line and column where the reader tells them.
pub fn sidecar_from_text(text: &str) -> Result<Sidecar, String> {
    let value: yaml::Value = yaml::from_str(text).map_err(|e| e.to_string())?;
    let kind = value.get("kind").and_then(yaml::Value::as_str).unwrap_or("an object without kind");
    if kind != "Sidecar" {
        return Err(format!("it holds {kind}, not a Sidecar"));
    }
    let object: objects::Sidecar = yaml::from_value(value).map_err(|e| e.to_string())?;
    Ok(sidecar(&object))
}
