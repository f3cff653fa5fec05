//! Calls that people or other tools declare, as they spell them.
//!
//! Owns reading a line: a URL, a host with its port, a port as text, upper case. Must never drop a
//! line without saying so, nor decide what a host stands for.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::valid;
use crate::scope::CallProtocol;

/// A call that a person or another tool declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredCall {
    /// `NAMESPACE/NAME` of a workload or a pod.
    pub workload: String,
    /// Host, in full or as a client in that namespace may shorten it.
    pub host: String,
    /// Port; absent: all ports of the host.
    #[serde(default, deserialize_with = "port_number")]
    pub port: Option<u16>,
    /// `http`, `tls` or `tcp`, or a word of Istio's for one; absent: as the port declares.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What the host resolves to; absent: as the mesh says.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// File and line that it comes from, for people.
    #[serde(skip)]
    pub from: String,
}

/// A line that cannot be read as a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableCall {
    /// The workload that it is for, if that can be read.
    pub workload: Option<String>,
    /// Why it is no call, with its host if that can be read.
    pub why: String,
}

/// Reads a port that is a number, or a text with a number in it.
fn port_number<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelled {
        Number(u16),
        Text(String),
    }
    match Option::<Spelled>::deserialize(d)? {
        None => Ok(None),
        Some(Spelled::Number(n)) => Ok(Some(n)),
        Some(Spelled::Text(text)) => text.trim().parse().map(Some).map_err(|_| {
            serde::de::Error::custom(format_args!("the port {text:?} is no number of a port"))
        }),
    }
}

impl DeclaredCall {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is no call; with its workload, where that can be read.
    pub fn read(line: &str) -> Result<Self, UnreadableCall> {
        let refused = |why: String| {
            let host = text_of(line, "host").map(|h| format!("host {h:?}: ")).unwrap_or_default();
            UnreadableCall { workload: text_of(line, "workload"), why: format!("{host}{why}") }
        };
        let call = serde_json::from_str::<Self>(line);
        call.map_err(|e| refused(format!("not a call ({e})")))?.checked().map_err(refused)
    }

    /// The call in one spelling: without a URL, and with the host in lower case.
    ///
    /// # Errors
    /// A sentence, when the host is invalid, the port 0, or the protocol unknown.
    pub fn checked(mut self) -> Result<Self, String> {
        self.split_host()?;
        valid::called_host(&self.host).map_err(|e| e.to_string())?;
        if self.port == Some(0) {
            return Err("the port is 0, which nobody listens on".to_owned());
        }
        match self.protocol.as_deref() {
            Some(other) if protocol_named(other).is_none() => {
                Err(format!("the protocol {other:?} is none of http, tls, tcp"))
            }
            _ => Ok(self),
        }
    }

    /// Splits a URL or `HOST:PORT` into host, port and protocol.
    fn split_host(&mut self) -> Result<(), String> {
        let mut rest = self.host.trim().to_owned();
        let mut port = None;
        if let Some((scheme, after)) = rest.clone().split_once("://") {
            let scheme = scheme.rsplit(':').next().unwrap_or(scheme).to_ascii_lowercase();
            port = match scheme.as_str() {
                "http" | "ws" => Some(80),
                "https" | "wss" => Some(443),
                _ => None,
            };
            if self.protocol.is_none() {
                self.protocol = protocol_named(&scheme).is_some().then_some(scheme);
            }
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            let authority = &after[..end];
            rest = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned();
        }
        let (host, with) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((address, after)) => (address.to_owned(), after.strip_prefix(':')),
            None if rest.matches(':').count() == 1 => match rest.split_once(':') {
                Some((host, with)) => (host.to_owned(), Some(with)),
                None => (rest.clone(), None),
            },
            None => (rest.clone(), None),
        };
        if let Some(with) = with {
            let with = with.parse().map_err(|_| format!("{with:?} is no number of a port"))?;
            if self.port.is_some_and(|p| p != with) {
                return Err(format!("the host {:?} and the port name two ports", self.host));
            }
            port = Some(with);
        }
        self.port = self.port.or(port);
        self.host = host.trim_end_matches('.').to_ascii_lowercase();
        Ok(())
    }
}

/// The text behind a key in a line, whether the line is valid JSON or not.
fn text_of(line: &str, key: &str) -> Option<String> {
    if let Ok(value) = serde_json::from_str::<Value>(line) {
        return value.get(key)?.as_str().map(str::to_owned);
    }
    let (_, after) = line.split_once(&format!("\"{key}\""))?;
    let after = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    Some(after.split('"').next()?.to_owned())
}

/// The protocol of a name. Istio's names for the protocol of a port are among them
/// (`pkg/config/protocol/instance.go`).
pub(super) fn protocol_named(name: &str) -> Option<CallProtocol> {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http/1.1" | "http2" | "http/2" | "h2" | "h2c" | "grpc" | "grpc-web"
        | "http_proxy" | "ws" => Some(CallProtocol::Http),
        "tls" | "https" | "wss" | "grpcs" | "mtls" => Some(CallProtocol::Tls),
        "tcp" | "mongo" | "redis" | "mysql" => Some(CallProtocol::Tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (String, Option<u16>, Option<String>) {
        let call = DeclaredCall::read(line).unwrap_or_else(|e| panic!("{line}: {}", e.why));
        (call.host, call.port, call.protocol)
    }

    #[test]
    fn urls_and_ports_in_text_or_upper_case_are_read() {
        let line = |rest: &str| format!(r#"{{"workload": "shop/web", {rest}}}"#);
        let cart = |port, protocol: Option<&str>| {
            ("cart.shop".to_owned(), Some(port), protocol.map(str::to_owned))
        };
        let http = Some("http");
        assert_eq!(read(&line(r#""host": "http://cart.shop/a?b=c""#)), cart(80, http));
        assert_eq!(read(&line(r#""host": "http://u:p@cart.shop:8080""#)), cart(8080, http));
        assert_eq!(read(&line(r#""host": "CART.Shop.", "port": "80""#)), cart(80, None));
        assert_eq!(read(&line(r#""host": "cart.shop:80", "port": 80"#)), cart(80, None));
        assert_eq!(read(&line(r#""host": "[::1]:80""#)).0, "::1");
        let sql = read(&line(r#""host": "jdbc:postgresql://db.data:5432/x""#));
        assert_eq!(sql, ("db.data".to_owned(), Some(5432), None));
    }

    #[test]
    fn a_line_that_cannot_be_read_still_names_its_workload_and_host() {
        for line in [
            r#"{"workload": "shop/web", "host": "cart.shop", port: 80}"#,
            r#"{"workload": "shop/web", "host": "cart.shop:81", "port": 80}"#,
            r#"{"workload": "shop/web", "host": "cart.shop", "ports": [80]}"#,
            r#"{"workload": "shop/web", "host": "cart.shop", "port": 70000}"#,
        ] {
            let refused = DeclaredCall::read(line).unwrap_err();
            assert_eq!(refused.workload.as_deref(), Some("shop/web"), "{line}");
            assert!(refused.why.contains("cart.shop"), "{line}: {}", refused.why);
        }
        assert_eq!(DeclaredCall::read("not JSON").unwrap_err().workload, None);
    }
}
