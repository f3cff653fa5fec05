//! Objects by their kind.
//!
//! Owns which kinds a mesh consists of. Must never change an object.

use serde::de::{DeserializeOwned, Deserializer};
use sidecarta_model::valid::InvalidName;
use sidecarta_text::yaml;

use super::{
    AuthorizationPolicy, CheckNames, ConfigMap, DestinationRule, EndpointSlice, Envelope,
    EnvoyFilter, GatewayRoute, Namespace, ObjectMeta, PodObject, RequestAuthentication,
    ServiceEntry, ServiceObject, SidecarObject, Telemetry, VirtualServiceObject, WasmPlugin,
    WorkloadEntryObject,
};

/// The group of the Gateway API.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// An object of any kind that a mesh consists of.
#[derive(Clone, Debug)]
pub enum AnyObject {
    /// `v1`
    Pod(PodObject),
    /// `v1`
    Service(ServiceObject),
    /// `discovery.k8s.io/v1`
    EndpointSlice(EndpointSlice),
    /// `v1`; the mesh's settings stand in one.
    ConfigMap(ConfigMap),
    /// `networking.istio.io`
    ServiceEntry(ServiceEntry),
    /// `networking.istio.io`
    WorkloadEntry(WorkloadEntryObject),
    /// `networking.istio.io`
    VirtualService(VirtualServiceObject),
    /// `networking.istio.io`
    DestinationRule(DestinationRule),
    /// `networking.istio.io`
    Sidecar(SidecarObject),
    /// `telemetry.istio.io`
    Telemetry(Telemetry),
    /// `security.istio.io`
    AuthorizationPolicy(AuthorizationPolicy),
    /// `networking.istio.io`
    EnvoyFilter(EnvoyFilter),
    /// `extensions.istio.io`
    WasmPlugin(WasmPlugin),
    /// `security.istio.io`
    RequestAuthentication(RequestAuthentication),
    /// `v1`; its labels decide whether istiod reads it (`discoverySelectors`).
    Namespace(Namespace),
    /// `gateway.networking.k8s.io`
    HttpRoute(GatewayRoute),
    /// `gateway.networking.k8s.io`
    GrpcRoute(GatewayRoute),
    /// `gateway.networking.k8s.io`
    TcpRoute(GatewayRoute),
    /// `gateway.networking.k8s.io`
    TlsRoute(GatewayRoute),
}

/// Why an object is refused.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError<E> {
    /// A field has a wrong type.
    #[error(transparent)]
    Type(E),
    /// A name is invalid.
    #[error("{0}")]
    Name(InvalidName),
}

/// Reads an object, and checks the types of its fields and its names.
///
/// # Errors
/// The first field of a wrong type, or the first invalid name.
pub fn read_checked<'de, T: DeserializeOwned + CheckNames, D: Deserializer<'de>>(
    from: D,
) -> Result<T, ObjectError<D::Error>> {
    let object = T::deserialize(from).map_err(ObjectError::Type)?;
    object.check().map_err(ObjectError::Name)?;
    Ok(object)
}

impl AnyObject {
    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Pod(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::ServiceEntry(o) => &o.metadata,
            Self::WorkloadEntry(o) => &o.metadata,
            Self::VirtualService(o) => &o.metadata,
            Self::DestinationRule(o) => &o.metadata,
            Self::Sidecar(o) => &o.metadata,
            Self::Telemetry(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::EnvoyFilter(o) => &o.metadata,
            Self::WasmPlugin(o) => &o.metadata,
            Self::RequestAuthentication(o) => &o.metadata,
            Self::Namespace(o) => &o.metadata,
            Self::HttpRoute(o) | Self::GrpcRoute(o) | Self::TcpRoute(o) | Self::TlsRoute(o) => {
                &o.metadata
            }
        }
    }

    /// Reads an object of the envelope's kind; `None` where a mesh has no objects of that kind.
    ///
    /// # Errors
    /// When a field has a wrong type, or a name is invalid.
    pub fn read<'de, D: Deserializer<'de>>(
        envelope: &Envelope,
        from: D,
    ) -> Option<Result<Self, ObjectError<D::Error>>> {
        let group = envelope.group();
        let istio = group.ends_with("istio.io");
        Some(match envelope.kind.as_str() {
            "Pod" if group.is_empty() => read_checked(from).map(Self::Pod),
            // Knative has a Service as well; only the core one has addresses.
            "Service" if group.is_empty() => read_checked(from).map(Self::Service),
            "EndpointSlice" => read_checked(from).map(Self::EndpointSlice),
            "ConfigMap" if group.is_empty() => read_checked(from).map(Self::ConfigMap),
            "ServiceEntry" if istio => read_checked(from).map(Self::ServiceEntry),
            "WorkloadEntry" if istio => read_checked(from).map(Self::WorkloadEntry),
            "VirtualService" if istio => read_checked(from).map(Self::VirtualService),
            "DestinationRule" if istio => read_checked(from).map(Self::DestinationRule),
            "Sidecar" if istio => read_checked(from).map(Self::Sidecar),
            "Telemetry" if istio => read_checked(from).map(Self::Telemetry),
            "AuthorizationPolicy" if istio => read_checked(from).map(Self::AuthorizationPolicy),
            "EnvoyFilter" if istio => read_checked(from).map(Self::EnvoyFilter),
            "WasmPlugin" if istio => read_checked(from).map(Self::WasmPlugin),
            "RequestAuthentication" if istio => read_checked(from).map(Self::RequestAuthentication),
            "Namespace" if group.is_empty() => read_checked(from).map(Self::Namespace),
            "HTTPRoute" if group == GATEWAY_API => read_checked(from).map(Self::HttpRoute),
            "GRPCRoute" if group == GATEWAY_API => read_checked(from).map(Self::GrpcRoute),
            "TCPRoute" if group == GATEWAY_API => read_checked(from).map(Self::TcpRoute),
            "TLSRoute" if group == GATEWAY_API => read_checked(from).map(Self::TlsRoute),
            _ => return None,
        })
    }
}

/// Why a text cannot be read as objects.
#[derive(Debug, thiserror::Error)]
pub enum ReadObjectsError {
    /// It is no YAML, or nests too deep.
    #[error(transparent)]
    Yaml(#[from] yaml::YamlError),
    /// Something in it is no Kubernetes object.
    #[error("not a Kubernetes object: {0}")]
    Envelope(yaml::YamlError),
    /// An object is refused.
    #[error("{kind}: {why}")]
    Object {
        /// Its kind.
        kind: String,
        /// Why it is.
        why: ObjectError<yaml::YamlError>,
    },
}

/// Reads the objects of a text of YAML or JSON: its documents, and the items of Lists. Objects of
/// kinds that [`AnyObject`] lacks are skipped.
///
/// # Errors
/// At the first document or object that cannot be read: nothing is guessed or left out.
///
/// # Examples
/// ```
/// use sidecarta_istio::objects::{AnyObject, read_yaml};
///
/// let text = "
/// apiVersion: v1
/// kind: List
/// items:
/// - {apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}}
/// - {apiVersion: v1, kind: Secret, metadata: {name: cart, namespace: shop}}
/// ---
/// {apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: shop}}
/// ";
/// let objects = read_yaml(text)?;
/// assert!(matches!(&objects[..], [AnyObject::Service(_), AnyObject::Sidecar(_)]));
/// assert!(read_yaml("{kind: Service, apiVersion: v1, metadata: {name: 'no name'}}").is_err());
/// # Ok::<(), sidecarta_istio::objects::ReadObjectsError>(())
/// ```
pub fn read_yaml(text: &str) -> Result<Vec<AnyObject>, ReadObjectsError> {
    let mut out = Vec::new();
    for document in yaml::documents(text)? {
        read_value(document, &mut out)?;
    }
    Ok(out)
}

fn read_value(mut value: yaml::Value, out: &mut Vec<AnyObject>) -> Result<(), ReadObjectsError> {
    if value.is_null() {
        return Ok(());
    }
    value.apply_merge().map_err(yaml::YamlError::from)?;
    if let Some(items) = value.get_mut("items").and_then(yaml::Value::as_sequence_mut) {
        return std::mem::take(items).into_iter().try_for_each(|item| read_value(item, out));
    }
    let envelope: Envelope =
        yaml::from_value(value.clone()).map_err(|e| ReadObjectsError::Envelope(e.into()))?;
    match AnyObject::read(&envelope, &value) {
        None => Ok(()),
        Some(Ok(object)) => {
            out.push(object);
            Ok(())
        }
        Some(Err(ObjectError::Type(e))) => {
            Err(ReadObjectsError::Object { kind: envelope.kind, why: ObjectError::Type(e.into()) })
        }
        Some(Err(ObjectError::Name(e))) => {
            Err(ReadObjectsError::Object { kind: envelope.kind, why: ObjectError::Name(e) })
        }
    }
}
