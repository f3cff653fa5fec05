//! Builds a mesh from objects. The order of the objects does not matter.
//!
//! Owns the order of the steps and which objects an istiod of one revision reads. Must never
//! decide what one workload sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashSet;

use super::config::{self, MeshConfig};
use super::destinationrule::RuleIndex;
use super::discovery::{
    DEFAULT_REVISION, Discovery, config_map_name, in_revision, mesh_configs, of_one_revision,
    revision_of,
};
use super::gateway::{self, GatewayRouteKind};
use super::host::is_wildcard;
use super::meshes::{Meshes, SidecarNames};
use super::service::ServiceResolution;
use super::sidecar::sidecar;
use super::{
    Mesh, MeshPod, UnreadObject, endpoints, provideruse, proxy, registry, validate, views,
    virtualservice,
};
use crate::objects::{self, AnyObject, ObjectMeta};

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
    authentications: Vec<objects::RequestAuthentication>,
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

    /// Adds an object. The order of objects makes no difference.
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
            // A WorkloadEntry adds endpoints. It does not change hosts.
            AnyObject::WorkloadEntry(_) => {}
            AnyObject::EnvoyFilter(o) => self.filters.push(o),
            AnyObject::WasmPlugin(o) => self.plugins.push(o),
            AnyObject::RequestAuthentication(o) => self.authentications.push(o),
            AnyObject::Namespace(o) => self.namespaces.push(o),
            AnyObject::HttpRoute(o) => self.routes.push((GatewayRouteKind::Http, o)),
            AnyObject::GrpcRoute(o) => self.routes.push((GatewayRouteKind::Grpc, o)),
            AnyObject::TcpRoute(o) => self.routes.push((GatewayRouteKind::Tcp, o)),
            AnyObject::TlsRoute(o) => self.routes.push((GatewayRouteKind::Tls, o)),
        }
    }

    /// Adds an object that the model does not read.
    pub fn add_unread(&mut self, object: UnreadObject) {
        self.unread.push(object);
    }

    /// The mesh, and a message for each object or field that istiod would refuse or leave out. With
    /// several revisions it is the mesh of most pods: see [`MeshBuilder::build_all`].
    pub fn build(self) -> (Mesh, Vec<String>) {
        let (meshes, problems) = self.build_all();
        (meshes.into_first(), problems)
    }

    /// A mesh for each revision of istiod whose configuration can differ, and a message for each
    /// object or field that istiod would refuse or leave out.
    pub fn build_all(self) -> (Meshes, Vec<String>) {
        let names = SidecarNames::new(self.sidecars.iter().map(sidecar));
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
        // If no object belongs to one revision only, all revisions have the same mesh.
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
        (Meshes::new(meshes, names), problems)
    }

    /// Whether the meshes of two revisions can differ.
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

    /// Removes the objects that the istiod of this revision does not read.
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
        let uncertain: std::collections::BTreeSet<&str> = self
            .services
            .iter()
            .map(|s| s.metadata.namespace.as_str())
            .filter(|n| discovery.is_uncertain(n))
            .collect();
        if !uncertain.is_empty() {
            problems.push(format!(
                "discoverySelectors choose namespaces by their labels, and the snapshot lacks \
                 the Namespace of {}: they are \
                 taken to be looked at; add `kubectl get namespaces -o yaml`",
                uncertain.into_iter().collect::<Vec<_>>().join(", ")
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
        registry::add_services(&mut mesh, &self.services, &self.entries);
        mesh.own_views = views::own_views(&mesh.services, &mesh.virtual_services);
        endpoints::add_endpoints(&mut mesh, &self.services, &self.slices, &self.entries);
        endpoints::add_served_ports(&mut mesh, &self.services, &self.pods);
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
        mesh.sidecars.sort_by_cached_key(|s| {
            (s.selector.is_none(), s.created, s.name.clone(), s.namespace.clone())
        });
        for (i, s) in mesh.sidecars.iter().enumerate() {
            let of_namespace = mesh.sidecars_by_namespace.entry(s.namespace.clone()).or_default();
            of_namespace.push(i as u32);
        }
        let mut uses = provideruse::provider_uses(&self.telemetries, &self.policies);
        uses.extend(self.filters.iter().filter_map(proxy::of_filter));
        uses.extend(self.plugins.iter().filter_map(proxy::of_plugin));
        uses.extend(self.authentications.iter().filter_map(|a| proxy::of_keys(a, &mesh)));
        uses.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
        mesh.provider_uses = uses;
        mesh
    }

    /// The MeshConfig of a revision: from ConfigMap `istio`, or `istio-REVISION`.
    fn config(&self, revision: &str, problems: &mut Vec<String>) -> MeshConfig {
        let found = mesh_configs(&self.config_maps, revision);
        let Some(map) = found.first() else { return MeshConfig::default() };
        let (own, m) = (config_map_name(revision), &map.metadata);
        if m.name != own {
            problems.push(format!(
                "the MeshConfig of revision {revision} (ConfigMap {own}) is not in the snapshot: \
                 {}/{} is used",
                m.namespace, m.name
            ));
        }
        if let Some(other) = found.get(1).filter(|o| o.metadata.name == m.name) {
            problems.push(format!(
                "several ConfigMaps have a MeshConfig: {}/{} is used, {}/{} is not",
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
}
