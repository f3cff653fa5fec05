//! The clusters that a proxy receives, with their endpoints (`networking/core/cluster.go`,
//! `cluster_builder.go`, `xds/endpoints/endpoint_builder.go`).
//!
//! Owns which endpoints a cluster has, and counting; must never decide what is in scope.

use std::collections::BTreeMap;

use super::call::EnvoyCluster;
use super::{Scope, ScopedService};
use crate::mesh::host::is_wildcard;
use crate::mesh::{
    AppProtocol, MergedRule, Mesh, MeshEndpoint, MeshPort, MeshService, ServiceResolution,
};
use crate::objects::Subset;
use sidecarta_model::selects;

/// The size of a proxy's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ProxySize {
    /// Number of outbound Envoy clusters.
    pub clusters: u64,
    /// Number of endpoints in these clusters together.
    pub endpoints: u64,
}

impl std::ops::AddAssign for ProxySize {
    fn add_assign(&mut self, other: Self) {
        self.clusters += other.clusters;
        self.endpoints += other.endpoints;
    }
}

impl<'m> Scope<'m> {
    /// The endpoints of a cluster, for a client with these labels; none where the proxy finds them
    /// itself, and where the scope has no such cluster.
    ///
    /// # Examples
    /// ```
    /// use sidecarta_istio::mesh::MeshBuilder;
    /// use sidecarta_istio::objects::read_yaml;
    /// use sidecarta_istio::scope::{EnvoyCluster, Scope, TrafficMode, everything};
    ///
    /// let mut builder = MeshBuilder::default();
    /// let objects = read_yaml("
    /// apiVersion: v1
    /// kind: Service
    /// metadata: {name: cart, namespace: shop}
    /// spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}]}
    /// ---
    /// apiVersion: discovery.k8s.io/v1
    /// kind: EndpointSlice
    /// metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
    /// endpoints: [{addresses: [10.244.0.3]}]
    /// ports: [{name: http, port: 8080}]
    /// ")?;
    /// objects.into_iter().for_each(|o| builder.add(o));
    /// let (mesh, _) = builder.build();
    ///
    /// let egress = [everything()];
    /// let scope = Scope::new(&mesh, "shop", &egress, TrafficMode::AllowAny);
    /// let host = "cart.shop.svc.cluster.local".to_owned();
    /// let cluster = EnvoyCluster { port: 80, subset: String::new(), host };
    /// let endpoints = scope.endpoints(&cluster, &[].into());
    /// assert_eq!(endpoints.len(), 1);
    /// assert_eq!(endpoints[0].address, "10.244.0.3");
    /// # Ok::<(), sidecarta_istio::objects::ReadObjectsError>(())
    /// ```
    pub fn endpoints(
        &self,
        cluster: &EnvoyCluster,
        labels: &BTreeMap<String, String>,
    ) -> Vec<&'m MeshEndpoint> {
        let mut out = Vec::new();
        let Some(scoped) = self.service(&cluster.host) else { return out };
        let Some(port) = scoped.port(cluster.port) else { return out };
        let rule = self.rule(scoped.service, labels);
        let named = rule.and_then(|r| r.subsets.iter().find(|x| x.name == cluster.subset));
        if named.is_some() || cluster.subset.is_empty() {
            each_endpoint(self.mesh, scoped.service, port, named, |e| out.push(e));
        }
        out
    }

    /// Calls `take` with each outbound cluster and the number of its endpoints.
    fn each_cluster(
        &self,
        labels: &BTreeMap<String, String>,
        mut take: impl FnMut(&ScopedService<'_>, &MeshPort, &str, u64),
    ) {
        for s in &self.services {
            if s.service.resolution == ServiceResolution::Alias {
                continue;
            }
            let rule = self.rule(s.service, labels);
            of_service(self.mesh, s, rule, |port, subset, n| take(s, port, subset, n));
        }
    }

    /// Each outbound cluster with the number of its endpoints, by name.
    pub fn clusters(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        self.each_cluster(labels, |s, port, subset, n| {
            let name = EnvoyCluster {
                port: port.number,
                subset: subset.to_owned(),
                host: s.service.host.clone(),
            }
            .name();
            out.insert(name, n);
        });
        out
    }

    /// How many clusters and endpoints.
    pub fn size(&self, labels: &BTreeMap<String, String>) -> ProxySize {
        let mut out = ProxySize::default();
        self.each_cluster(labels, |_, _, _, n| out += ProxySize { clusters: 1, endpoints: n });
        out
    }

    /// How many clusters and endpoints one Service of the scope adds.
    pub fn size_of(&self, s: &ScopedService<'_>, labels: &BTreeMap<String, String>) -> ProxySize {
        let mut out = ProxySize::default();
        if s.service.resolution != ServiceResolution::Alias {
            let rule = self.rule(s.service, labels);
            of_service(self.mesh, s, rule, |_, _, n| {
                out += ProxySize { clusters: 1, endpoints: n }
            });
        }
        out
    }
}

fn of_service(
    mesh: &Mesh,
    s: &ScopedService<'_>,
    rule: Option<&MergedRule>,
    mut take: impl FnMut(&MeshPort, &str, u64),
) {
    let service = s.service;
    let by_name = service.resolution == ServiceResolution::DynamicDns && is_wildcard(&service.host);
    let none = Vec::new();
    let subsets = rule.map_or(&none, |r| &r.subsets);
    for port in s.ports.iter().filter(|p| p.protocol != AppProtocol::Udp) {
        if by_name {
            use AppProtocol::{Grpc, Http, Http2, Tls};
            if matches!(port.protocol, Http | Tls | Grpc | Http2) {
                take(port, "", 0);
            }
            continue;
        }
        let count = |named: Option<&Subset>| {
            let mut n = 0;
            each_endpoint(mesh, service, port, named, |_| n += 1);
            n
        };
        // A DNS cluster without endpoints is not sent.
        let sent = |n: u64| service.resolution != ServiceResolution::Dns || n > 0;
        let n = count(None);
        if !sent(n) {
            continue;
        }
        take(port, "", n);
        for x in subsets {
            let n = count(Some(x));
            if sent(n) {
                take(port, &x.name, n);
            }
        }
    }
}

/// Calls `take` with each endpoint of a port, of a subset or of all.
fn each_endpoint<'m>(
    mesh: &'m Mesh,
    service: &'m MeshService,
    port: &MeshPort,
    subset: Option<&Subset>,
    take: impl FnMut(&'m MeshEndpoint),
) {
    if service.resolution == ServiceResolution::Passthrough || subset.is_some_and(passthrough) {
        return;
    }
    let wanted = |e: &&MeshEndpoint| subset.is_none_or(|x| selects(&x.labels, &e.labels));
    if service.resolution == ServiceResolution::Dns {
        return mesh.endpoints_by_number(service, port).filter(wanted).for_each(take);
    }
    // istiod sends only addresses. It leaves out endpoints with names.
    let usable =
        |e: &&MeshEndpoint| e.address.is_empty() || e.address.parse::<std::net::IpAddr>().is_ok();
    mesh.endpoints(service)
        .iter()
        .filter(|e| e.port_name == port.name)
        .filter(usable)
        .filter(wanted)
        .for_each(take);
}

fn passthrough(subset: &Subset) -> bool {
    let simple = subset.traffic_policy.as_ref().and_then(|p| p.pointer("/loadBalancer/simple"));
    simple.and_then(serde_json::Value::as_str) == Some("PASSTHROUGH")
}
