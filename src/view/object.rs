//! Objects as the indexes need them, whatever their kind.

use std::sync::Arc;

use crate::cluster::objects::{
    EndpointSlice, Node, ServiceEntry, ServiceObject, WorkloadEntryObject,
};
use crate::cluster::{Builder, ControllerBrief, PodBrief};

/// An object as far as the indexes need it. The builder shares it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Pod(Arc<PodBrief>),
    Service(Arc<ServiceObject>),
    Slice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Entry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntryObject>),
    /// Hosts that a VirtualService of this namespace routes: nothing else of it is needed.
    Routed(Arc<str>, Arc<[String]>),
    Controller(Arc<ControllerBrief>),
}

impl Object {
    pub(super) fn feed(self, kind: &str, builder: &mut Builder) {
        match self {
            Self::Pod(o) => builder.brief(o, None),
            Self::Service(o) => builder.shared_service(o),
            Self::Slice(o) => builder.shared_slice(o, None),
            Self::Node(o) => builder.node(Node::clone(&o)),
            Self::Entry(o) => builder.entry(o),
            Self::WorkloadEntry(o) => builder.workload_entry(WorkloadEntryObject::clone(&o)),
            Self::Routed(namespace, hosts) => builder.routed(&namespace, &hosts),
            Self::Controller(o) => builder.shared_controller(kind, o),
        }
    }
}

/// Namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// A version of an object, as a watch tells it.
#[derive(Debug)]
pub(super) struct Seen {
    /// Namespace and name.
    pub key: Key,
    pub uid: Arc<str>,
    /// Or why it cannot be read.
    pub object: Result<Object, String>,
}
