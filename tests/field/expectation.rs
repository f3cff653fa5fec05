//! The expectations in `expect.json`. `FORMAT.md` says what its fields mean.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// One run of a case.
pub struct Run {
    pub cluster: Vec<String>,
    pub captures: Vec<String>,
    pub calls: Option<String>,
    pub flags: Vec<String>,
    pub replay_exit: Vec<i32>,
    pub replay_must_say: Vec<String>,
    pub replay_must_not_say: Vec<String>,
    pub replay_only: bool,
    pub together: bool,
    /// Of each list, one dependency must be there.
    pub dependencies: Vec<Vec<WantedDependency>>,
    pub dependencies_not: Vec<WantedDependency>,
    pub no_scope_miss: Option<bool>,
    pub scope_miss_of: Vec<Vec<String>>,
    pub scope_miss_not_of: Vec<String>,
    pub scope: Vec<ScopeQuestion>,
    /// Alternative expectations, by workload: one of them must be met.
    pub workloads: BTreeMap<String, Vec<Expectation>>,
}

/// A question to `sidecarta scope`.
pub struct ScopeQuestion {
    pub pod: String,
    pub calls: Vec<String>,
    pub must_say: Vec<String>,
    pub must_not_say: Vec<String>,
    pub exit: Vec<i32>,
}

/// What `generate` must write for one workload.
pub struct Expectation {
    pub pod: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Alternative sets of hosts; `None` among them means that nothing is written.
    pub hosts: Option<Vec<Option<BTreeSet<String>>>>,
    pub name: Vec<String>,
    pub name_not: Vec<String>,
    pub selector: Option<BTreeMap<String, String>>,
    pub selector_must: BTreeMap<String, String>,
    pub selector_must_not: Vec<String>,
    pub selects: Vec<BTreeMap<String, String>>,
    pub selects_not: Vec<BTreeMap<String, String>>,
    /// The `outboundTrafficPolicy` that is expected; null for none.
    pub policy: Option<Value>,
    pub must_say: Vec<String>,
    pub must_not_say: Vec<String>,
    pub exit: Vec<i32>,
}

/// Fields that a dependency must have.
#[derive(Debug)]
pub struct WantedDependency(Map<String, Value>);

/// The elements of a list, or a single value as a list.
fn listed(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    }
}

fn texts(value: &Value) -> Vec<String> {
    listed(value).iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    if value.is_null() {
        return BTreeMap::new();
    }
    serde_json::from_value(value.clone()).unwrap()
}

fn codes(value: &Value, default: &[i32]) -> Vec<i32> {
    match value {
        Value::Null => default.to_vec(),
        _ => serde_json::from_value(value.clone()).unwrap(),
    }
}

impl Run {
    /// The run and its alternatives, whose fields replace its own.
    pub fn alternatives(run: &Value) -> Vec<Self> {
        let merged = |other: &Value| {
            let mut run = run.as_object().unwrap().clone();
            run.extend(other.as_object().unwrap().clone());
            Self::of(&Value::Object(run))
        };
        std::iter::once(Self::of(run)).chain(listed(&run["or"]).iter().map(merged)).collect()
    }

    fn of(run: &Value) -> Self {
        let wanted = |v: &Value| WantedDependency(v.as_object().unwrap().clone());
        let any = |v: &Value| listed(v).iter().map(wanted).collect();
        let workloads = run["workloads"].as_object().cloned().unwrap_or_default();
        Self {
            cluster: texts(&run["cluster"]),
            captures: texts(&run["captures"]),
            calls: run["calls"].as_str().map(str::to_owned),
            flags: texts(&run["flags"]),
            replay_exit: codes(&run["replayExit"], &[0]),
            replay_must_say: texts(&run["replayMustSay"]),
            replay_must_not_say: texts(&run["replayMustNotSay"]),
            replay_only: run["replayOnly"] == true,
            together: run["together"] == true,
            dependencies: listed(&run["dependencies"]).iter().map(any).collect(),
            dependencies_not: listed(&run["dependenciesNot"]).iter().map(wanted).collect(),
            no_scope_miss: run["noScopeMiss"].as_bool(),
            scope_miss_of: listed(&run["scopeMissOf"]).iter().map(texts).collect(),
            scope_miss_not_of: texts(&run["scopeMissNotOf"]),
            scope: listed(&run["scope"]).iter().map(ScopeQuestion::of).collect(),
            workloads: workloads
                .iter()
                .map(|(key, value)| (key.clone(), Expectation::alternatives(value)))
                .collect(),
        }
    }

    pub fn asks_for_dependencies(&self) -> bool {
        !self.dependencies.is_empty()
            || !self.dependencies_not.is_empty()
            || self.no_scope_miss.is_some()
            || !self.scope_miss_of.is_empty()
            || !self.scope_miss_not_of.is_empty()
    }
}

impl ScopeQuestion {
    fn of(value: &Value) -> Self {
        Self {
            pod: value["pod"].as_str().unwrap().to_owned(),
            calls: texts(&value["call"]),
            must_say: texts(&value["mustSay"]),
            must_not_say: texts(&value["mustNotSay"]),
            exit: codes(&value["exit"], &[0, 3]),
        }
    }
}

impl Expectation {
    /// The expectation and its alternatives. Each is complete except for `pod` and `labels`.
    fn alternatives(value: &Value) -> Vec<Self> {
        let whole = |other: &Value| {
            let mut other = other.clone();
            for key in ["pod", "labels"] {
                if other.get(key).is_none() && value.get(key).is_some() {
                    other[key] = value[key].clone();
                }
            }
            Self::of(&other)
        };
        std::iter::once(Self::of(value)).chain(listed(&value["or"]).iter().map(whole)).collect()
    }

    fn of(value: &Value) -> Self {
        let set =
            |v: &Value| v.as_array().map(|_| texts(v).into_iter().filter(|h| h != "~/*").collect());
        let all_labels = |v: &Value| listed(v).iter().map(labels).collect();
        Self {
            pod: value["pod"].as_str().map(str::to_owned),
            labels: labels(&value["labels"]),
            hosts: value.get("hosts").map(|hosts| {
                let others = value["orHosts"].as_array().into_iter().flatten();
                std::iter::once(hosts).chain(others).map(set).collect()
            }),
            name: texts(&value["name"]),
            name_not: texts(&value["nameNot"]),
            selector: value.get("selector").map(labels),
            selector_must: labels(&value["selectorMust"]),
            selector_must_not: texts(&value["selectorMustNot"]),
            selects: all_labels(&value["selects"]),
            selects_not: all_labels(&value["selectsNot"]),
            policy: value.get("outboundTrafficPolicy").cloned(),
            must_say: texts(&value["mustSay"]),
            must_not_say: texts(&value["mustNotSay"]),
            exit: codes(&value["exit"], &[0, 3, 5]),
        }
    }
}

impl WantedDependency {
    /// Whether a dependency has these fields. Of an ambiguous one, any candidate may have them.
    pub fn matches(&self, dependency: &Value) -> bool {
        let (d, w) = (&dependency["destination"], &dependency["workload"]);
        let wants = |key: &str| self.0.get(key);
        let workload =
            format!("{}/{}", w["namespace"].as_str().unwrap(), w["name"].as_str().unwrap());
        let missed = !dependency["scopeMiss"].is_null();
        if wants("workload").is_some_and(|v| *v != workload)
            || wants("type").is_some_and(|v| !listed(v).contains(&d["type"]))
            || wants("scopeMiss").is_some_and(|v| *v != missed)
        {
            return false;
        }
        let candidates = d["candidates"].as_array().into_iter().flatten();
        std::iter::once(d).chain(candidates).any(|at| {
            ["namespace", "name", "host"].iter().all(|k| wants(k).is_none_or(|v| *v == at[*k]))
                && wants("port").is_none_or(|v| [&at["port"], &dependency["port"]].contains(&v))
        })
    }
}
