//! A listener of the proxy and its filter chains: how Services that share one are merged
//! (`buildSidecarOutboundListener`, `mergeTCPFilterChains`), and which chain a connection takes
//! (Envoy's `FilterChainMatch`).
//!
//! Owns conflicts between protocols on one port. Must never decide where a chain sends a call.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::call::{CallProtocol, EnvoyCluster, ScopeCall};
use crate::mesh::AppProtocol;

/// What a filter chain does.
#[derive(Clone, Debug)]
pub(super) enum ChainAction {
    /// HTTP; with a host, the virtual hosts of that Service alone.
    Http { listener: usize, only: Option<String> },
    /// A TCP proxy.
    Tcp { virtual_service: Option<u32>, clusters: Vec<(EnvoyCluster, i64)> },
}

/// A filter chain of a listener of the proxy.
#[derive(Clone, Debug)]
pub(super) struct FilterChain {
    pub sni: Vec<String>,
    pub ranges: Vec<String>,
    /// It takes only connections in plain text in which Envoy detected HTTP.
    pub detected_http: bool,
    pub action: ChainAction,
    pub uncertain: bool,
    /// The Service that it was made for.
    pub made_by: u32,
}

impl FilterChain {
    fn matches_all(&self) -> bool {
        (self.sni.is_empty() || self.sni.iter().any(|s| s == "*"))
            && !self.detected_http
            && self.ranges.is_empty()
    }

    /// Whether both have the same conditions, so that the second is never reached
    /// (`conflictsWith`).
    fn conflicts(&self, other: &Self) -> bool {
        let sni = |c: &Self| c.sni.iter().filter(|s| *s != "*").cloned().collect::<BTreeSet<_>>();
        let ranges = |c: &Self| c.ranges.iter().filter_map(|r| range(r)).collect::<BTreeSet<_>>();
        self.detected_http == other.detected_http
            && sni(self) == sni(other)
            && ranges(self) == ranges(other)
    }
}

fn range(text: &str) -> Option<IpNet> {
    let net =
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    (!net.addr().is_unspecified()).then(|| net.trunc())
}

/// A listener of the proxy, being built.
#[derive(Debug, Default)]
pub(super) struct ProxyListener {
    /// `None` before the first Service; `Unsupported` once HTTP and TCP are mixed.
    pub protocol: Option<AppProtocol>,
    chains: Vec<FilterChain>,
    pub locked: bool,
}

impl ProxyListener {
    /// Adds a Service's chains (`buildSidecarOutboundListener`).
    pub(super) fn add(
        &mut self,
        port: AppProtocol,
        on_every: bool,
        chains: impl FnOnce() -> Vec<FilterChain>,
    ) {
        let Some(old) = self.protocol.filter(|_| !self.locked) else {
            if !self.locked {
                self.protocol =
                    Some(if port.is_http() && on_every { AppProtocol::Unsupported } else { port });
                self.chains = chains();
            }
            return;
        };
        let mut merged = AppProtocol::Unsupported;
        if port.is_http() {
            if !old.is_tcp() {
                return;
            }
        } else if port.is_tcp() {
            if !old.is_http() {
                merged = old;
            }
        } else if old.is_http() {
            self.chains.clear();
        } else if !old.is_tcp() {
            return;
        }
        // Detection breaks protocols in which the server speaks first.
        let server_first = |p| matches!(p, AppProtocol::Mongo | AppProtocol::MySql);
        if (server_first(port) || server_first(old)) && port != old {
            return;
        }
        self.protocol = Some(merged);
        for chain in chains() {
            if !self.chains.iter().any(|c| c.conflicts(&chain)) {
                self.chains.push(chain);
            }
        }
    }

    /// The chain that Envoy takes. One after the other, each criterion leaves only the chains that
    /// match it best.
    pub(super) fn choose(&self, call: &ScopeCall) -> Option<&FilterChain> {
        let tls =
            call.protocol == CallProtocol::Tls && self.chains.iter().any(|c| !c.sni.is_empty());
        let sni = if tls { call.host.as_str() } else { "" };
        let alpn =
            call.protocol == CallProtocol::Http && self.chains.iter().any(|c| c.detected_http);
        let single = self.chains.len() == 1;
        let mut left: Vec<&FilterChain> =
            self.chains.iter().filter(|c| single || !c.matches_all()).collect();
        narrow(&mut left, |c| {
            if c.ranges.is_empty() {
                return Some(0);
            }
            let holding =
                c.ranges.iter().filter_map(|r| range(r)).filter(|n| n.contains(&call.address));
            holding.map(|n| usize::from(n.prefix_len()) + 1).max()
        });
        narrow(&mut left, |c| {
            if c.sni.is_empty() || c.sni.iter().any(|s| s == "*") {
                return Some(0);
            }
            let fits = c.sni.iter().filter_map(|s| match s.strip_prefix('*') {
                _ if s == sni => Some(usize::MAX),
                Some(rest) if rest.starts_with('.') && sni.ends_with(rest) => Some(s.len()),
                _ => None,
            });
            fits.max()
        });
        narrow(&mut left, |c| match (c.detected_http, tls) {
            (false, _) => Some(0),
            (true, false) => Some(1),
            (true, true) => None,
        });
        narrow(&mut left, |c| match (c.detected_http, alpn) {
            (false, _) => Some(0),
            (true, true) => Some(1),
            (true, false) => None,
        });
        left.first()
            .copied()
            .or_else(|| self.chains.iter().rev().find(|c| !single && c.matches_all()))
    }
}

fn narrow(chains: &mut Vec<&FilterChain>, rank: impl Fn(&FilterChain) -> Option<usize>) {
    let best = chains.iter().filter_map(|c| rank(c)).max();
    chains.retain(|c| rank(c).is_some() && rank(c) == best);
}
