//! One object counts once, in however many files and forms it is.
//!
//! Owns which text of an object is the newest, what older texts say of their time, and whether two
//! texts can be of one cluster. The order of the files must not matter. Must never parse a text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::objects::{
    self, AnyObject, Controller, EndpointSlice, Node, ObjectMeta, PodObject, ServiceObject,
    addresses,
};
use crate::cluster::{ClusterBuilder, EndTime};
use crate::mesh;
use crate::model::Time;

/// An object of a file, parsed.
#[derive(Clone, Debug)]
pub(super) enum ParsedObject {
    Node(Node),
    /// With its kind.
    Controller(String, Controller),
    Known(Box<AnyObject>),
}

/// Which object it is. For pods the UID belongs to it: pods of one name may follow each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SnapshotObjectId {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

/// How new a text is. Versions of one object are comparable as numbers (Kubernetes' API
/// conventions, "Resource Versions"); those of an object and of its successor are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    created: Option<Time>,
    version: Option<u64>,
    /// Decides between two that are equal otherwise, so that the order of the files does not.
    digest: u64,
}

#[derive(Clone, Debug)]
struct Version {
    age: Age,
    uid: String,
    object: ParsedObject,
}

/// All texts of one object.
#[derive(Debug, Default)]
struct Texts {
    /// The newest first, once all are read.
    versions: Vec<Version>,
    /// Numbers of the files that contain it.
    files: BTreeSet<u32>,
}

/// For a pod (see [`key_of`]) and its address, when another pod had that address.
type TakenAddresses = BTreeMap<(String, IpAddr), Time>;

/// Objects with their versions.
#[derive(Debug, Default)]
pub(super) struct Versions {
    found: BTreeMap<SnapshotObjectId, Texts>,
    file: u32,
}

impl Versions {
    /// Begins another file: all objects that are added from now on are of it.
    pub fn next_file(&mut self) {
        self.file += 1;
    }

    /// Adds an object; false where it was there already.
    pub fn add(&mut self, kind: &str, object: ParsedObject, digest: u64) -> bool {
        let file = self.file;
        let (identity, age) = describe(kind, &object, digest);
        let uid = uid_of(&object).to_owned();
        let texts = self.found.entry(identity).or_default();
        let is_new = texts.versions.is_empty();
        texts.files.insert(file);
        // Most objects are read once. An equal text adds nothing.
        if texts.versions.iter().all(|v| v.age != age) {
            texts.versions.push(Version { age, uid, object });
        }
        is_new
    }

    /// The pods, each once.
    fn pods(&self) -> impl Iterator<Item = (&PodObject, &Texts)> {
        self.found.values().filter_map(|texts| match &texts.versions.first()?.object {
            ParsedObject::Known(known) => match &**known {
                AnyObject::Pod(pod) => Some((pod, texts)),
                _ => None,
            },
            _ => None,
        })
    }

    /// Adds each object to both builders: its newest text, and to the indexes of addresses also
    /// what older texts add, because they were true in their time. Contradictions become problems.
    pub fn feed(
        mut self,
        cluster: &mut ClusterBuilder,
        mut mesh: Option<&mut mesh::MeshBuilder>,
        problems: &mut Vec<String>,
    ) {
        for texts in self.found.values_mut() {
            texts.versions.sort_by(|a, b| b.age.cmp(&a.age));
        }
        let has_several_clusters = self.has_several_clusters(problems);
        let taken_at = if has_several_clusters { BTreeMap::new() } else { self.taken_addresses() };
        for texts in self.found.into_values() {
            let mut versions = texts.versions.into_iter();
            let Some(newest) = versions.next() else { continue };
            let older: Vec<Version> = versions.collect();
            match newest.object {
                ParsedObject::Node(node) => cluster.node(node),
                ParsedObject::Controller(kind, o) => cluster.controller(&kind, o),
                ParsedObject::Known(known) => {
                    if let Some(mesh) = &mut mesh {
                        mesh.add(AnyObject::clone(&known));
                    }
                    add_with_older(*known, older, &taken_at, cluster);
                }
            }
        }
    }

    /// For a pod and its address, the time from which another pod had the address. The two pods are
    /// in no file together, so the earlier one was deleted before the later one was seen.
    fn taken_addresses(&self) -> TakenAddresses {
        let mut holders: BTreeMap<IpAddr, Vec<(Time, &PodObject, &Texts)>> = BTreeMap::new();
        let ended = |p: &PodObject| matches!(p.status.phase.as_str(), "Succeeded" | "Failed");
        for (pod, texts) in self.pods().filter(|(p, _)| !p.spec.host_network && !ended(p)) {
            let start = pod.status.start_time.or(pod.metadata.creation_timestamp);
            let Some(start) = start else { continue };
            for address in addresses(pod, |_| {}) {
                holders.entry(address).or_default().push((start, pod, texts));
            }
        }
        let mut taken_at = TakenAddresses::new();
        for (address, mut all) in holders.into_iter().filter(|(_, all)| all.len() > 1) {
            all.sort_by_key(|(start, pod, _)| (*start, &pod.metadata.uid));
            for pair in all.windows(2) {
                let [(began, earlier, a), (start, _, b)] = pair else { continue };
                if began < start && a.files.is_disjoint(&b.files) {
                    taken_at.insert((key_of(&earlier.metadata), address), *start);
                }
            }
        }
        taken_at
    }

    /// Whether the texts are of several clusters. One sign is a Service with one UID and two
    /// addresses, the other that the Service `default/kubernetes` has two.
    fn has_several_clusters(&self, problems: &mut Vec<String>) -> bool {
        let mut several = false;
        for texts in self.found.values().filter(|t| t.versions.len() > 1) {
            let services: Vec<(&Version, &ServiceObject)> = texts
                .versions
                .iter()
                .filter_map(|v| match &v.object {
                    ParsedObject::Known(known) => match &**known {
                        AnyObject::Service(s) => Some((v, s)),
                        _ => None,
                    },
                    _ => None,
                })
                .collect();
            let [(newest, service), rest @ ..] = services.as_slice() else { continue };
            let Some((other, differing)) = rest.iter().find(|(_, s)| !shares_address(service, s))
            else {
                continue;
            };
            let meta = &service.metadata;
            let (namespace, name) = (&meta.namespace, &meta.name);
            let is_api = namespace == "default" && name == "kubernetes";
            let (a, b) = (&service.spec.cluster_ip, &differing.spec.cluster_ip);
            if is_api || !newest.uid.is_empty() && newest.uid == other.uid {
                several = true;
                problems.push(format!(
                    "the Service {namespace}/{name} has two addresses, {a} and {b}: the files are \
                     of two clusters; the addresses of both count, and a pod \
                     is known by its address only where the clusters do not share it"
                ));
            } else {
                problems.push(format!(
                    "the Service {namespace}/{name} has two addresses, {a} and {b}: it was made \
                     anew between the files, or they are of two clusters; \
                     both addresses count"
                ));
            }
        }
        several
    }
}

fn key_of(meta: &ObjectMeta) -> String {
    format!("{}/{}/{}", meta.namespace, meta.name, meta.uid)
}

fn describe(kind: &str, object: &ParsedObject, digest: u64) -> (SnapshotObjectId, Age) {
    let version = |text: &str| text.parse().ok();
    let (namespace, name, uid, age) = match object {
        ParsedObject::Node(n) => {
            let m = &n.metadata;
            let age = (m.creation_timestamp, version(&m.resource_version));
            ("", &m.name, &m.uid, age)
        }
        ParsedObject::Controller(_, c) => of_meta(&c.metadata),
        ParsedObject::Known(known) => of_meta(known.metadata()),
    };
    let is_pod = kind == "Pod";
    let identity = SnapshotObjectId {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.clone(),
        uid: if is_pod { uid.clone() } else { String::new() },
    };
    (identity, Age { created: age.0, version: age.1, digest })
}

type Described<'a> = (&'a str, &'a String, &'a String, (Option<Time>, Option<u64>));

fn of_meta(m: &ObjectMeta) -> Described<'_> {
    let age = (m.creation_timestamp, m.resource_version.parse().ok());
    (&m.namespace, &m.name, &m.uid, age)
}

fn uid_of(object: &ParsedObject) -> &str {
    match object {
        ParsedObject::Node(n) => &n.metadata.uid,
        ParsedObject::Controller(_, c) => &c.metadata.uid,
        ParsedObject::Known(known) => &known.metadata().uid,
    }
}

fn shares_address(a: &ServiceObject, b: &ServiceObject) -> bool {
    let own = |s: &ServiceObject| -> BTreeSet<String> {
        let all = s.spec.cluster_ips.iter().chain(std::iter::once(&s.spec.cluster_ip));
        all.filter(|a| !a.is_empty() && *a != "None").cloned().collect()
    };
    let (a, b) = (own(a), own(b));
    a.is_empty() || b.is_empty() || !a.is_disjoint(&b)
}

/// Adds an object to the indexes of addresses, with what older texts of it add.
fn add_with_older(
    known: AnyObject,
    older: Vec<Version>,
    taken_at: &TakenAddresses,
    cluster: &mut ClusterBuilder,
) {
    let older = older.into_iter().filter_map(|v| match v.object {
        ParsedObject::Known(known) => Some(*known),
        _ => None,
    });
    match known {
        AnyObject::Pod(mut pod) => {
            // The status of a pod that has ended may lack the addresses.
            if addresses(&pod, |_| {}).is_empty() {
                let before = older.filter_map(|o| match o {
                    AnyObject::Pod(p) => Some(p.status),
                    _ => None,
                });
                if let Some(status) =
                    { before }.find(|s| !s.pod_ip.is_empty() || !s.pod_ips.is_empty())
                {
                    pod.status.pod_ip = status.pod_ip;
                    pod.status.pod_ips = status.pod_ips;
                }
            }
            let key = key_of(&pod.metadata);
            let all = addresses(&pod, |_| {});
            let until =
                all.into_iter().filter_map(|a| taken_at.get(&(key.clone(), a))).min().copied();
            cluster.pod_until(&pod, until.map(EndTime::By));
        }
        AnyObject::Service(mut service) => {
            for o in older {
                let AnyObject::Service(o) = o else { continue };
                let ports = &mut service.spec.ports;
                let same = |p: &objects::ServicePortSpec, q: &objects::ServicePortSpec| {
                    p.port == q.port && p.protocol == q.protocol
                };
                let more: Vec<_> = o
                    .spec
                    .ports
                    .into_iter()
                    .filter(|p| !ports.iter().any(|q| same(p, q)))
                    .collect();
                ports.extend(more);
                service.spec.cluster_ips.push(o.spec.cluster_ip);
                service.spec.cluster_ips.extend(o.spec.cluster_ips);
                service.spec.external_ips.extend(o.spec.external_ips);
                service.status.load_balancer.ingress.extend(o.status.load_balancer.ingress);
            }
            cluster.service(service);
        }
        AnyObject::EndpointSlice(slice) => {
            let now: BTreeSet<String> =
                slice.endpoints.iter().flat_map(|e| &e.addresses).cloned().collect();
            for o in older {
                let AnyObject::EndpointSlice(o) = o else { continue };
                add_former_endpoints(o, &now, taken_at, cluster);
            }
            cluster.slice(slice);
        }
        AnyObject::ServiceEntry(entry) => {
            for o in older {
                if let AnyObject::ServiceEntry(o) = o
                    && o.spec != entry.spec
                {
                    cluster.entry(o);
                }
            }
            cluster.entry(entry);
        }
        AnyObject::WorkloadEntry(o) => cluster.workload_entry(o),
        AnyObject::VirtualService(o) => cluster.virtual_service(o),
        AnyObject::Sidecar(o) => cluster.sidecar(o),
        AnyObject::ConfigMap(o) => cluster.config_map(o),
        AnyObject::Namespace(o) => cluster.namespace(o),
        AnyObject::DestinationRule(o) => cluster.destination_rule(&o),
        // These decide nothing about addresses and outbound traffic.
        AnyObject::Telemetry(_)
        | AnyObject::AuthorizationPolicy(_)
        | AnyObject::EnvoyFilter(_)
        | AnyObject::WasmPlugin(_)
        | AnyObject::RequestAuthentication(_)
        | AnyObject::HttpRoute(_)
        | AnyObject::GrpcRoute(_)
        | AnyObject::TcpRoute(_)
        | AnyObject::TlsRoute(_) => {}
    }
}

/// Adds the endpoints that only an older text of a slice has. Each was an endpoint until another
/// pod had its address, if that is known.
fn add_former_endpoints(
    slice: EndpointSlice,
    now: &BTreeSet<String>,
    taken_at: &TakenAddresses,
    cluster: &mut ClusterBuilder,
) {
    let mut by_end: BTreeMap<Option<Time>, Vec<objects::SliceEndpoint>> = BTreeMap::new();
    for endpoint in &slice.endpoints {
        for address in endpoint.addresses.iter().filter(|a| !now.contains(*a)) {
            let until = address
                .parse::<IpAddr>()
                .ok()
                .and_then(|a| taken_at.iter().filter(|((_, b), _)| *b == a).map(|(_, t)| *t).max());
            let alone =
                objects::SliceEndpoint { addresses: vec![address.clone()], ..endpoint.clone() };
            by_end.entry(until).or_default().push(alone);
        }
    }
    for (until, endpoints) in by_end {
        let slice = EndpointSlice { endpoints, ..slice.clone() };
        cluster.slice_until(slice, until.map(EndTime::By));
    }
}
