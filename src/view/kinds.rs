//! The kinds that are watched, and their objects: read slim one by one, so that a page of whole
//! ones never stands in memory, and a broken one spoils nothing else.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::{DynamicResourceScope, GroupVersionKind, Resource};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::object::{Object, Seen};
use crate::cluster::objects::{
    CheckNames, Controller, EndpointSlice, Node, PodObject, ServiceEntry, ServiceObject,
    VirtualServiceObject, WorkloadEntryObject,
};
use crate::cluster::{ControllerBrief, PodBrief, Pool};

/// A kind, and the type that its objects are read as.
pub(super) struct Kind<T> {
    pub name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    wrap: fn(T, &mut Pool) -> Object,
}

const fn kind<T>(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    wrap: fn(T, &mut Pool) -> Object,
) -> Kind<T> {
    Kind { name, group, version, plural, wrap }
}

pub(super) const PODS: Kind<PodObject> =
    kind("Pod", "", "v1", "pods", |o, pool| Object::Pod(Arc::new(PodBrief::new(&o, pool))));
pub(super) const SERVICES: Kind<ServiceObject> =
    kind("Service", "", "v1", "services", |o, pool| Object::Service(Arc::new(pool.service(o))));
pub(super) const SLICES: Kind<EndpointSlice> =
    kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", |o, pool| {
        Object::Slice(Arc::new(pool.slice(o)))
    });
pub(super) const NODES: Kind<Node> =
    kind("Node", "", "v1", "nodes", |o, _| Object::Node(Arc::new(o)));
pub(super) const ENTRIES: Kind<ServiceEntry> =
    kind("ServiceEntry", "networking.istio.io", "v1", "serviceentries", |o, _| {
        Object::Entry(Arc::new(o))
    });
pub(super) const WORKLOAD_ENTRIES: Kind<WorkloadEntryObject> =
    kind("WorkloadEntry", "networking.istio.io", "v1", "workloadentries", |o, _| {
        Object::WorkloadEntry(Arc::new(o))
    });
pub(super) const VIRTUAL_SERVICES: Kind<VirtualServiceObject> =
    kind("VirtualService", "networking.istio.io", "v1", "virtualservices", |o, pool| {
        Object::Routed(pool.word(&o.metadata.namespace), o.hosts().into())
    });
pub(super) const CONTROLLERS: [Kind<Controller>; 6] = [
    kind("ReplicaSet", "apps", "v1", "replicasets", controller),
    kind("Deployment", "apps", "v1", "deployments", controller),
    kind("StatefulSet", "apps", "v1", "statefulsets", controller),
    kind("DaemonSet", "apps", "v1", "daemonsets", controller),
    kind("Job", "batch", "v1", "jobs", controller),
    kind("CronJob", "batch", "v1", "cronjobs", controller),
];

fn controller(object: Controller, pool: &mut Pool) -> Object {
    Object::Controller(Arc::new(ControllerBrief::new(object, pool)))
}

impl<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static> Kind<T> {
    pub(super) fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group, self.version, self.name),
            self.plural,
        )
    }

    /// How RBAC names it.
    pub(super) fn rule(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What the indexes need of an object, sharing with others what they have in common.
    pub(super) fn seen(&self, slim: Slim<T>, pool: &mut Pool) -> Seen {
        let Slim { meta, object } = slim;
        let (name, uid) = (meta.name.unwrap_or_default(), meta.uid.unwrap_or_default());
        let checked = object.and_then(|o| o.check().map(|()| o).map_err(|e| e.to_string()));
        let object = checked.map(|o| (self.wrap)(o, pool));
        let (name, uid) = match &object {
            Ok(Object::Pod(pod)) => (Arc::clone(&pod.name), Arc::clone(&pod.uid)),
            Ok(Object::Controller(controller)) => (Arc::clone(&controller.name), uid.into()),
            _ => (name.into(), uid.into()),
        };
        Seen { key: (pool.word(&meta.namespace.unwrap_or_default()), name), uid, object }
    }
}

/// An object on its way from the API server: whole in text, slim as soon as it is read.
#[derive(Clone, Debug)]
pub(super) struct Slim<T> {
    meta: ObjectMeta,
    object: Result<T, String>,
}

/// What of its metadata tells it from others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    metadata: Named,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
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
        let Identity { metadata: Named { name, namespace, uid, resource_version } } =
            Identity::deserialize(&value).map_err(D::Error::custom)?;
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
