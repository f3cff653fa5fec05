//! Services as istiod sees them: Kubernetes Services and the hosts of ServiceEntries, in one form.
//!
//! Owns the conversion (`serviceregistry/kube/conversion.go`,
//! `serviceregistry/serviceentry/conversion.go`, `pkg/config/kube/conversion.go`). Must never
//! decide who sees a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::{ServiceEntry, ServiceObject as KubeService, ServicePortSpec};
use sidecarta_model::{Protocol, Time};

/// The address of a Service without an address of its own. Its listener binds to every address.
pub const UNSPECIFIED: &str = "0.0.0.0";

/// The application protocol of a Service port (`pkg/config/protocol/instance.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 in plain text.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// A generic forward proxy; only on egress listeners.
    HttpProxy,
    /// Any TCP.
    Tcp,
    /// TLS of the application.
    Tls,
    /// HTTPS of the application.
    Https,
    /// MongoDB.
    Mongo,
    /// Redis.
    Redis,
    /// MySQL.
    MySql,
    /// UDP: no listener, no cluster.
    Udp,
    /// Not declared: detected from the bytes.
    Unsupported,
}

impl AppProtocol {
    /// Reads the name that Istio's fields and port names use (`protocol.Parse`).
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "http" => Self::Http,
            "http_proxy" => Self::HttpProxy,
            "http2" => Self::Http2,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            _ => Self::Unsupported,
        }
    }

    /// Whether the port is declared as HTTP of any version, or gRPC.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy)
    }

    /// HTTP by declaration, or possibly by detection.
    pub fn is_http_or_sniffed(self) -> bool {
        self.is_http() || self == Self::Unsupported
    }

    /// TCP by declaration, TLS included.
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Tls | Self::Https | Self::Mongo | Self::Redis | Self::MySql
        )
    }

    /// TLS of the application.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Https)
    }

    /// `ConvertProtocol`: the `appProtocol`, else the prefix of the port's name, else TCP on ports
    /// of server-first protocols.
    fn of_port(port: &ServicePortSpec) -> Self {
        /// Ports that detection would break (`wellKnownPorts`: SMTP, DNS, MySQL, MongoDB).
        const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];
        if port.protocol.0 == Protocol::Udp {
            return Self::Udp;
        }
        let name = match port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(name) => name,
            None => &port.name,
        };
        if name.get(..8).is_some_and(|n| n.eq_ignore_ascii_case("grpc-web")) {
            return Self::GrpcWeb;
        }
        match Self::parse(name.split('-').next().unwrap_or(name)) {
            Self::Unsupported if SERVER_FIRST.contains(&port.port) => Self::Tcp,
            p => p,
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeshPort {
    /// Number (the Service's, not the target).
    pub number: u16,
    /// Name of the port. Istio reads the protocol from its prefix where none is declared.
    pub name: String,
    /// Protocol by `appProtocol`, or else by the port's name.
    pub protocol: AppProtocol,
}

/// Where a Service comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A host of a ServiceEntry.
    External,
}

/// How the proxy finds a Service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceResolution {
    /// istiod sends the endpoints (EDS).
    Endpoints,
    /// By DNS.
    Dns,
    /// By DNS for each connection's own name (`DYNAMIC_DNS`).
    DynamicDns,
    /// The original destination: headless Services, `resolution: NONE`.
    Passthrough,
    /// It has none: an ExternalName Service stands for another host.
    Alias,
}

/// Namespaces that an object is exported to: `*`, `.`, `~` or names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportTo(pub(super) Vec<String>);

impl ExportTo {
    /// Sorted, without repetition.
    pub fn new(mut to: Vec<String>) -> Self {
        to.sort();
        to.dedup();
        Self(to)
    }

    /// Whether the object declares no `exportTo`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the word or namespace is listed as such.
    pub fn lists(&self, word: &str) -> bool {
        self.0.iter().any(|e| e == word)
    }

    /// Whether every namespace sees the object (`*`).
    pub fn public(&self) -> bool {
        self.lists("*")
    }

    /// The words and names that are listed.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many words and names are listed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all of `other` is listed here.
    pub fn superset_of(&self, other: &Self) -> bool {
        other.0.iter().all(|e| self.lists(e))
    }

    /// Whether an object of `owner` that is exported so is visible in `namespace`
    /// (`IsServiceVisible`).
    pub fn visible(&self, owner: &str, namespace: &str) -> bool {
        self.public() || (self.lists(".") && owner == namespace) || self.lists(namespace)
    }
}

/// A host of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// Fully qualified host, or a wildcard.
    pub host: String,
    /// Namespace of the Service or ServiceEntry that declares it.
    pub namespace: String,
    /// Name of the Service, or of the ServiceEntry.
    pub object: String,
    /// Where it comes from.
    pub registry: Registry,
    /// When it was created: the older of two wins in many places.
    pub created: Time,
    /// Its ports, in the order of the object.
    pub ports: Vec<MeshPort>,
    /// How endpoints are found.
    pub resolution: ServiceResolution,
    /// The address that its listener binds to: an address, a range, or [`UNSPECIFIED`].
    pub address: String,
    /// Labels of the object (`metadata.labels`).
    pub labels: BTreeMap<String, String>,
    /// Labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
    /// `exportTo` as the object declares it; empty where it declares none.
    pub declared_export: ExportTo,
    /// `exportTo` in effect: as declared, else the mesh's default.
    pub export: ExportTo,
    /// ExternalName Services that lead here: namespace and host, sorted.
    pub aliases: Vec<(String, String)>,
    /// For an ExternalName Service, the host that it leads to.
    pub external_name: Option<String>,
    /// Whether it is outside the mesh: `MESH_EXTERNAL` or ExternalName.
    pub mesh_external: bool,
    /// Its index in istiod's order: by creation, then name, then namespace.
    pub order: u32,
    /// A Service of another namespace has the same host.
    pub contested: bool,
}

impl MeshService {
    /// The name that istiod sorts by: the object's name, or the host of a ServiceEntry.
    pub fn sort_name(&self) -> &str {
        match self.registry {
            Registry::Kubernetes => &self.object,
            Registry::External => &self.host,
        }
    }

    /// Whether clients in the namespace may see it.
    pub fn visible_in(&self, namespace: &str) -> bool {
        self.export.visible(&self.namespace, namespace)
    }

    /// Whether `exportTo` of the Service itself includes `~`. istiod stores no endpoints of such a
    /// Service. It does store those of a Service that only the mesh's default hides.
    pub fn hidden_from_all(&self) -> bool {
        self.declared_export.lists("~")
    }

    /// `namespace/host`, as an egress list spells it.
    pub fn entry(&self) -> String {
        format!("{}/{}", self.namespace, self.host)
    }
}

/// Converts a Kubernetes Service.
pub(super) fn from_kube(service: &KubeService, domain: &str) -> MeshService {
    let (meta, spec) = (&service.metadata, &service.spec);
    let external_name = (spec.kind == "ExternalName")
        .then(|| spec.external_name.trim_end_matches('.').to_owned())
        .filter(|n| !n.is_empty());
    let headless = spec.cluster_ip == "None";
    let export = meta.annotations.get("networking.istio.io/exportTo").filter(|t| !t.is_empty());
    MeshService {
        host: format!("{}.{}.svc.{domain}", meta.name, meta.namespace),
        namespace: meta.namespace.clone(),
        object: meta.name.clone(),
        registry: Registry::Kubernetes,
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        ports: spec
            .ports
            .iter()
            .map(|p| MeshPort {
                number: p.port,
                name: p.name.clone(),
                protocol: AppProtocol::of_port(p),
            })
            .collect(),
        resolution: match () {
            () if headless => ServiceResolution::Passthrough,
            () if external_name.is_some() => ServiceResolution::Alias,
            () => ServiceResolution::Endpoints,
        },
        address: if headless || spec.cluster_ip.is_empty() {
            UNSPECIFIED.to_owned()
        } else {
            spec.cluster_ip.clone()
        },
        labels: BTreeMap::clone(&meta.labels),
        selector: BTreeMap::clone(&spec.selector),
        declared_export: ExportTo::new(
            export.map(|t| t.split(',').map(|n| n.trim().to_owned()).collect()).unwrap_or_default(),
        ),
        export: ExportTo::default(),
        aliases: Vec::new(),
        mesh_external: external_name.is_some(),
        external_name,
        order: 0,
        contested: false,
    }
}

/// Converts a ServiceEntry: one Service for each of its hosts and addresses. `dns_capture`: proxies
/// use the addresses that Istio allocates where the entry has none.
pub(super) fn from_entry(entry: &ServiceEntry, dns_capture: bool) -> Vec<MeshService> {
    let (meta, spec) = (&entry.metadata, &entry.spec);
    let mut addresses: Vec<String> =
        spec.addresses.iter().filter_map(|a| listen_address(a)).collect();
    if spec.addresses.is_empty() {
        let allocated = entry
            .status
            .addresses
            .iter()
            .filter(|a| a.value.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4()));
        let first = allocated.map(|a| a.value.clone()).next().filter(|_| dns_capture);
        addresses.push(first.unwrap_or_else(|| UNSPECIFIED.to_owned()));
    }
    let ports: Vec<MeshPort> = spec
        .ports
        .iter()
        .map(|p| MeshPort {
            number: p.number,
            name: p.name.clone(),
            protocol: AppProtocol::parse(&p.protocol),
        })
        .collect();
    let resolution = match spec.resolution.as_str() {
        "STATIC" | "1" => ServiceResolution::Endpoints,
        "DNS" | "DNS_ROUND_ROBIN" | "2" | "3" => ServiceResolution::Dns,
        "DYNAMIC_DNS" | "4" => ServiceResolution::DynamicDns,
        _ => ServiceResolution::Passthrough,
    };
    let one = |host: &String, address: &String| MeshService {
        host: host.clone(),
        namespace: meta.namespace.clone(),
        object: meta.name.clone(),
        registry: Registry::External,
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        ports: ports.clone(),
        resolution,
        address: address.clone(),
        labels: BTreeMap::clone(&meta.labels),
        selector: spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default(),
        declared_export: ExportTo::new(spec.export_to.clone()),
        export: ExportTo::default(),
        aliases: Vec::new(),
        external_name: None,
        mesh_external: !matches!(spec.location.as_str(), "MESH_INTERNAL" | "1"),
        order: 0,
        contested: false,
    };
    spec.hosts
        .iter()
        .flat_map(|h| addresses.iter().map(move |a| (h, a)))
        .map(|(h, a)| one(h, a))
        .collect()
}

/// The address that a listener binds to for an address of a ServiceEntry. A range with a single
/// address is that address. `None` where the text is neither an address nor a range.
fn listen_address(text: &str) -> Option<String> {
    if text.parse::<IpAddr>().is_ok() {
        return Some(text.to_owned());
    }
    let net: IpNet = text.parse().ok()?;
    Some(if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        text.to_owned()
    })
}
