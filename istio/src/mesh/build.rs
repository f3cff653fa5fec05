//! Builds the mesh from objects, whatever order they come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};
use serde_json::Value;

use super::config::{self, MeshConfig};
use super::destinationrule::RuleIndex;
use super::discovery::{
    DEFAULT_REVISION, Discovery, config_map_name, in_revision, mesh_configs, of_one_revision,
    revision_of,
};
use super::gateway::{self, GatewayRouteKind};
use super::host::is_wildcard;
use super::meshes::{Meshes, SidecarNames};
use super::proxy;

use super::service::{Registry, ServiceResolution, from_entry, from_kube};
use super::{
    IndexedService, Mesh, MeshEndpoint, MeshPod, MeshService, ProviderUse, ServedPort, Sidecar,
    UnreadObject, validate, virtualservice,
};
use crate::objects::{self, AnyObject, ObjectMeta, TelemetryProviders};
use sidecarta_model::{Time, selects};
use sidecarta_text::yaml;

/// Default DNS domain of a cluster.
const DOMAIN: &str = "cluster.local";

/// Collects objects; [`MeshBuilder::build`] makes the mesh.
///
/// # Examples
/// ```
/// use sidecarta_istio::mesh::MeshBuilder;
/// use sidecarta_istio::objects::read_yaml;
///
/// let mut builder = MeshBuilder::default().domain("cluster.example");
/// let text = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}}";
/// read_yaml(text)?.into_iter().for_each(|object| builder.add(object));
/// let (mesh, _) = builder.build();
/// assert!(mesh.has_host("cart.shop.svc.cluster.example"));
/// # Ok::<(), sidecarta_istio::objects::ReadObjectsError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MeshBuilder {
    domain: Option<String>,
    pods: Vec<objects::PodObject>,
    services: Vec<objects::ServiceObject>,
    slices: Vec<objects::EndpointSlice>,
    entries: Vec<objects::ServiceEntry>,
    virtual_services: Vec<objects::VirtualServiceObject>,
    rules: Vec<objects::DestinationRule>,
    sidecars: Vec<objects::SidecarObject>,
    telemetries: Vec<objects::Telemetry>,
    policies: Vec<objects::AuthorizationPolicy>,
    config_maps: Vec<objects::ConfigMap>,
    filters: Vec<objects::EnvoyFilter>,
    plugins: Vec<objects::WasmPlugin>,
    namespaces: Vec<objects::Namespace>,
    routes: Vec<(GatewayRouteKind, objects::GatewayRoute)>,
    unread: Vec<UnreadObject>,
}

impl MeshBuilder {
    /// Uses this DNS domain in place of `cluster.local`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.trim_matches('.').to_owned());
        self
    }

    /// Takes an object.
    pub fn add(&mut self, object: AnyObject) {
        match object {
            AnyObject::Pod(o) => self.pods.push(o),
            AnyObject::Service(o) => self.services.push(o),
            AnyObject::EndpointSlice(o) => self.slices.push(o),
            AnyObject::ConfigMap(o) => self.config_maps.push(o),
            AnyObject::ServiceEntry(o) => self.entries.push(o),
            AnyObject::VirtualService(o) => self.virtual_services.push(o),
            AnyObject::DestinationRule(o) => self.rules.push(o),
            AnyObject::Sidecar(o) => self.sidecars.push(o),
            AnyObject::Telemetry(o) => self.telemetries.push(o),
            AnyObject::AuthorizationPolicy(o) => self.policies.push(o),
            // It gives endpoints, and changes no host.
            AnyObject::WorkloadEntry(_) => {}
            AnyObject::EnvoyFilter(o) => self.filters.push(o),
            AnyObject::WasmPlugin(o) => self.plugins.push(o),
            AnyObject::Namespace(o) => self.namespaces.push(o),
            AnyObject::HttpRoute(o) => self.routes.push((GatewayRouteKind::Http, o)),
            AnyObject::GrpcRoute(o) => self.routes.push((GatewayRouteKind::Grpc, o)),
            AnyObject::TcpRoute(o) => self.routes.push((GatewayRouteKind::Tcp, o)),
            AnyObject::TlsRoute(o) => self.routes.push((GatewayRouteKind::Tls, o)),
        }
    }

    /// Takes note of an object that is not read.
    pub fn unread(&mut self, object: UnreadObject) {
        self.unread.push(object);
    }

    /// The mesh, and what in the objects istiod would refuse or leave out, in words. Of several
    /// revisions it is that of most pods: see [`MeshBuilder::build_all`].
    pub fn build(self) -> (Mesh, Vec<String>) {
        let (meshes, problems) = self.build_all();
        (meshes.into_first(), problems)
    }

    /// A mesh for each revision of istiod whose configuration can differ, and what in the objects
    /// istiod would refuse or leave out, in words.
    pub fn build_all(self) -> (Meshes, Vec<String>) {
        let taken = SidecarNames::new(self.sidecars.iter().map(sidecar));
        let mut by_revision: BTreeMap<String, usize> = BTreeMap::new();
        for revision in self.pods.iter().filter_map(revision_of) {
            *by_revision.entry(revision).or_default() += 1;
        }
        let mut revisions: Vec<(String, usize)> = by_revision.into_iter().collect();
        revisions.sort_by_key(|(name, pods)| (std::cmp::Reverse(*pods), name.clone()));
        let mut revisions: Vec<String> = revisions.into_iter().map(|(name, _)| name).collect();
        if revisions.is_empty() {
            revisions.push(DEFAULT_REVISION.to_owned());
        }
        // Where nothing is one revision's own, all have the same.
        if !self.differs() {
            revisions.truncate(1);
        }
        let mut problems = Vec::new();
        let last = revisions.pop();
        let mut meshes: Vec<Mesh> = Vec::new();
        for revision in revisions {
            meshes.push(self.clone().build_one(revision, &mut problems));
        }
        if let Some(last) = last {
            meshes.push(self.build_one(last, &mut problems));
        }
        let mut said = HashSet::default();
        problems.retain(|p: &String| said.insert(p.clone()));
        (Meshes::new(meshes, taken), problems)
    }

    /// Whether two revisions can have another mesh.
    fn differs(&self) -> bool {
        fn any<S>(all: &[objects::SpecObject<S>]) -> bool {
            all.iter().any(|o| of_one_revision(&o.metadata))
        }
        mesh_configs(&self.config_maps, DEFAULT_REVISION).len() > 1
            || any(&self.virtual_services)
            || any(&self.rules)
            || any(&self.sidecars)
            || any(&self.telemetries)
            || any(&self.policies)
            || any(&self.filters)
            || any(&self.plugins)
            || self.routes.iter().any(|(_, r)| of_one_revision(&r.metadata))
            || self.entries.iter().any(|e| of_one_revision(&e.metadata))
    }

    /// Takes out what the istiod of this revision does not look at.
    fn restrict(&mut self, revision: &str, discovery: &Discovery) {
        let of_kubernetes = |m: &ObjectMeta| !discovery.hides(&m.namespace);
        let of_istio = |m: &ObjectMeta| in_revision(m, revision) && of_kubernetes(m);
        if discovery.is_limited() {
            self.pods.retain(|o| of_kubernetes(&o.metadata));
            self.services.retain(|o| of_kubernetes(&o.metadata));
            self.slices.retain(|o| of_kubernetes(&o.metadata));
        }
        self.entries.retain(|o| of_istio(&o.metadata));
        self.virtual_services.retain(|o| of_istio(&o.metadata));
        self.rules.retain(|o| of_istio(&o.metadata));
        self.sidecars.retain(|o| of_istio(&o.metadata));
        self.telemetries.retain(|o| of_istio(&o.metadata));
        self.policies.retain(|o| of_istio(&o.metadata));
        self.filters.retain(|o| of_istio(&o.metadata));
        self.plugins.retain(|o| of_istio(&o.metadata));
        self.routes.retain(|(_, o)| of_istio(&o.metadata));
    }

    /// The mesh of one revision.
    fn build_one(mut self, revision: String, problems: &mut Vec<String>) -> Mesh {
        let domain = self.domain.take().unwrap_or_else(|| DOMAIN.to_owned());
        let config = self.config(&revision, problems);
        let discovery = Discovery::new(config.discovery_selectors.clone(), &self.namespaces);
        let unsure: std::collections::BTreeSet<&str> = self
            .services
            .iter()
            .map(|s| s.metadata.namespace.as_str())
            .filter(|n| discovery.unsure(n))
            .collect();
        if !unsure.is_empty() {
            problems.push(format!(
                "discoverySelectors choose namespaces by their labels, and the snapshot lacks the Namespace of {}: they are \
                 taken to be looked at; add `kubectl get namespaces -o yaml`",
                unsure.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
        self.restrict(&revision, &discovery);
        validate::all(&self.sidecars, &self.virtual_services, &self.rules, problems);
        let mut virtual_services = virtualservice::merge_all(
            &self.virtual_services,
            &config.virtual_service_export,
            &domain,
            problems,
        );
        virtual_services.extend(gateway::convert(&self.routes, &self.entries, &domain));
        virtualservice::sort(&mut virtual_services);
        let rules = RuleIndex::build(
            &self.rules,
            &config.root_namespace,
            &config.destination_rule_export,
            &domain,
        );
        let mut mesh = Mesh {
            config,
            domain,
            revision,
            discovery,
            unread: std::mem::take(&mut self.unread),
            rules,
            virtual_services,
            ..Mesh::default()
        };
        self.pods_into(&mut mesh);
        self.services_into(&mut mesh);
        self.endpoints_into(&mut mesh);
        self.targets_into(&mut mesh);
        for s in mesh.services.iter().filter(|s| s.resolution == ServiceResolution::Dns) {
            let names = mesh.endpoints(s).iter().map(|e| e.address.to_ascii_lowercase());
            mesh.dns_names.extend(names.collect::<Vec<_>>());
        }
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
        mesh
    }

    /// The ConfigMap `istio`, of a revision `istio-REVISION`.
    fn config(&self, revision: &str, problems: &mut Vec<String>) -> MeshConfig {
        let found = mesh_configs(&self.config_maps, revision);
        let Some(map) = found.first() else { return MeshConfig::default() };
        let (own, m) = (config_map_name(revision), &map.metadata);
        if m.name != own {
            problems.push(format!(
                "the MeshConfig of revision {revision} (ConfigMap {own}) is not in the snapshot: {}/{} is used",
                m.namespace, m.name
            ));
        }
        if let Some(other) = found.get(1).filter(|o| o.metadata.name == m.name) {
            problems.push(format!(
                "several ConfigMaps hold a MeshConfig: {}/{} is used, {}/{} is not",
                m.namespace, m.name, other.metadata.namespace, other.metadata.name
            ));
        }
        match config::read(&map.data["mesh"]) {
            Ok(spec) => MeshConfig::new(spec),
            Err(e) => {
                problems.push(format!(
                    "ConfigMap {}/{}: its MeshConfig cannot be read, defaults are used: {e}",
                    m.namespace, m.name
                ));
                MeshConfig::default()
            }
        }
    }

    fn pods_into(&self, mesh: &mut Mesh) {
        let ended =
            |p: &&objects::PodObject| !matches!(p.status.phase.as_str(), "Succeeded" | "Failed");
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
                revision: revision_of(p).map(Arc::from),
            })
            .collect();
        mesh.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }

    fn services_into(&self, mesh: &mut Mesh) {
        let of_entries = self.entries.iter().flat_map(|e| from_entry(e, mesh.config.dns_capture));
        let mut all: Vec<MeshService> =
            self.services.iter().map(|s| from_kube(s, &mesh.domain)).chain(of_entries).collect();
        all.sort_by(|a, b| {
            let key = |s: &MeshService| (s.created, s.sort_name().to_owned(), s.namespace.clone());
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
            let new = IndexedService { service: i as u32, uncertain: false };
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
        let mut all: HashMap<(String, String), Vec<MeshEndpoint>> = HashMap::new();
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
                        let new = MeshEndpoint {
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
                        into.push(MeshEndpoint {
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
        let by_name: HashMap<(&str, &str), &objects::ServiceObject> = self
            .services
            .iter()
            .map(|s| ((s.metadata.namespace.as_str(), s.metadata.name.as_str()), s))
            .collect();
        let mut of_namespace: HashMap<&str, Vec<&objects::PodObject>> = HashMap::new();
        for p in &self.pods {
            of_namespace.entry(p.metadata.namespace.as_str()).or_default().push(p);
        }
        for (i, s) in mesh.services.iter().enumerate().filter(|(_, s)| !s.selector.is_empty()) {
            if s.resolution == ServiceResolution::Alias {
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
                    mesh.targets.entry(key).or_default().push(ServedPort {
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
            // One with target references is for what it names alone: a gateway, a waypoint
            // (`ShouldAttachPolicy`).
            if !spec.target_refs.is_empty() || spec.target_ref.is_some() {
                continue;
            }
            let part = |all: &[TelemetryProviders]| {
                let on = all.iter().filter(|p| !p.disabled && !p.disable_span_reporting);
                on.flat_map(|p| p.providers.iter().map(|n| n.name.clone())).collect::<Vec<_>>()
            };
            let parts = [
                ("tracing", &spec.tracing),
                ("accessLogging", &spec.access_logging),
                ("metrics", &spec.metrics),
            ];
            // One that sets only a rate, say, leaves the providers as they are.
            let says = |p: &TelemetryProviders| {
                !p.providers.is_empty() || p.disabled || p.disable_span_reporting
            };
            let said = parts.into_iter().filter(|(_, p)| p.iter().any(says));
            let providers = said.map(|(name, p)| (name, part(p))).collect();
            out.push(ProviderUse {
                kind: "Telemetry",
                namespace: t.metadata.namespace.clone(),
                name: t.metadata.name.clone(),
                selector: spec.selector.unwrap_or_default().match_labels,
                providers,
                clusters: Vec::new(),
            });
        }
        for p in &self.policies {
            let spec = p.spec.clone().unwrap_or_default();
            let referring = !spec.target_refs.is_empty() || spec.target_ref.is_some();
            if spec.action != "CUSTOM" || referring {
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
                clusters: Vec::new(),
            });
        }
        out.extend(self.filters.iter().filter_map(proxy::of_filter));
        out.extend(self.plugins.iter().filter_map(proxy::of_plugin));
        out.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
        out
    }
}

/// ExternalName Services by the host that they lead to in the end (`resolveServiceAliases`). A
/// circle leads nowhere.
fn aliases(services: &[MeshService]) -> HashMap<String, Vec<(String, String)>> {
    let alias = |s: &&MeshService| s.resolution == ServiceResolution::Alias;
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
pub(super) fn sidecar(object: &objects::SidecarObject) -> Sidecar {
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
    let object: objects::SidecarObject = yaml::from_value(value).map_err(|e| e.to_string())?;
    Ok(sidecar(&object))
}
