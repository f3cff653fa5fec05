//! Checks whether the names in an object are valid.
//!
//! Owns which names of an object are checked: those that are shown, sent, or written into a
//! Sidecar. An API server has checked its objects, but a file may come from anywhere. Must never
//! change an object. What else istiod refuses is checked in [`crate::mesh`].

use sidecarta_model::valid::{self, InvalidName};

use super::{
    AuthorizationPolicySpec, ConfigMap, Controller, DestinationRuleSpec, EndpointSlice,
    EnvoyFilterSpec, GatewayRouteSpec, Namespace, Node, ObjectMeta, PodObject,
    RequestAuthenticationSpec, ServiceEntry, ServiceObject, SidecarSpec, SpecObject, TelemetrySpec,
    VirtualServiceSpec, WasmPluginSpec, WorkloadEntry,
};

/// An object whose names can be checked.
pub trait CheckNames {
    /// # Errors
    /// The first name that breaks a rule.
    fn check(&self) -> Result<(), InvalidName>;
}

impl CheckNames for ObjectMeta {
    fn check(&self) -> Result<(), InvalidName> {
        valid::object_name(&self.name)?;
        if !self.namespace.is_empty() {
            valid::namespace(&self.namespace)?;
        }
        if !self.uid.is_empty() {
            valid::word("the UID", &self.uid)?;
        }
        valid::labels(&self.labels)?;
        self.owner_references.iter().try_for_each(|o| {
            valid::kind(&o.kind)?;
            valid::object_name(&o.name)
        })
    }
}

impl CheckNames for PodObject {
    fn check(&self) -> Result<(), InvalidName> {
        if !self.spec.node_name.is_empty() {
            valid::object_name(&self.spec.node_name)?;
        }
        self.metadata.check()
    }
}

impl CheckNames for ServiceObject {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()?;
        valid::labels(&self.spec.selector)?;
        if self.spec.kind == "ExternalName" && !self.spec.external_name.is_empty() {
            valid::mesh_host(&self.spec.external_name)?;
        }
        Ok(())
    }
}

impl CheckNames for EndpointSlice {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()
    }
}

impl CheckNames for Node {
    fn check(&self) -> Result<(), InvalidName> {
        if self.metadata.name.is_empty() { Ok(()) } else { valid::object_name(&self.metadata.name) }
    }
}

impl CheckNames for Controller {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()?;
        valid::labels(&self.spec.selector.clone().labels())?;
        valid::labels(&self.spec.template.metadata.labels)?;
        valid::labels(&self.spec.job_template.spec.template.metadata.labels)
    }
}

impl CheckNames for ServiceEntry {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()?;
        self.spec.hosts.iter().try_for_each(|h| valid::mesh_host(h))?;
        self.spec.workload_selector.iter().try_for_each(|s| valid::labels(&s.labels))
    }
}

impl CheckNames for Namespace {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()
    }
}

impl CheckNames for ConfigMap {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()
    }
}

impl CheckNames for SpecObject<VirtualServiceSpec> {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()?;
        let Some(spec) = &self.spec else { return Ok(()) };
        spec.hosts.iter().try_for_each(|h| valid::mesh_host(h))?;
        let matches = spec.tls.iter().chain(&spec.tcp).flat_map(|r| &r.matches);
        matches.flat_map(|m| &m.destination_subnets).try_for_each(|s| valid::range(s))
    }
}

impl CheckNames for SpecObject<DestinationRuleSpec> {
    fn check(&self) -> Result<(), InvalidName> {
        self.metadata.check()?;
        let host = self.spec.as_ref().map_or("", |s| s.host.as_str());
        if host.is_empty() { Ok(()) } else { valid::mesh_host(host) }
    }
}

macro_rules! metadata_alone {
    ($($spec:ty),*) => {$(
        impl CheckNames for SpecObject<$spec> {
            fn check(&self) -> Result<(), InvalidName> {
                self.metadata.check()
            }
        }
    )*};
}

metadata_alone!(
    SidecarSpec,
    TelemetrySpec,
    AuthorizationPolicySpec,
    EnvoyFilterSpec,
    WasmPluginSpec,
    RequestAuthenticationSpec,
    GatewayRouteSpec,
    WorkloadEntry
);
