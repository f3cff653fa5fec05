//! Alertmanager: its own word, and that of the real one.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::{Method, Uri};
use serde_json::{Value, json};
use sidecarta::alert::{SinkConfig, Sinks};
use sidecarta::http::Http;
use sidecarta::model::{Alert, AlertKind, Destination, ServicePort, Time};

use crate::common::rights::{not_run, rooted};
use crate::receiver::Reply;
use crate::{PATIENCE, Receiver, alert, deliver, external, later, never, new_workload, time};

fn config(url: &str) -> SinkConfig {
    SinkConfig {
        alertmanagers: vec![url.parse().unwrap()],
        timeout: PATIENCE,
        ..SinkConfig::default()
    }
}

#[tokio::test]
async fn labels_are_the_alert_and_there_is_no_end() {
    let receiver = Receiver::always(200);
    let mut config = config(&format!("http://{}/am/", receiver.address));
    config.alertmanager_headers.push(("Authorization".to_owned(), "Basic abc".to_owned()));
    let sinks = Sinks::new(&config, None).unwrap();
    let lost = Alert { kind: AlertKind::CoverageLost, destination: None, port: 0, ..alert("till") };
    let new = new_workload("late");
    sinks.deliver(&sinks.names()[0], &[alert("cart"), lost, new]).await.unwrap();
    let [request] = receiver.requests().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/am/api/v2/alerts"));
    assert_eq!(request.headers["authorization"], "Basic abc");
    let sent = request.json();
    assert_eq!(
        sent[0]["labels"],
        json!({
            "alertname": "SidecartaNewDependency", "severity": "warning", "namespace": "shop",
            "workload_kind": "Deployment",
            "workload": "cart", "destination": "bank/ledger", "port": "8080",
        })
    );
    assert_eq!(sent[0]["annotations"]["summary"], alert("cart").text());
    assert!(sent[0]["annotations"]["description"].as_str().unwrap().starts_with("7 connections"));
    assert_eq!(sent[0]["startsAt"], time(60).to_string());
    assert!(sent[0].get("endsAt").is_none() && sent[0].get("generatorURL").is_none());
    assert_eq!(sent[1]["labels"]["alertname"], "SidecartaCoverageLost");
    assert!(
        sent[1]["labels"].get("destination").is_none() && sent[1]["labels"].get("port").is_none()
    );
    assert_eq!(sent[2]["labels"]["alertname"], "SidecartaNewWorkload");
    assert_eq!(
        sent[2]["annotations"]["summary"],
        "shop/late is a new workload, which nobody accepted, and has 3 dependencies"
    );
}

#[tokio::test]
async fn long_labels_are_cut_and_stay_distinct() {
    let receiver = Receiver::always(200);
    let sinks = Sinks::new(&config(&format!("http://{}", receiver.address)), None).unwrap();
    let of = |last: u16| {
        let port = |port| ServicePort {
            namespace: "b".into(),
            name: "x".repeat(60),
            host: String::new(),
            port,
        };
        let candidates = (1000..1050).chain([last]).map(port).collect();
        Alert {
            kind: AlertKind::Ambiguous,
            destination: Some(Destination::Ambiguous { candidates }),
            ..alert("cart")
        }
    };
    sinks.deliver(&sinks.names()[0], &[of(2000), of(2001)]).await.unwrap();
    let sent = receiver.requests()[0].json();
    let [a, b] = [0, 1].map(|i| sent[i]["labels"]["destination"].as_str().unwrap().to_owned());
    assert!(a.len() <= 256 && b.len() <= 256 && a != b, "{a} {b}");
    assert!(sent[0]["annotations"]["summary"].as_str().unwrap().len() <= 1024);
}

#[tokio::test]
async fn the_status_says_whether_to_try_again() {
    for code in [429, 500, 503] {
        let receiver = Receiver::start(move |_| {
            Reply::Say(code, vec![("retry-after", "3".to_owned())], String::new())
        });
        let (_, after) = later(deliver(&config(&format!("http://{}", receiver.address))).await);
        assert_eq!(after, Some(Duration::from_secs(3)));
    }
    let receiver =
        Receiver::start(|_| Reply::json(400, &json!("start time must be before end time")));
    let why = never(deliver(&config(&format!("http://{}", receiver.address))).await);
    assert!(why.ends_with("start time must be before end time"), "{why}");
    later(deliver(&config(&format!("http://{}", Receiver::always(200).address))).await);
}

/// What Debian calls it.
const PROGRAM: &str = "prometheus-alertmanager";
/// Below `share`: Debian's reads it from /usr/share, whatever its configuration says.
const TEMPLATE: &str = "prometheus/alertmanager/default.tmpl";

/// How the real one is called, installed or as `setup` unpacks it. `None` where the calling test
/// does not go on.
fn installed_or_unpacked() -> Option<Command> {
    const WHAT: &str = "a real Alertmanager";
    let path = format!("{}:/usr/bin", std::env::var("PATH").unwrap_or_default());
    let found = std::env::split_paths(&path).map(|d| d.join(PROGRAM)).find(|p| p.is_file());
    let Some(program) = found else {
        not_run(WHAT, "prometheus-alertmanager is not installed: run `./setup test`");
        return None;
    };
    let share = program.ancestors().nth(2).unwrap().join("share");
    if Path::new("/usr/share").join(TEMPLATE).exists() || !share.join(TEMPLATE).exists() {
        return Some(Command::new(program));
    }
    // It alone sees the unpacked files in /usr/share. Mounting them there takes root, be it of a
    // user namespace.
    if !rooted(WHAT) {
        return None;
    }
    let alone = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c"]);
        unshare.arg(format!("mount --bind \"$0\" /usr/share && {command}")).arg(&share);
        unshare
    };
    let refused = match alone("true").output() {
        Ok(out) if out.status.success() => {
            let mut command = alone("exec \"$@\"");
            command.arg(program);
            return Some(command);
        }
        Ok(out) => String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        Err(error) => format!("unshare (util-linux): {error}"),
    };
    not_run(WHAT, &format!("its files cannot be mounted at /usr/share ({refused})"));
    None
}

/// The real one, ended when it goes out of scope.
struct Alertmanager {
    child: Child,
    url: String,
    directory: tempfile::TempDir,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Alertmanager {
    /// `None` where the calling test does not go on.
    async fn start(http: &Http) -> Option<Self> {
        let mut command = installed_or_unpacked()?;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("alertmanager.yml");
        fs::write(&file, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut running = Self { child, url: format!("http://{address}"), directory };
        let begun = Instant::now();
        while running.get(http, "/-/ready").await.is_none() {
            let log = || fs::read_to_string(running.directory.path().join("log")).unwrap();
            assert!(running.child.try_wait().unwrap().is_none(), "it ended: {}", log());
            assert!(begun.elapsed() < Duration::from_secs(60), "it is not ready: {}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(running)
    }

    async fn get(&self, http: &Http, path: &str) -> Option<Vec<u8>> {
        let to: Uri = format!("{}{path}", self.url).parse().unwrap();
        let answer =
            http.send(Method::GET, &to, &[], Vec::new(), Duration::from_secs(10)).await.ok()?;
        answer.status.is_success().then(|| answer.body.to_vec())
    }

    async fn alerts(&self, http: &Http) -> Vec<Value> {
        serde_json::from_slice(&self.get(http, "/api/v2/alerts").await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_real_alertmanager_shows_the_alert() {
    let http = Http::new(None).unwrap();
    let Some(real) = Alertmanager::start(&http).await else { return };
    let sinks = Sinks::new(&config(&real.url), None).unwrap();
    let name = sinks.names().remove(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let raised = Time(i64::try_from(now.as_nanos()).unwrap() - 3_600_000_000_000);
    let first = Alert { raised, ..alert("cart") };
    let odd = Alert {
        raised,
        destination: Some(external("*.example.com \"ü\" <&> \n{}")),
        ..alert("cart")
    };
    sinks.deliver(&name, &[first.clone(), odd.clone()]).await.unwrap();
    // Delivered again with other numbers: the same two alerts.
    let more = Alert { connections: 8, ..first.clone() };
    sinks.deliver(&name, &[more, odd.clone()]).await.unwrap();
    let alerts = real.alerts(&http).await;
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    let shown = alerts.iter().find(|a| a["labels"]["destination"] == "bank/ledger").unwrap();
    assert_eq!(
        shown["labels"],
        json!({
            "alertname": "SidecartaNewDependency", "severity": "warning", "namespace": "shop",
            "workload_kind": "Deployment",
            "workload": "cart", "destination": "bank/ledger", "port": "8080",
        })
    );
    assert_eq!(shown["status"]["state"], "active");
    assert_eq!(shown["annotations"]["summary"], first.text());
    assert!(shown["annotations"]["description"].as_str().unwrap().starts_with("8 connections"));
    // Milliseconds are what it keeps.
    assert_eq!(shown["startsAt"].as_str().unwrap()[..19], raised.to_string()[..19]);
    let ends: Time = shown["endsAt"].as_str().unwrap().parse().unwrap();
    let left = Duration::from_nanos(ends.since(Time(i64::try_from(now.as_nanos()).unwrap())));
    let again = sinks.repeat_after(&name).unwrap();
    assert!(
        left > again * 2,
        "it would resolve after {left:?}, and is delivered again only after {again:?}"
    );
    // Escaped, with a digest of what it stands for.
    let shown = sidecarta::text::line(&odd.destination.as_ref().unwrap().to_string()).into_owned();
    let label = |a: &Value| a["labels"]["destination"].as_str().unwrap_or_default().to_owned();
    assert!(
        alerts.iter().any(|a| label(a).starts_with(&format!("{shown} "))),
        "{:?}",
        alerts.iter().map(label).collect::<Vec<_>>()
    );
}
