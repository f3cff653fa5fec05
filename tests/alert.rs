//! Alerts on their way out, held against receivers that do well and badly.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "alert/alertmanager.rs"]
mod alertmanager;
#[path = "alert/event.rs"]
mod event;
#[path = "alert/receiver.rs"]
mod receiver;
#[path = "alert/webhook.rs"]
mod webhook;

use std::time::Duration;

use receiver::Receiver;
use sidecarta::alert::{AlertUndelivered, SinkConfig, Sinks, Webhook, WebhookForm, backoff};
use sidecarta::model::{Alert, AlertKind, Destination, Protocol, ServicePort, Time, WorkloadId};

/// A time in 2026, in seconds.
const BEGUN: i64 = 1_780_000_000;

fn time(seconds: i64) -> Time {
    Time((BEGUN + seconds) * 1_000_000_000)
}

fn workload(name: &str) -> WorkloadId {
    WorkloadId {
        namespace: "shop".to_owned(),
        kind: "Deployment".to_owned(),
        name: name.to_owned(),
    }
}

fn alert(name: &str) -> Alert {
    Alert {
        kind: AlertKind::NewDependency,
        workload: workload(name),
        destination: Some(Destination::Service(ServicePort {
            namespace: "bank".to_owned(),
            name: "ledger".to_owned(),
            host: "ledger.bank.svc.cluster.local".to_owned(),
            port: 8080,
        })),
        port: 8080,
        protocol: Some(Protocol::Tcp),
        first_seen: time(0),
        last_seen: time(30),
        connections: 7,
        dependencies: None,
        raised: time(60),
        ignored: None,
        ignored_by: None,
        ignored_at: None,
    }
}

/// That a workload is new.
fn new_workload(name: &str) -> Alert {
    Alert {
        kind: AlertKind::NewWorkload,
        destination: None,
        port: 0,
        protocol: None,
        dependencies: Some(3),
        ..alert(name)
    }
}

fn external(host: &str) -> Destination {
    Destination::External {
        host: Some(host.to_owned()),
        address: None,
        namespace: None,
        name: None,
        entry_host: None,
    }
}

/// Long enough for the slowest machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(20);
/// Waited for in vain.
const SHORT: Duration = Duration::from_millis(500);

/// Of one webhook.
fn hook(url: &str, form: WebhookForm) -> SinkConfig {
    SinkConfig {
        webhooks: vec![Webhook { url: url.parse().unwrap(), form, headers: Vec::new() }],
        timeout: PATIENCE,
        ..SinkConfig::default()
    }
}

/// Tells the first sink of one alert.
async fn deliver(config: &SinkConfig) -> Result<(), AlertUndelivered> {
    let sinks = Sinks::new(config, None).unwrap();
    sinks.deliver(&sinks.names()[0], &[alert("cart")]).await
}

fn later(result: Result<(), AlertUndelivered>) -> (String, Option<Duration>) {
    match result {
        Err(AlertUndelivered::Later { why, after }) => (why, after),
        other => panic!("{other:?}"),
    }
}

fn never(result: Result<(), AlertUndelivered>) -> String {
    match result {
        Err(AlertUndelivered::Never(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn attempts_are_ever_further_apart_up_to_five_minutes() {
    for (attempt, seconds) in
        [(1, 1), (2, 2), (3, 4), (4, 8), (9, 256), (10, 300), (11, 300), (u32::MAX, 300)]
    {
        let waits: Vec<Duration> =
            (0..50).map(|i| backoff(attempt, &format!("alert {i}"))).collect();
        let full = Duration::from_secs(seconds);
        assert!(waits.iter().all(|w| *w <= full && *w >= full * 4 / 5), "{attempt}: {waits:?}");
        assert!(waits.iter().any(|w| *w != waits[0]), "nothing keeps {attempt} apart");
    }
    assert_eq!(backoff(3, "a"), backoff(3, "a"));
    assert_eq!(backoff(0, "a").as_secs(), 0);
}

#[tokio::test]
async fn a_sink_that_is_no_longer_configured_takes_nothing() {
    let sinks = Sinks::new(&SinkConfig::default(), None).unwrap();
    assert!(sinks.names().is_empty());
    assert!(never(sinks.deliver("event", &[alert("cart")]).await).contains("not configured"));
    assert_eq!(sinks.repeat_after("event"), None);
}

#[tokio::test]
async fn names_are_stable_and_contain_no_secret() {
    let url = |t: &str| t.parse().unwrap();
    let one = |u: &str, form| Webhook {
        url: url(u),
        form,
        headers: vec![("authorization".to_owned(), "Bearer s3cr3t-t0ken".into())],
    };
    let config = SinkConfig {
        webhooks: vec![
            one("https://hooks.slack.com/services/T0001/B0002/XyZzY123", WebhookForm::Slack),
            one("https://hooks.slack.com/services/T0001/B0002/XyZzY123", WebhookForm::Slack),
            one("https://hooks.slack.com/services/T0001/B0002/XyZzY123", WebhookForm::Json),
            one("http://[::1]:8080/in?token=XyZzY123", WebhookForm::Json),
        ],
        alertmanagers: vec![
            url("http://am-0:9093"),
            url("https://am-1/"),
            url("http://[::1]:9093/private/XyZzY123/"),
        ],
        ..SinkConfig::default()
    };
    let sinks = Sinks::new(&config, None).unwrap();
    let names = sinks.names();
    assert_eq!(names.len(), 6, "the same webhook is there twice: {names:?}");
    assert!(names[0].starts_with("webhook:hooks.slack.com/") && names[0].len() == 32, "{names:?}");
    assert!(names[2].starts_with("webhook:[::1]:8080/"), "{names:?}");
    assert_eq!(names[3..5], ["alertmanager:am-0:9093", "alertmanager:am-1:443"]);
    assert!(names[5].starts_with("alertmanager:[::1]:9093/"), "{names:?}");
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), 6, "{names:?}");
    for text in [format!("{names:?}"), format!("{config:?}"), format!("{sinks:?}")] {
        assert!(!text.contains("XyZzY123") && !text.contains("s3cr3t"), "{text}");
    }
    assert_eq!(Sinks::new(&config, None).unwrap().names(), names);
    let kept: Vec<_> = names.iter().filter(|n| sinks.repeat_after(n).is_some()).collect();
    assert_eq!(kept, names[3..].iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_invalid_configuration_is_refused_without_showing_a_secret() {
    let with = |url: &str, headers: &[(&str, &str)]| {
        let mut config = hook(url, WebhookForm::Json);
        config.webhooks[0].headers =
            headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config
    };
    let am = |url: &str| SinkConfig {
        alertmanagers: vec![url.parse().unwrap()],
        ..SinkConfig::default()
    };
    let mut twice = with("http://h/XyZzY123", &[("a", "1")]);
    twice.webhooks.extend(with("http://h/XyZzY123", &[("a", "2")]).webhooks);
    let wrong = [
        (with("ftp://h/XyZzY123", &[]), "begins with neither"),
        (with("/XyZzY123", &[]), "begins with neither"),
        (with("http://me:XyZzY123@h/", &[]), "Authorization"),
        (with("http://h/", &[("bad header", "XyZzY123")]), "cannot be sent"),
        (with("http://h/", &[("a", "XyZzY123\r\nb: c")]), "cannot be sent"),
        (with("http://h/", &[("Content-Length", "XyZzY123")]), "not for you"),
        (am("http://h/?token=XyZzY123"), "query"),
        (am("http://me:XyZzY123@h/"), "Authorization"),
        (twice, "twice"),
        (SinkConfig { event: true, ..SinkConfig::default() }, "API server"),
        (SinkConfig { authority: Some("/nowhere".into()), ..SinkConfig::default() }, "/nowhere"),
    ];
    for (config, words) in wrong {
        let why = Sinks::new(&config, None).unwrap_err().to_string();
        assert!(why.contains(words) && !why.contains("XyZzY123"), "{why}");
    }
}
