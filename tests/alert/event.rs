//! Events, held against an API server that is as strict about them as the real one
//! (pkg/apis/core/validation/events.go).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sidecarta::alert::{AlertUndelivered, SinkConfig, Sinks};
use sidecarta::model::{Alert, AlertKind};

use crate::receiver::{Reply, Request};
use crate::{PATIENCE, Receiver, SHORT, alert, external, later, never, time};

type Kept = Arc<Mutex<BTreeMap<String, Value>>>;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

fn status(code: u16, reason: &str, details: Value) -> Reply {
    let message = format!("{reason} it is");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason,
        "message": message, "details": details,
    });
    Reply::json(code, &body)
}

/// What the API server would refuse.
fn faults(event: &Value, namespace: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut must = |what: &str, holds: bool| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    let bounded = |field: &str, limit: usize| (1..=limit).contains(&text(field).len());
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    must(
        "name",
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b)),
    );
    must(
        "namespace",
        event["metadata"]["namespace"] == namespace && event["regarding"]["namespace"] == namespace,
    );
    must("eventTime", text("eventTime").ends_with('Z'));
    must("reportingController", bounded("reportingController", 63));
    must("reportingInstance", bounded("reportingInstance", 128));
    must("action", bounded("action", 128));
    must("reason", bounded("reason", 128));
    must("type", ["Normal", "Warning"].contains(&text("type")));
    must("note", text("note").len() <= 1024);
    must(
        "deprecated fields",
        event.as_object().unwrap().keys().all(|k| !k.starts_with("deprecated")),
    );
    must("series", event["series"].is_null() || event["series"]["count"].as_i64() >= Some(2));
    faults
}

/// Answers as an API server does: Events are made once, workloads have the UIDs that are there.
fn serve(request: &Request, kept: &Kept, uids: &[(&str, &str)]) -> Reply {
    let path = request.target.split('?').next().unwrap();
    let mut kept = kept.lock().unwrap();
    match request.method.as_str() {
        "GET" => match uids.iter().find(|(p, _)| *p == path) {
            Some((_, uid)) => {
                assert!(
                    request.headers["accept"].contains("PartialObjectMetadata"),
                    "{:?}",
                    request.headers
                );
                let meta = json!({"name": "cart", "namespace": "shop", "uid": uid});
                Reply::json(
                    200,
                    &json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                        "metadata": meta}),
                )
            }
            None => status(404, "NotFound", Value::Null),
        },
        "POST" => {
            assert_eq!(path, EVENTS);
            let event = request.json();
            assert_eq!(
                (event["apiVersion"].as_str(), event["kind"].as_str()),
                (Some("events.k8s.io/v1"), Some("Event"))
            );
            assert_eq!(faults(&event, "shop"), Vec::<String>::new());
            let name = event["metadata"]["name"].as_str().unwrap().to_owned();
            if kept.contains_key(&name) {
                return status(409, "AlreadyExists", Value::Null);
            }
            kept.insert(name, event.clone());
            Reply::json(201, &event)
        }
        "PATCH" => {
            assert_eq!(request.headers["content-type"], "application/merge-patch+json");
            let patch = request.json();
            assert!(
                patch.as_object().unwrap().keys().all(|k| k == "series"),
                "all else must not change: {patch}"
            );
            let Some(event) =
                kept.get_mut(path.strip_prefix(EVENTS).unwrap().trim_start_matches('/'))
            else {
                return status(404, "NotFound", Value::Null);
            };
            event["series"] = patch["series"].clone();
            assert_eq!(faults(event, "shop"), Vec::<String>::new());
            Reply::json(200, event)
        }
        other => panic!("{other}"),
    }
}

fn api(uids: &'static [(&'static str, &'static str)]) -> (Receiver, Kept) {
    let kept = Kept::default();
    let own = Arc::clone(&kept);
    (Receiver::start(move |r| serve(r, &own, uids)), kept)
}

fn sinks(api: &Receiver, timeout: Duration) -> Sinks {
    let mut config = kube::Config::new(format!("http://{}", api.address).parse().unwrap());
    // Else a status that says "later" is asked for again, and again.
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let config = SinkConfig { event: true, timeout, ..SinkConfig::default() };
    Sinks::new(&config, Some(client)).unwrap()
}

async fn deliver(api: &Receiver, alerts: &[Alert]) -> Result<(), AlertUndelivered> {
    let sinks = sinks(api, PATIENCE);
    assert_eq!(sinks.names(), ["event"]);
    assert_eq!(sinks.repeat_after("event"), None);
    sinks.deliver("event", alerts).await
}

#[tokio::test]
async fn an_alert_is_an_event_at_its_workload() {
    let (api, kept) = api(&[("/apis/apps/v1/namespaces/shop/deployments/cart", "u-1")]);
    deliver(&api, &[alert("cart")]).await.unwrap();
    let event = kept.lock().unwrap().values().next().unwrap().clone();
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "cart",
            "uid": "u-1"})
    );
    assert_eq!(
        (event["type"].as_str(), event["reason"].as_str()),
        (Some("Warning"), Some("NewDependency"))
    );
    assert_eq!(event["note"], alert("cart").text());
    assert_eq!(event["eventTime"].as_str().unwrap()[..19], time(60).to_string()[..19]);
    assert!(event["series"].is_null());
}

#[tokio::test]
async fn each_kind_has_its_reason_and_each_controller_its_api() {
    let (api, kept) = api(&[
        ("/apis/apps/v1/namespaces/shop/statefulsets/w", "u-ss"),
        ("/apis/batch/v1/namespaces/shop/cronjobs/w", "u-cj"),
        ("/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/w", "u-ro"),
        ("/api/v1/namespaces/shop/pods/w", "u-pod"),
    ]);
    let of = |owner: &str, kind| {
        let mut alert = Alert { kind, ..alert("w") };
        alert.workload.kind = owner.to_owned();
        alert
    };
    let all = [
        (of("StatefulSet", AlertKind::ScopeMiss), "ScopeMiss", json!("apps/v1"), json!("u-ss")),
        (
            of("CronJob", AlertKind::Ambiguous),
            "AmbiguousDestination",
            json!("batch/v1"),
            json!("u-cj"),
        ),
        (
            of("Rollout", AlertKind::CoverageLost),
            "CoverageLost",
            json!("argoproj.io/v1alpha1"),
            json!("u-ro"),
        ),
        (of("Pod", AlertKind::NewDependency), "NewDependency", json!("v1"), json!("u-pod")),
        (of("CloneSet", AlertKind::NewDependency), "NewDependency", Value::Null, Value::Null),
        (of("DaemonSet", AlertKind::NewDependency), "NewDependency", json!("apps/v1"), Value::Null),
        (of("ReplicaSet", AlertKind::NewWorkload), "NewWorkload", json!("apps/v1"), Value::Null),
    ];
    let alerts: Vec<Alert> = all.iter().map(|(a, ..)| a.clone()).collect();
    deliver(&api, &alerts).await.unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), all.len());
    for (alert, reason, version, uid) in all {
        let event =
            kept.values().find(|e| e["regarding"]["kind"] == alert.workload.kind.as_str()).unwrap();
        assert_eq!(
            (&event["reason"], &event["regarding"]["apiVersion"], &event["regarding"]["uid"]),
            (&json!(reason), &version, &uid)
        );
    }
}

#[tokio::test]
async fn an_alert_that_is_delivered_twice_is_one_event_with_a_series() {
    let (api, kept) = api(&[]);
    let more = Alert { connections: 12, last_seen: time(600), ..alert("cart") };
    for _ in 0..2 {
        deliver(&api, &[alert("cart")]).await.unwrap();
    }
    deliver(&api, std::slice::from_ref(&more)).await.unwrap();
    // Another destination is another alert.
    deliver(&api, &[Alert { destination: Some(external("example.com")), ..alert("cart") }])
        .await
        .unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 2);
    let event = kept.values().find(|e| !e["series"].is_null()).unwrap();
    assert_eq!(event["series"]["count"], 12);
    assert_eq!(
        event["series"]["lastObservedTime"].as_str().unwrap()[..19],
        time(600).to_string()[..19]
    );
}

#[tokio::test]
async fn a_note_is_cut_between_characters() {
    let (api, kept) = api(&[]);
    for filler in 0..4 {
        let host = format!("{}{}", "x".repeat(filler), "ü".repeat(700));
        deliver(&api, &[Alert { destination: Some(external(&host)), ..alert("cart") }])
            .await
            .unwrap();
    }
    for event in kept.lock().unwrap().values() {
        let note = event["note"].as_str().unwrap();
        assert!(note.len() > 1000 && note.len() <= 1024 && note.ends_with('…'), "{}", note.len());
    }
}

#[tokio::test]
async fn names_do_not_lead_anywhere_else() {
    let (api, kept) = api(&[]);
    let mut odd = alert("../../../../../api/v1/namespaces/shop/secrets/key");
    deliver(&api, std::slice::from_ref(&odd)).await.unwrap();
    assert_eq!(kept.lock().unwrap().len(), 1);
    odd.workload.namespace = "../x".to_owned();
    never(deliver(&api, &[odd, alert("cart")]).await);
    assert_eq!(kept.lock().unwrap().len(), 2, "the other is delivered");
    assert!(
        api.requests().iter().all(|r| !r.target.contains("secrets") && !r.target.contains(".."))
    );
}

#[tokio::test]
async fn the_answer_says_whether_to_try_again() {
    let refused = async |code: u16, reason: &'static str, details: Value| {
        let api = Receiver::start(move |r| {
            if r.method == "GET" {
                status(403, "Forbidden", Value::Null)
            } else {
                status(code, reason, details.clone())
            }
        });
        let result = deliver(&api, &[alert("cart"), alert("till")]).await;
        (result, api.requests().iter().filter(|r| r.method == "POST").count())
    };
    for (code, reason) in
        [(400, "BadRequest"), (404, "NotFound"), (413, "RequestEntityTooLarge"), (422, "Invalid")]
    {
        let (result, asked) = refused(code, reason, Value::Null).await;
        assert!(never(result).contains(reason));
        assert_eq!(asked, 2);
    }
    let ending = json!({"causes": [{"reason": "NamespaceTerminating",
        "message": "namespace shop is being terminated"}]});
    never(refused(403, "Forbidden", ending).await.0);
    for (code, reason) in [(401, "Unauthorized"), (403, "Forbidden")] {
        let (result, asked) = refused(code, reason, Value::Null).await;
        let (why, after) = later(result);
        assert!(why.contains("events.k8s.io") && after == Some(Duration::from_secs(300)), "{why}");
        assert_eq!(asked, 2, "rights in one namespace say nothing of another");
    }
    for (code, reason) in [
        (408, "Timeout"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
    ] {
        let (result, asked) = refused(code, reason, json!({"retryAfterSeconds": 9})).await;
        assert_eq!(later(result).1, Some(Duration::from_secs(9)));
        assert_eq!(asked, 1);
    }
}

#[tokio::test]
async fn without_an_answer_the_alert_is_tried_again() {
    for reply in
        [|| Reply::Silent, || Reply::Break, || Reply::Say(500, Vec::new(), "not json".to_owned())]
    {
        let api = Receiver::start(move |_| reply());
        later(sinks(&api, SHORT).deliver("event", &[alert("cart")]).await);
    }
}

#[tokio::test]
async fn an_event_that_vanishes_in_between_is_made_again() {
    let gone = Receiver::start(|r| match r.method.as_str() {
        "POST" => status(409, "AlreadyExists", Value::Null),
        _ => status(404, "NotFound", Value::Null),
    });
    later(deliver(&gone, &[alert("cart")]).await);
    let fixed = Receiver::start(|r| match r.method.as_str() {
        "POST" => status(409, "AlreadyExists", Value::Null),
        _ => status(403, "Forbidden", Value::Null),
    });
    deliver(&fixed, &[alert("cart")]).await.unwrap();
    assert!(fixed.requests().iter().any(|r| r.method == "PATCH"));
}
