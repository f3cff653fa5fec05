//! The kinds that are watched, and how their objects are read. Each object of a page is reduced on
//! its own as soon as it is read: a page of whole objects is never in memory, and a broken object
//! does not spoil the others.
//!
//! Owns names and versions of the kinds. Must never decide what an object means.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::{DynamicResourceScope, GroupVersionKind, Resource};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::object::{IndexObject, ObjectVersion};
use crate::cluster::objects::{
    CheckNames, ConfigMap, Controller, DestinationRule, EndpointSlice, Namespace, Node, PodObject,
    ServiceEntry, ServiceObject, SidecarObject, VirtualServiceObject, WorkloadEntryObject,
};
use crate::cluster::{ControllerBrief, PodBrief, Pool};

/// A kind that is watched; `T` is the type that its objects are read as.
pub(super) struct WatchedKind<T> {
    pub name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    wrap: fn(T, &mut Pool) -> IndexObject,
}

const fn kind<T>(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    wrap: fn(T, &mut Pool) -> IndexObject,
) -> WatchedKind<T> {
    WatchedKind { name, group, version, plural, wrap }
}

pub(super) const PODS: WatchedKind<PodObject> =
    kind("Pod", "", "v1", "pods", |o, pool| IndexObject::Pod(Arc::new(PodBrief::new(&o, pool))));
pub(super) const SERVICES: WatchedKind<ServiceObject> =
    kind("Service", "", "v1", "services", |o, pool| {
        IndexObject::Service(Arc::new(pool.service(o)))
    });
pub(super) const SLICES: WatchedKind<EndpointSlice> =
    kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", |o, pool| {
        IndexObject::Slice(Arc::new(pool.slice(o)))
    });
pub(super) const NODES: WatchedKind<Node> =
    kind("Node", "", "v1", "nodes", |o, _| IndexObject::Node(Arc::new(o)));
pub(super) const ENTRIES: WatchedKind<ServiceEntry> =
    kind("ServiceEntry", "networking.istio.io", "v1", "serviceentries", |o, _| {
        IndexObject::Entry(Arc::new(o))
    });
pub(super) const WORKLOAD_ENTRIES: WatchedKind<WorkloadEntryObject> =
    kind("WorkloadEntry", "networking.istio.io", "v1", "workloadentries", |o, _| {
        IndexObject::WorkloadEntry(Arc::new(o))
    });
pub(super) const VIRTUAL_SERVICES: WatchedKind<VirtualServiceObject> =
    kind("VirtualService", "networking.istio.io", "v1", "virtualservices", |o, _| {
        IndexObject::VirtualService(Arc::new(o))
    });
pub(super) const DESTINATION_RULES: WatchedKind<DestinationRule> =
    kind("DestinationRule", "networking.istio.io", "v1", "destinationrules", |o, _| {
        IndexObject::DestinationRule(Arc::new(o))
    });
pub(super) const SIDECARS: WatchedKind<SidecarObject> =
    kind("Sidecar", "networking.istio.io", "v1", "sidecars", |o, _| {
        IndexObject::Sidecar(Arc::new(o))
    });
pub(super) const NAMESPACES: WatchedKind<Namespace> =
    kind("Namespace", "", "v1", "namespaces", |o, _| IndexObject::Namespace(Arc::new(o)));
/// ConfigMaps of istiod's namespace. The data of those without a MeshConfig is dropped at once: it
/// may be anything.
pub(super) const CONFIG_MAPS: WatchedKind<ConfigMap> =
    kind("ConfigMap", "", "v1", "configmaps", |o, _| {
        IndexObject::ConfigMap(Arc::new(o.without_other_data()))
    });
pub(super) const CONTROLLERS: [WatchedKind<Controller>; 6] = [
    kind("ReplicaSet", "apps", "v1", "replicasets", controller),
    kind("Deployment", "apps", "v1", "deployments", controller),
    kind("StatefulSet", "apps", "v1", "statefulsets", controller),
    kind("DaemonSet", "apps", "v1", "daemonsets", controller),
    kind("Job", "batch", "v1", "jobs", controller),
    kind("CronJob", "batch", "v1", "cronjobs", controller),
];

fn controller(object: Controller, pool: &mut Pool) -> IndexObject {
    IndexObject::Controller(Arc::new(ControllerBrief::new(object, pool)))
}

impl<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static> WatchedKind<T> {
    pub(super) fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group, self.version, self.name),
            self.plural,
        )
    }

    /// The name of the kind in rules of RBAC.
    pub(super) fn rule(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Reduces an object to what the indexes need. Equal strings are shared through the pool.
    pub(super) fn seen(&self, slim: Slim<T>, pool: &mut Pool) -> ObjectVersion {
        let Slim { meta, object } = slim;
        let (name, uid) = (meta.name.unwrap_or_default(), meta.uid.unwrap_or_default());
        let checked = object.and_then(|o| o.check().map(|()| o).map_err(|e| e.to_string()));
        let object = checked.map(|o| (self.wrap)(o, pool));
        let (name, uid) = match &object {
            Ok(IndexObject::Pod(pod)) => (Arc::clone(&pod.name), Arc::clone(&pod.uid)),
            Ok(IndexObject::Controller(controller)) => (Arc::clone(&controller.name), uid.into()),
            _ => (name.into(), uid.into()),
        };
        ObjectVersion { key: (pool.word(&meta.namespace.unwrap_or_default()), name), uid, object }
    }
}

/// An object as it is deserialized from the API server's answer: its identity, and the fields that
/// are needed or why they cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Slim<T> {
    meta: ObjectMeta,
    object: Result<T, String>,
}

/// The metadata that identify an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectIdentity {
    metadata: MetadataNames,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataNames {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Slim<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let ObjectIdentity { metadata: MetadataNames { name, namespace, uid, resource_version } } =
            ObjectIdentity::deserialize(&value).map_err(D::Error::custom)?;
        let meta = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        // A wrong type in one object must not make an error of the whole list.
        Ok(Self { meta, object: T::deserialize(value).map_err(|e| e.to_string()) })
    }
}

impl<T> Resource for Slim<T> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.kind)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.group)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.version)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
