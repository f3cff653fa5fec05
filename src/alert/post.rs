//! Requests to webhooks and Alertmanagers.
//!
//! Owns their addresses, their headers, and what an answer means. Must never repeat an address or a
//! header: only the host.

use std::fmt;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::config::{Form, Invalid, Webhook};
use super::words::{Undelivered, cut, hex};
use crate::http::{Http, HttpAnswer};

/// Bytes that are told of an answer.
const WORDS: usize = 200;
/// Shorter words are no secrets, and would be found in every answer.
const SECRET: usize = 6;
/// Headers that are the request's own.
const OURS: [&str; 7] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "user-agent",
];

/// An address to post to.
#[derive(PartialEq, Eq)]
pub(super) struct Target {
    name: String,
    url: Uri,
    headers: Vec<(String, String)>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Target {
    /// # Errors
    /// When the address or a header cannot be used.
    pub(super) fn webhook(webhook: &Webhook) -> Result<Self, Invalid> {
        let (host, port) = place("a webhook", &webhook.url)?;
        let port = port.map(|p| format!(":{p}")).unwrap_or_default();
        let form = if webhook.form == Form::Slack { "slack" } else { "json" };
        let name = format!(
            "webhook:{host}{port}/{}",
            hex(format!("{form} {}", webhook.url).as_bytes(), 4)
        );
        check(&name, &webhook.headers)?;
        Ok(Self { name, url: webhook.url.clone(), headers: webhook.headers.clone() })
    }

    /// # Errors
    /// As above; or when there is a query.
    pub(super) fn alertmanager(url: &Uri, headers: &[(String, String)]) -> Result<Self, Invalid> {
        let (host, port) = place("an Alertmanager", url)?;
        let port = port.unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        let path = url.path().trim_end_matches('/');
        let digest =
            if path.is_empty() { String::new() } else { format!("/{}", hex(path.as_bytes(), 4)) };
        let name = format!("alertmanager:{host}:{port}{digest}");
        if url.query().is_some() {
            return Err(Invalid(format!("{name}: its address must have no query")));
        }
        check(&name, headers)?;
        let mut parts = url.clone().into_parts();
        let full = format!("{path}/api/v2/alerts").parse();
        parts.path_and_query =
            Some(full.map_err(|_| Invalid(format!("{name}: its path cannot be used")))?);
        let url = Uri::from_parts(parts)
            .map_err(|_| Invalid(format!("{name}: its address cannot be used")))?;
        Ok(Self { name, url, headers: headers.to_vec() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Posts one body after the other, each with its `Idempotency-Key`. One that is refused for
    /// good does not hold up the rest.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub(super) async fn post_all(
        &self,
        http: &Http,
        within: Duration,
        bodies: impl Iterator<Item = (Vec<u8>, Option<String>)> + Send,
    ) -> Result<(), Undelivered> {
        let mut never = Ok(());
        for (body, key) in bodies {
            match self.post(http, within, body, key).await {
                Err(e @ Undelivered::Later { .. }) => return Err(e),
                Err(e) => never = Err(e),
                Ok(()) => {}
            }
        }
        never
    }

    async fn post(
        &self,
        http: &Http,
        within: Duration,
        body: Vec<u8>,
        key: Option<String>,
    ) -> Result<(), Undelivered> {
        let mut headers = vec![("content-type", "application/json"), ("user-agent", "sidecarta")];
        headers.extend(key.iter().map(|k| ("idempotency-key", k.as_str())));
        headers.extend(self.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let answer = http.notify(Method::POST, &self.url, &headers, body, within).await;
        let answer = answer.map_err(|e| Undelivered::later(format!("{}: {e}", self.name), None))?;
        let why = || format!("{}: {}", self.name, self.words(&answer));
        match answer.status.as_u16() {
            200..300 => Ok(()),
            408 | 425 | 429 | 500.. => Err(Undelivered::later(why(), answer.retry_after())),
            300..400 => Err(Undelivered::Never(format!(
                "{}; write the address that it redirects to",
                why()
            ))),
            _ => Err(Undelivered::Never(why())),
        }
    }

    /// The status and, where it is one harmless line, what the answer says. Receivers like to
    /// repeat what they were asked for, so nothing is told of an answer that holds a part of the
    /// address or of a header.
    fn words(&self, answer: &HttpAnswer) -> String {
        let status = answer.status;
        let body = String::from_utf8_lossy(&answer.body);
        let text = body.trim().trim_matches('"');
        let plain = !text.is_empty() && !text.starts_with('<') && !text.contains(char::is_control);
        if !plain || self.told_by(&body) {
            return status.to_string();
        }
        format!("{status}: {}", cut(text, WORDS))
    }

    fn told_by(&self, text: &str) -> bool {
        let text = unescaped(text);
        let path = self.url.path_and_query().map(|p| p.as_str()).unwrap_or_default();
        let mut all = vec![path];
        all.extend(self.headers.iter().map(|(_, v)| v.as_str()));
        let between =
            |c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '%'));
        // Whole as well: a secret may be made of short words.
        let words = all
            .iter()
            .flat_map(|t| t.split(between).chain([*t]))
            .filter(|w| w.len() >= SECRET && !known(w));
        words.map(unescaped).any(|word| text.contains(&word))
    }
}

/// Words of every address; an answer that holds them tells nothing.
fn known(word: &str) -> bool {
    ["Bearer", "services", "webhook", "webhooks", "alerts"].contains(&word)
}

/// In one form, whichever of the two ways it is written: percent-encoded or not, in capitals or
/// not.
fn unescaped(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().to_lowercase()
}

/// Host and port of an address.
fn place<'a>(what: &str, url: &'a Uri) -> Result<(&'a str, Option<u16>), Invalid> {
    let Some(host) = url.host().filter(|_| matches!(url.scheme_str(), Some("http" | "https")))
    else {
        return Err(Invalid(format!(
            "{what} has an address that begins with neither http:// nor https://"
        )));
    };
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Invalid(format!(
            "{what} at {host} has a user in its address: write a header `Authorization` instead"
        )));
    }
    Ok((host, url.port_u16()))
}

/// Whether headers can be sent, and do not disturb the request. Names them without their values.
fn check(name: &str, headers: &[(String, String)]) -> Result<(), Invalid> {
    for (header, value) in headers {
        if HeaderName::from_bytes(header.as_bytes()).is_err()
            || HeaderValue::from_str(value).is_err()
        {
            return Err(Invalid(format!("{name}: the header {header:?} cannot be sent")));
        }
        if OURS.contains(&header.to_ascii_lowercase().as_str()) {
            return Err(Invalid(format!("{name}: the header {header:?} is not for you to set")));
        }
    }
    Ok(())
}
