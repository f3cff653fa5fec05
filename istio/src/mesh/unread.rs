//! Istio objects that the model does not read, and what they could do.
//!
//! Owns which kinds are reported, and for which namespaces. Must never report a kind that cannot
//! change what a proxy has or calls.

use super::Mesh;

/// An object that is not read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnreadObject {
    /// Kind of the object, such as `ProxyConfig`.
    pub kind: String,
    /// Namespace of the object; empty where its kind has none.
    pub namespace: String,
    /// Name of the object (`metadata.name`).
    pub name: String,
}

impl UnreadObject {
    /// An object of this kind and group; `None` where it cannot matter to a proxy.
    pub fn of(kind: &str, group: &str, namespace: &str, name: &str) -> Option<Self> {
        /// Kinds that change neither what a sidecar imports nor what it calls by itself.
        const HARMLESS: [&str; 9] = [
            "Gateway",
            "GatewayClass",
            "ReferenceGrant",
            "PeerAuthentication",
            "WorkloadEntry",
            "WorkloadGroup",
            "BackendTLSPolicy",
            "IstioOperator",
            "Istio",
        ];
        let of_mesh = group.ends_with("istio.io")
            || group.ends_with("gateway.networking.k8s.io")
            || group.ends_with("gateway.networking.x-k8s.io")
            || group.ends_with("inference.networking.k8s.io");
        (of_mesh && !HARMLESS.contains(&kind)).then(|| Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// A sentence: how the object could make the proof wrong.
    pub fn effect(&self) -> &'static str {
        match self.kind.as_str() {
            "ProxyConfig" => {
                "settings of the proxy that it changes are taken from the pod and the mesh alone"
            }
            _ => "what it does to calls is not known",
        }
    }
}

impl Mesh {
    /// Objects that are not read and that could matter to the workloads of a namespace: its own,
    /// and those of the root namespace.
    pub fn unread_for(&self, namespace: &str) -> impl Iterator<Item = &UnreadObject> {
        let near = move |u: &&UnreadObject| {
            u.namespace == namespace || u.namespace == self.config.root_namespace
        };
        self.unread.iter().filter(near)
    }
}
