//! Requests to webhooks and Alertmanagers.
//!
//! Owns their addresses, their headers, and what an answer means. Must never show an address or a
//! header: only the host.

use std::fmt;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::config::{InvalidSinkConfig, Webhook, WebhookForm};
use super::words::{AlertUndelivered, cut, hex};
use crate::http::{Http, HttpAnswer};

/// Bytes of an answer that are repeated in an error.
const MAX_WORDS: usize = 200;
/// Bytes of the shortest secret: shorter words would be found in every answer.
const MIN_SECRET: usize = 6;
/// Headers that the request sets itself.
const OWN_HEADERS: [&str; 7] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "user-agent",
];

/// An address to post to, with its name as a sink.
#[derive(PartialEq, Eq)]
pub(super) struct PostTarget {
    name: String,
    url: Uri,
    headers: Vec<(String, String)>,
}

impl fmt::Debug for PostTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl PostTarget {
    /// # Errors
    /// When the address or a header cannot be used.
    pub(super) fn webhook(webhook: &Webhook) -> Result<Self, InvalidSinkConfig> {
        let (host, port) = host_and_port("a webhook", &webhook.url)?;
        let port = port.map(|p| format!(":{p}")).unwrap_or_default();
        let form = match webhook.form {
            WebhookForm::Slack => "slack",
            WebhookForm::Json => "json",
        };
        let digest = hex(format!("{form} {}", webhook.url).as_bytes(), 4);
        let name = format!("webhook:{host}{port}/{digest}");
        check_headers(&name, &webhook.headers)?;
        Ok(Self { name, url: webhook.url.clone(), headers: webhook.headers.clone() })
    }

    /// # Errors
    /// As above; or when there is a query.
    pub(super) fn alertmanager(
        url: &Uri,
        headers: &[(String, String)],
    ) -> Result<Self, InvalidSinkConfig> {
        let (host, port) = host_and_port("an Alertmanager", url)?;
        let port = port.unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        let path = url.path().trim_end_matches('/');
        let digest =
            if path.is_empty() { String::new() } else { format!("/{}", hex(path.as_bytes(), 4)) };
        let name = format!("alertmanager:{host}:{port}{digest}");
        if url.query().is_some() {
            return Err(InvalidSinkConfig(format!("{name}: its address must have no query")));
        }
        check_headers(&name, headers)?;
        let mut parts = url.clone().into_parts();
        let full = format!("{path}/api/v2/alerts").parse();
        parts.path_and_query =
            Some(full.map_err(|_| InvalidSinkConfig(format!("{name}: its path cannot be used")))?);
        let url = Uri::from_parts(parts)
            .map_err(|_| InvalidSinkConfig(format!("{name}: its address cannot be used")))?;
        Ok(Self { name, url, headers: headers.to_vec() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Posts one body after the other, each with its `Idempotency-Key`. One that is refused for
    /// good does not keep the others from being posted.
    ///
    /// # Errors
    /// See [`AlertUndelivered`].
    pub(super) async fn post_all(
        &self,
        http: &Http,
        timeout: Duration,
        bodies: impl Iterator<Item = (Vec<u8>, Option<String>)> + Send,
    ) -> Result<(), AlertUndelivered> {
        let mut never = Ok(());
        for (body, key) in bodies {
            match self.post(http, timeout, body, key).await {
                Err(e @ AlertUndelivered::Later { .. }) => return Err(e),
                Err(e) => never = Err(e),
                Ok(()) => {}
            }
        }
        never
    }

    async fn post(
        &self,
        http: &Http,
        timeout: Duration,
        body: Vec<u8>,
        key: Option<String>,
    ) -> Result<(), AlertUndelivered> {
        let mut headers = vec![("content-type", "application/json"), ("user-agent", "sidecarta")];
        headers.extend(key.iter().map(|k| ("idempotency-key", k.as_str())));
        headers.extend(self.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let answer = http.notify(Method::POST, &self.url, &headers, body, timeout).await;
        let answer =
            answer.map_err(|e| AlertUndelivered::later(format!("{}: {e}", self.name), None))?;
        let why = || format!("{}: {}", self.name, self.words(&answer));
        match answer.status.as_u16() {
            200..300 => Ok(()),
            408 | 425 | 429 | 500.. => Err(AlertUndelivered::later(why(), answer.retry_after())),
            300..400 => {
                let why = format!("{}; write the address that it redirects to", why());
                Err(AlertUndelivered::Never(why))
            }
            _ => Err(AlertUndelivered::Never(why())),
        }
    }

    /// The status and, where it is one harmless line, the text of an answer. Receivers often repeat
    /// the request, so the text is left out where it contains a part of the address or of a header.
    fn words(&self, answer: &HttpAnswer) -> String {
        let status = answer.status;
        let body = String::from_utf8_lossy(&answer.body);
        let text = body.trim().trim_matches('"');
        let is_plain =
            !text.is_empty() && !text.starts_with('<') && !text.contains(char::is_control);
        if !is_plain || self.is_repeated_in(&body) {
            return status.to_string();
        }
        format!("{status}: {}", cut(text, MAX_WORDS))
    }

    /// Whether a text contains a part of the address or of a header.
    fn is_repeated_in(&self, text: &str) -> bool {
        let text = normalized(text);
        let path = self.url.path_and_query().map(|p| p.as_str()).unwrap_or_default();
        let values = self.headers.iter().map(|(_, value)| value.as_str());
        [path].into_iter().chain(values).any(|secret| is_part_in(secret, &text))
    }
}

/// Whether a normalized text contains a secret, or one of its words. The whole counts as well: a
/// secret may be made of short words.
fn is_part_in(secret: &str, text: &str) -> bool {
    let is_between =
        |c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '%'));
    let words = secret.split(is_between).chain([secret]);
    let telling = words.filter(|word| word.len() >= MIN_SECRET && !is_common(word));
    telling.map(normalized).any(|word| text.contains(&word))
}

/// Whether a word is in many addresses. An answer that contains it shows no secret.
fn is_common(word: &str) -> bool {
    ["Bearer", "services", "webhook", "webhooks", "alerts"].contains(&word)
}

/// One form for all ways to write a text: percent-encoded or not, in capitals or not.
fn normalized(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().to_lowercase()
}

/// Host and port of an address.
fn host_and_port<'a>(
    what: &str,
    url: &'a Uri,
) -> Result<(&'a str, Option<u16>), InvalidSinkConfig> {
    let Some(host) = url.host().filter(|_| matches!(url.scheme_str(), Some("http" | "https")))
    else {
        return Err(InvalidSinkConfig(format!(
            "{what} has an address that begins with neither http:// nor https://"
        )));
    };
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(InvalidSinkConfig(format!(
            "{what} at {host} has a user in its address: write a header `Authorization` instead"
        )));
    }
    Ok((host, url.port_u16()))
}

/// Refuses headers that cannot be sent, or that the request sets itself. The error has their names
/// and not their values.
fn check_headers(name: &str, headers: &[(String, String)]) -> Result<(), InvalidSinkConfig> {
    for (header, value) in headers {
        if HeaderName::from_bytes(header.as_bytes()).is_err()
            || HeaderValue::from_str(value).is_err()
        {
            return Err(InvalidSinkConfig(format!("{name}: the header {header:?} cannot be sent")));
        }
        if OWN_HEADERS.contains(&header.to_ascii_lowercase().as_str()) {
            return Err(InvalidSinkConfig(format!(
                "{name}: the header {header:?} is not for you to set"
            )));
        }
    }
    Ok(())
}
