//! Whether the names in an object are names.
//!
//! Owns which names of an object count: those that others are told of, or that a Sidecar holds. The
//! API server has checked them; a file need not come from one. Must never
//! change an object. What istiod refuses beside names is the part of [`crate::mesh`].

use sidecarta_model::valid::{self, Invalid};

use super::{
    AuthorizationPolicySpec, ConfigMap, Controller, DestinationRuleSpec, EndpointSlice,
    EnvoyFilterSpec, GatewayRouteSpec, Meta, Namespace, Node, Object, Pod, Service, ServiceEntry,
    SidecarSpec, TelemetrySpec, VirtualServiceSpec, WasmPluginSpec, WorkloadEntry,
};

/// An object whose names can be checked.
pub trait Check {
    /// # Errors
    /// The first name that breaks a rule.
    fn check(&self) -> Result<(), Invalid>;
}

impl Check for Meta {
    fn check(&self) -> Result<(), Invalid> {
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

impl Check for Pod {
    fn check(&self) -> Result<(), Invalid> {
        if !self.spec.node_name.is_empty() {
            valid::object_name(&self.spec.node_name)?;
        }
        self.metadata.check()
    }
}

impl Check for Service {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()?;
        valid::labels(&self.spec.selector)?;
        if self.spec.kind == "ExternalName" && !self.spec.external_name.is_empty() {
            valid::mesh_host(&self.spec.external_name)?;
        }
        Ok(())
    }
}

impl Check for EndpointSlice {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()
    }
}

impl Check for Node {
    fn check(&self) -> Result<(), Invalid> {
        if self.metadata.name.is_empty() { Ok(()) } else { valid::object_name(&self.metadata.name) }
    }
}

impl Check for Controller {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()?;
        valid::labels(&self.spec.selector.clone().labels())?;
        valid::labels(&self.spec.template.metadata.labels)?;
        valid::labels(&self.spec.job_template.spec.template.metadata.labels)
    }
}

impl Check for ServiceEntry {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()?;
        self.spec.hosts.iter().try_for_each(|h| valid::mesh_host(h))?;
        self.spec.workload_selector.iter().try_for_each(|s| valid::labels(&s.labels))
    }
}

impl Check for Namespace {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()
    }
}

impl Check for ConfigMap {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()
    }
}

impl Check for Object<VirtualServiceSpec> {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()?;
        let Some(spec) = &self.spec else { return Ok(()) };
        spec.hosts.iter().try_for_each(|h| valid::mesh_host(h))?;
        let matches = spec.tls.iter().chain(&spec.tcp).flat_map(|r| &r.matches);
        matches.flat_map(|m| &m.destination_subnets).try_for_each(|s| valid::range(s))
    }
}

impl Check for Object<DestinationRuleSpec> {
    fn check(&self) -> Result<(), Invalid> {
        self.metadata.check()?;
        let host = self.spec.as_ref().map_or("", |s| s.host.as_str());
        if host.is_empty() { Ok(()) } else { valid::mesh_host(host) }
    }
}

macro_rules! metadata_alone {
    ($($spec:ty),*) => {$(
        impl Check for Object<$spec> {
            fn check(&self) -> Result<(), Invalid> {
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
    GatewayRouteSpec,
    WorkloadEntry
);
