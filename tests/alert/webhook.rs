//! Webhooks: what they get, and what their answers mean.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use sidecarta::alert::{SinkConfig, Sinks, WebhookForm};
use sidecarta::model::{Alert, AlertKind};

use crate::receiver::{Reply, Request};
use crate::{
    PATIENCE, Receiver, SHORT, alert, deliver, external, hook, later, never, new_workload, time,
    workload,
};

fn url(receiver: &Receiver) -> String {
    format!("http://{}/hooks/XyZzY123?token=Pl0ver99", receiver.address)
}

fn impatient(receiver: &Receiver) -> SinkConfig {
    SinkConfig { timeout: SHORT, ..hook(&url(receiver), WebhookForm::Json) }
}

#[tokio::test]
async fn a_json_body_has_all_fields() {
    let receiver = Receiver::always(204);
    let mut config = hook(&url(&receiver), WebhookForm::Json);
    config.webhooks[0].headers.push(("Authorization".to_owned(), "Bearer abc".to_owned()));
    deliver(&config).await.unwrap();
    let [request] = receiver.requests().try_into().unwrap();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/hooks/XyZzY123?token=Pl0ver99")
    );
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["authorization"], "Bearer abc");
    let id = "new-dependency/shop/Deployment/cart/bank/ledger:8080";
    assert_eq!(
        request.json(),
        json!({"version": 1, "alerts": [{
            "id": id, "kind": "new-dependency",
            "text": "shop/cart calls bank/ledger:8080, which it was never seen to call before it \
                     was accepted",
            "workload": {"namespace": "shop", "kind": "Deployment", "name": "cart"},
            "destination": {
                "type": "service", "namespace": "bank", "name": "ledger",
                "host": "ledger.bank.svc.cluster.local", "port": 8080
            },
            "port": 8080, "protocol": "TCP",
            "firstSeen": time(0).to_string(), "lastSeen": time(30).to_string(), "connections": 7,
            "raised": time(60).to_string(),
        }]})
    );
}

#[tokio::test]
async fn a_new_workload_has_the_number_of_its_dependencies() {
    let receiver = Receiver::always(204);
    for form in [WebhookForm::Json, WebhookForm::Slack] {
        let config = hook(&url(&receiver), form);
        let sinks = Sinks::new(&config, None).unwrap();
        sinks.deliver(&sinks.names()[0], &[new_workload("late")]).await.unwrap();
    }
    let [json, slack] = receiver.requests().try_into().unwrap();
    let sent = &json.json()["alerts"][0];
    assert_eq!(sent["id"], "new-workload/shop/Deployment/late");
    assert_eq!((&sent["kind"], &sent["dependencies"]), (&json!("new-workload"), &json!(3)));
    let text = "shop/late is a new workload, which nobody accepted, and has 3 dependencies";
    assert_eq!(slack.json()["text"], text);
}

#[tokio::test]
async fn a_repetition_has_the_same_key_and_nothing_else_has() {
    let receiver = Receiver::always(200);
    let sinks = Sinks::new(&hook(&url(&receiver), WebhookForm::Json), None).unwrap();
    let name = &sinks.names()[0];
    let once = alert("cart");
    let counted = Alert { connections: 99, last_seen: time(90), ..once.clone() };
    let raised_again = Alert { raised: time(3600), ..once.clone() };
    for some in [
        vec![once.clone()],
        vec![counted],
        vec![raised_again],
        vec![alert("till")],
        vec![once, alert("till")],
    ] {
        sinks.deliver(name, &some).await.unwrap();
    }
    let keys: Vec<String> =
        receiver.requests().iter().map(|r| r.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys[0], keys[1]);
    let mut others = keys[1..].to_vec();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), 4, "{keys:?}");
}

#[tokio::test]
async fn many_alerts_are_sent_a_hundred_at_a_time() {
    let receiver = Receiver::always(200);
    let sinks = Sinks::new(&hook(&url(&receiver), WebhookForm::Json), None).unwrap();
    let name = &sinks.names()[0];
    sinks.deliver(name, &[]).await.unwrap();
    assert!(receiver.requests().is_empty());
    let all: Vec<Alert> = (0..250).map(|i| alert(&format!("w{i}"))).collect();
    sinks.deliver(name, &all).await.unwrap();
    let sent: Vec<usize> =
        receiver.requests().iter().map(|r| r.json()["alerts"].as_array().unwrap().len()).collect();
    assert_eq!(sent, [100, 100, 50]);
}

#[tokio::test]
async fn one_request_that_is_refused_does_not_hold_up_the_rest() {
    let first = |r: &Request| r.json()["alerts"][0]["workload"]["name"] == "w0";
    let receiver = Receiver::start(move |r| Reply::status(if first(r) { 400 } else { 200 }));
    let sinks = Sinks::new(&hook(&url(&receiver), WebhookForm::Json), None).unwrap();
    let all: Vec<Alert> = (0..150).map(|i| alert(&format!("w{i}"))).collect();
    never(sinks.deliver(&sinks.names()[0], &all).await);
    assert_eq!(receiver.requests().len(), 2);
}

fn slack(alerts: &[Alert]) -> String {
    let body: Value = serde_json::from_slice(&WebhookForm::Slack.body(alerts)).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 2);
    assert_eq!(body["mrkdwn"], false, "names hold `_` and `*`");
    body["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn slack_has_a_line_for_each_and_no_links() {
    let hostile = Alert {
        destination: Some(external("<!channel> & <https://evil|click>\nrm")),
        port: 443,
        ..alert("cart")
    };
    let mut all =
        vec![hostile, Alert { kind: AlertKind::CoverageLost, destination: None, ..alert("till") }];
    assert_eq!(
        slack(&all),
        "shop/cart calls &lt;\\u{21}channel&gt; &amp; &lt;https://evil|click&gt;\\nrm:443, which \
         it was never seen to call before it was \
         accepted\nshop/till is not watched any more: what it calls now is not seen"
    );
    all.extend((0..18).map(|i| alert(&format!("w{i}"))));
    assert_eq!(slack(&all).lines().count(), 20);
    all.push(alert("last"));
    assert!(slack(&all).ends_with("\n… and 1 more"));

    let receiver = Receiver::always(200);
    let sinks = Sinks::new(&hook(&url(&receiver), WebhookForm::Slack), None).unwrap();
    all.extend((0..300).map(|i| alert(&format!("v{i}"))));
    sinks.deliver(&sinks.names()[0], &all).await.unwrap();
    let [request] = receiver.requests().try_into().unwrap();
    assert_eq!(request.body, WebhookForm::Slack.body(&all));
}

#[tokio::test]
async fn the_status_says_whether_to_try_again() {
    for code in [200, 201, 202, 204] {
        deliver(&hook(&url(&Receiver::always(code)), WebhookForm::Json)).await.unwrap();
    }
    for code in [408, 425, 429, 500, 502, 503, 504, 599] {
        let (why, after) =
            later(deliver(&hook(&url(&Receiver::always(code)), WebhookForm::Slack)).await);
        assert!(why.contains(&code.to_string()) && after.is_none(), "{why}");
    }
    for code in [301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422] {
        let receiver = Receiver::start(move |_| {
            Reply::Say(code, vec![("location", "/elsewhere".into())], String::new())
        });
        let why = never(deliver(&hook(&url(&receiver), WebhookForm::Json)).await);
        assert!(why.contains(&code.to_string()), "{why}");
        assert_eq!(receiver.requests().len(), 1, "redirects must not be followed");
    }
}

#[tokio::test]
async fn without_an_answer_the_alert_is_tried_again() {
    for reply in [|| Reply::Silent, || Reply::Break] {
        let receiver = Receiver::start(move |_| reply());
        let begun = Instant::now();
        let (why, _) = later(deliver(&impatient(&receiver)).await);
        assert!(begun.elapsed() < PATIENCE);
        assert!(!why.contains("XyZzY123") && !why.contains("Pl0ver99"), "{why}");
    }
    // Nobody listens.
    let gone = url(&Receiver::always(200));
    let (why, _) = later(deliver(&hook(&gone, WebhookForm::Json)).await);
    assert!(
        why.contains("refused") && !why.contains("XyZzY123") && !why.contains("Pl0ver99"),
        "{why}"
    );
    let (why, _) =
        later(deliver(&hook("https://no-such-host.invalid/XyZzY123", WebhookForm::Json)).await);
    assert!(!why.contains("XyZzY123"), "{why}");
}

#[tokio::test]
async fn a_body_that_does_not_end_changes_nothing() {
    for reply in [Reply::Endless, Reply::Stuck] {
        let begun = Instant::now();
        let receiver = |code| Receiver::start(move |_| reply(code));
        deliver(&impatient(&receiver(200))).await.unwrap();
        later(deliver(&impatient(&receiver(503))).await);
        let why = never(deliver(&impatient(&receiver(404))).await);
        assert!(why.len() < 400, "{} bytes", why.len());
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn the_receiver_can_say_when_to_try_again() {
    let date =
        |seconds: i64| format!("Tue, 02 Jun 2026 10:{:02}:{:02} GMT", seconds / 60, seconds % 60);
    let cases = [
        (vec![("retry-after", "7".into())], Some(7)),
        (vec![("retry-after", "0".into())], Some(0)),
        (vec![("retry-after", "86400".into())], Some(3600)),
        (vec![("retry-after", u64::MAX.to_string())], Some(3600)),
        (vec![("retry-after", date(90)), ("date", date(30))], Some(60)),
        (vec![("retry-after", date(30)), ("date", date(90))], Some(0)),
        (vec![("retry-after", "soon".into())], None),
    ];
    for (headers, seconds) in cases {
        let said = headers.clone();
        let receiver = Receiver::start(move |_| Reply::Say(429, said.clone(), String::new()));
        let (_, after) = later(deliver(&hook(&url(&receiver), WebhookForm::Json)).await);
        assert_eq!(after, seconds.map(Duration::from_secs), "{headers:?}");
    }
}

#[tokio::test]
async fn the_answer_is_in_the_error_unless_it_repeats_a_secret() {
    let said = async |text: &str| {
        let text = text.to_owned();
        let receiver = Receiver::start(move |_| Reply::Say(404, Vec::new(), text.clone()));
        let mut config = hook(&url(&receiver), WebhookForm::Slack);
        config.webhooks[0].headers.push(("x-token".to_owned(), "s3cr3t-t0ken".to_owned()));
        never(deliver(&config).await)
    };
    assert!(said("no_service").await.ends_with(": no_service"));
    assert!(said("x".repeat(5000).as_str()).await.len() < 400);
    for text in [
        "Cannot POST /hooks/XyZzY123",
        "cannot post /hooks/xyzzy123",
        "no such hook: %58yZzY123",
        "token Pl0ver99 is unknown",
        "bad s3cr3t-t0ken",
        "<html>XyZzY123</html>",
    ] {
        let why = said(text).await;
        assert!(why.ends_with("404 Not Found"), "{why}");
    }
}

fn any_alert() -> impl Strategy<Value = Alert> {
    (".*", ".*", ".*", ".{0,600}", any::<bool>(), any::<u16>()).prop_map(
        |(namespace, kind, name, host, some, port)| {
            let mut workload = workload(&name);
            (workload.namespace, workload.kind) = (namespace, kind);
            Alert { workload, destination: some.then(|| external(&host)), port, ..alert("") }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(128)
    })]

    #[test]
    fn bodies_are_valid_whatever_the_names(alerts in prop::collection::vec(any_alert(), 0..25)) {
        let body: Value = serde_json::from_slice(&WebhookForm::Json.body(&alerts)).unwrap();
        let sent = body["alerts"].as_array().unwrap();
        prop_assert_eq!(sent.len(), alerts.len());
        for (sent, alert) in sent.iter().zip(&alerts) {
            let shown = sent["text"].as_str().unwrap();
            prop_assert!(!shown.contains(['<', '>', '[', '`', '\n', '\u{1b}', '\u{202e}']), "{}",
                shown);
            prop_assert!(shown == alert.text() || shown.contains("\\"), "{}", shown);
            prop_assert_eq!(sent["id"].as_str().unwrap(), alert.id());
        }
        let text = slack(&alerts);
        prop_assert!(!text.contains(['<', '>', '\r']));
        let bare = text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "");
        prop_assert!(!bare.contains('&'));
        let lines = if text.is_empty() { 0 } else { text.split('\n').count() };
        prop_assert_eq!(lines, alerts.len().min(21));
        // Slack cuts beyond.
        prop_assert!(text.chars().count() < 40_000);
    }
}
