//! Objects as the indexes need them, whatever their kind.
//!
//! Owns these forms. Must never contain a field that no index reads.

use std::sync::Arc;

use crate::cluster::objects::{
    ConfigMap, DestinationRule, EndpointSlice, Namespace, Node, ServiceEntry, ServiceObject,
    SidecarObject, VirtualServiceObject, WorkloadEntryObject,
};
use crate::cluster::{ClusterBuilder, ControllerBrief, PodBrief};

/// The fields of an object that the indexes need. Cache and indexes share them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum IndexObject {
    Pod(Arc<PodBrief>),
    Service(Arc<ServiceObject>),
    Slice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Entry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntryObject>),
    VirtualService(Arc<VirtualServiceObject>),
    Sidecar(Arc<SidecarObject>),
    Namespace(Arc<Namespace>),
    /// A ConfigMap of istiod's namespace. Only one with a MeshConfig has its data.
    ConfigMap(Arc<ConfigMap>),
    DestinationRule(Arc<DestinationRule>),
    Controller(Arc<ControllerBrief>),
}

impl IndexObject {
    /// Adds the object to the indexes.
    pub(super) fn feed(self, kind: &str, builder: &mut ClusterBuilder) {
        match self {
            Self::Pod(o) => builder.brief(o, None),
            Self::Service(o) => builder.shared_service(o),
            Self::Slice(o) => builder.shared_slice(o, None),
            Self::Node(o) => builder.node(Node::clone(&o)),
            Self::Entry(o) => builder.entry(o),
            Self::WorkloadEntry(o) => builder.workload_entry(WorkloadEntryObject::clone(&o)),
            Self::VirtualService(o) => builder.virtual_service(o),
            Self::Sidecar(o) => builder.sidecar(o),
            Self::Namespace(o) => builder.namespace(Namespace::clone(&o)),
            Self::ConfigMap(o) => builder.config_map(ConfigMap::clone(&o)),
            Self::DestinationRule(o) => builder.destination_rule(&o),
            Self::Controller(o) => builder.shared_controller(kind, o),
        }
    }
}

/// Namespace and name.
pub(super) type ObjectKey = (Arc<str>, Arc<str>);

/// A version of an object, as a watch delivers it.
#[derive(Debug)]
pub(super) struct ObjectVersion {
    /// Namespace and name.
    pub key: ObjectKey,
    pub uid: Arc<str>,
    /// The object, or why it cannot be read.
    pub object: Result<IndexObject, String>,
}
