//! The route of one call: which listener of the proxy takes it, which filter chain, and where that
//! sends it (`networking/core/listener.go`; Envoy's documentation of `FilterChainMatch` for the
//! choice of a chain).
//!
//! Owns the path from a call to its treatment. Must never build more than the listeners that the
//! call can meet.

use super::call::{CallProtocol, RouteKind, RouteStep, ScopeCall, Treatment};
use super::chain::{ChainAction, FilterChain, ProxyListener};
use super::{Client, Scope, ScopedService, http, l4};
use crate::mesh::UNSPECIFIED;
use crate::mesh::{AppProtocol, TrafficMode};

impl<'m> Scope<'m> {
    /// How this scope treats a call of the client.
    pub fn treat(&self, client: &Client<'_>, call: &ScopeCall) -> Treatment {
        let address = call.address.to_string();
        let (exact, every) = self.entries(client, call.port, &address);
        let entry = if exact.protocol.is_some() { exact } else { every };
        let chain = if entry.protocol.is_some() { entry.choose(call) } else { None };
        let Some(chain) = chain else { return self.unrouted(client) };
        let mut treatment = match &chain.action {
            ChainAction::Http { .. } if call.protocol != CallProtocol::Http => {
                self.ends(client, RouteKind::None, Vec::new())
            }
            ChainAction::Http { listener, only } => {
                match http::route(self, *listener, client, call, only.as_deref()) {
                    http::HttpOutcome::Steps(steps) => Treatment {
                        full_name_only: http::is_full_name_only(self, *listener, call),
                        ..self.ends(client, RouteKind::Http, steps)
                    },
                    http::HttpOutcome::Unrouted => {
                        Treatment { unrouted_http: true, ..self.unrouted(client) }
                    }
                    http::HttpOutcome::Nothing => self.ends(client, RouteKind::None, Vec::new()),
                }
            }
            ChainAction::Tcp { virtual_service, clusters } => {
                let step = RouteStep {
                    virtual_service: *virtual_service,
                    rule: (0, 0),
                    clusters: clusters.clone(),
                    mirrors: Vec::new(),
                };
                self.ends(client, RouteKind::Tcp, vec![step])
            }
        };
        treatment.uncertain |= chain.uncertain;
        treatment.taken_by = Some(chain.made_by);
        treatment
    }

    fn unrouted(&self, client: &Client<'_>) -> Treatment {
        let refused = self.policy == TrafficMode::RegistryOnly;
        self.ends(
            client,
            if refused { RouteKind::Blackhole } else { RouteKind::Passthrough },
            Vec::new(),
        )
    }

    fn ends(&self, client: &Client<'_>, kind: RouteKind, steps: Vec<RouteStep>) -> Treatment {
        let named = steps.iter().flat_map(RouteStep::all_clusters);
        let backing = named.map(|c| {
            let found = self.service(&c.host).filter(|s| s.port(c.port).is_some());
            // A subset that no rule defines has no cluster.
            let defined = |s: &&ScopedService<'_>| {
                let rule = self.rule(s.service, client.labels);
                rule.is_some_and(|r| r.subsets.iter().any(|x| x.name == c.subset))
            };
            found.filter(|s| c.subset.is_empty() || defined(s)).map(|s| s.service.order)
        });
        let backing = backing.collect();
        Treatment {
            kind,
            steps,
            backing,
            uncertain: false,
            taken_by: None,
            unrouted_http: false,
            full_name_only: false,
        }
    }

    /// The proxy's listeners on this port: at this address, and at every address.
    fn entries(
        &self,
        client: &Client<'_>,
        port: u16,
        address: &str,
    ) -> (ProxyListener, ProxyListener) {
        let (mut exact, mut every) = (ProxyListener::default(), ProxyListener::default());
        for (n, listener) in self.listeners.iter().enumerate() {
            let bound = listener.egress.port.as_ref().filter(|p| p.number != 0);
            let declared = bound.map(|p| AppProtocol::parse(&p.protocol));
            if bound.is_some_and(|p| p.number != port) || declared == Some(AppProtocol::HttpProxy) {
                continue;
            }
            if bound.is_none() {
                exact.locked = exact.protocol.is_some();
                every.locked = every.protocol.is_some();
            }
            let Some(at) = listener.index(self.mesh).ports.get(&port) else { continue };
            let add = |entry: &mut ProxyListener, i: u32, on_every: bool| {
                let scoped = &listener.services[i as usize];
                let Some(own) = scoped.port(port) else { return };
                let protocol = declared.unwrap_or(own.protocol);
                entry.add(protocol, on_every, || {
                    self.chains(n, i, protocol, port, on_every, client)
                });
            };
            let given = listener.egress.bind.as_str();
            if !given.is_empty() {
                // The listener's own address, whatever the Services have.
                let (entry, on_every) =
                    if given == UNSPECIFIED { (&mut every, true) } else { (&mut exact, false) };
                if on_every || given == address {
                    (0..listener.services.len() as u32).for_each(|i| add(entry, i, on_every));
                }
                continue;
            }
            at.every.iter().for_each(|&i| add(&mut every, i, true));
            for &i in at.by_address.get(address).into_iter().flatten() {
                // A headless Service has no listener for the client's own address.
                let own = client.address == Some(address)
                    && listener.services[i as usize].service.address == UNSPECIFIED;
                if !own {
                    add(&mut exact, i, false);
                }
            }
        }
        (exact, every)
    }

    fn chains(
        &self,
        n: usize,
        i: u32,
        protocol: AppProtocol,
        port: u16,
        on_every: bool,
        client: &Client<'_>,
    ) -> Vec<FilterChain> {
        let scoped = &self.listeners[n].services[i as usize];
        let mut out = Vec::new();
        if !protocol.is_http() {
            out = l4::chains(self, n, scoped, protocol, port, on_every, client);
        }
        if protocol.is_http_or_sniffed() {
            let only = (!protocol.is_http() && !on_every).then(|| scoped.service.host.clone());
            out.push(FilterChain {
                sni: Vec::new(),
                ranges: Vec::new(),
                detected_http: on_every || !protocol.is_http(),
                action: ChainAction::Http { listener: n, only },
                uncertain: false,
                made_by: 0,
            });
        }
        for chain in &mut out {
            chain.uncertain = scoped.uncertain;
            chain.made_by = scoped.service.order;
        }
        out
    }
}
