//! A model of istiod: what it selects for a workload of the mesh, and the route of a call.
//!
//! Objects go in as `kubectl` prints them. What comes out is what istiod would send to the proxy of
//! a pod: the Sidecar that applies, the Services, VirtualServices and DestinationRules in scope,
//! clusters with their endpoints, and for one call the listener, the rules and the clusters that
//! take it. The model needs no cluster and starts no process.
//!
//! ```text
//! objects ─► MeshBuilder ─► Mesh ─► Scope::new ─► Scope ─► treat(call) ─► Treatment, Route
//!                           of all   of a namespace        of a client
//! ```
//!
//! Owns the rules of istiod. Must never know captures, a store, an async runtime or a client of
//! Kubernetes, and never decide what a Sidecar should list.
//!
//! # The reference
//!
//! istiod's own code. Each module names the Go files that it follows, below `pilot/pkg` of
//! `istio.io/istio` where nothing else is said: `model/push_context.go`, `model/sidecar.go`,
//! `model/virtualservice.go` and `model/destination_rule.go` decide the scope;
//! `networking/core/listener.go`, `tls.go`, `httproute.go`, `route/route.go`, `cluster.go` and
//! `xds/endpoints/endpoint_builder.go` decide what is sent. Answers of that code for random meshes
//! are stored beside the tests of Sidecarta (`tests/scope-cases/FORMAT.md` names the commit), and
//! the model gives the same answers.
//!
//! # What is modelled
//!
//! - Services of Kubernetes (headless and ExternalName ones as well) and hosts of ServiceEntries,
//!   with `exportTo`, and which of several Services of one host istiod uses;
//! - Sidecars: which applies, its egress listeners (`port`, `bind`, `hosts`), its policy for
//!   unknown hosts, the connection pools of its ingress;
//! - VirtualServices for sidecars with delegates, and their rules for HTTP, TLS and TCP: a
//!   rule that matches on path or headers is one step of the route, because only the request
//!   decides whether it applies;
//! - DestinationRules: merging, selectors, subsets; settings are carried, not applied;
//! - HTTPRoutes, GRPCRoutes, TCPRoutes and TLSRoutes whose parent is a Service or a ServiceEntry;
//! - the settings of MeshConfig that these depend on, and what makes the proxy itself call:
//!   providers that Telemetries and AuthorizationPolicies name, clusters that EnvoyFilters and
//!   WasmPlugins name, key servers of RequestAuthentications;
//! - one mesh for each revision of istiod, without the namespaces that `discoverySelectors` leave
//!   out.
//!
//! # What is not
//!
//! Gateways, waypoints and ambient mode, WorkloadEntry objects, several clusters, locality and
//! traffic policies of endpoints, mutual TLS, what EnvoyFilters and WebAssembly plugins do beside
//! calling, and feature flags other than the default ones.
//!
//! # Example
//!
//! ```
//! use sidecarta_istio::mesh::MeshBuilder;
//! use sidecarta_istio::objects::read_yaml;
//! use sidecarta_istio::scope::{CallProtocol, Client, Route, Scope, ScopeCall, listeners, policy};
//!
//! let objects = read_yaml("
//! apiVersion: v1
//! kind: Service
//! metadata: {name: cart, namespace: shop}
//! spec:
//!   clusterIP: 10.96.0.7
//!   ports: [{name: http, port: 80}]
//! ---
//! apiVersion: networking.istio.io/v1
//! kind: Sidecar
//! metadata: {name: web, namespace: shop}
//! spec:
//!   workloadSelector: {labels: {app: web}}
//!   egress: [{hosts: [./cart.shop.svc.cluster.local]}]
//! ")?;
//! let mut builder = MeshBuilder::default();
//! objects.into_iter().for_each(|o| builder.add(o));
//! let (mesh, problems) = builder.build();
//! assert!(problems.is_empty());
//!
//! // A pod with these labels gets that Sidecar, and the Service with it.
//! let labels = [("app".to_owned(), "web".to_owned())].into();
//! let sidecar = mesh.applied("shop", &labels);
//! assert_eq!(sidecar.map(|s| s.name.as_str()), Some("web"));
//! let egress = listeners(sidecar);
//! let scope = Scope::new(&mesh, "shop", &egress, policy(&mesh, sidecar));
//! assert!(scope.service("cart.shop.svc.cluster.local").is_some());
//!
//! // Where a call of it goes.
//! let client = Client { namespace: "shop", labels: &labels, address: None };
//! let call = ScopeCall {
//!     host: "cart.shop.svc.cluster.local".to_owned(),
//!     port: 80,
//!     protocol: CallProtocol::Http,
//!     address: [10, 96, 0, 7].into(),
//! };
//! let route = Route::of(&scope.treat(&client, &call), &mesh);
//! assert_eq!(route.kind, "http");
//! assert!(route.clusters.contains("outbound|80||cart.shop.svc.cluster.local"));
//! # Ok::<(), sidecarta_istio::objects::ReadObjectsError>(())
//! ```

#![warn(unreachable_pub)]

pub mod mesh;
pub mod objects;
pub mod scope;
