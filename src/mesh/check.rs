//! Whether the names in Istio's objects are names.
//!
//! Owns which of them count. Must never change an object. What istiod refuses beside names is
//! `validate`'s part.

use super::objects::{
    AuthorizationPolicySpec, ConfigMap, DestinationRuleSpec, Object, SidecarSpec, TelemetrySpec,
    VirtualServiceSpec,
};
use crate::cluster::objects::Check;
use crate::model::valid::{self, Invalid};

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

metadata_alone!(SidecarSpec, TelemetrySpec, AuthorizationPolicySpec);
