//! `sidecarta generate`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{ClusterOptions, Outcome, StoreOptions, ViewOptions, output};
use crate::generate::{Known, generate, subjects};
use crate::model::WorkloadId;
use crate::snapshot;
use crate::store::Store;

const EXAMPLE: &str = "\
Example:
  sidecarta generate --cluster cluster.yaml                      # a stream on standard output
  sidecarta generate --cluster cluster.yaml --output sidecars    # one file per workload, for a pull request";

/// Write one Sidecar per workload
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(flatten)]
    view: ViewOptions,
    /// Write one file per workload, NAMESPACE/NAME.yaml, below this directory instead of a stream
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// All that the store knows, by workload.
pub(super) fn known(store: &Store, namespace: Option<&str>) -> anyhow::Result<BTreeMap<WorkloadId, Known>> {
    let mut all: BTreeMap<WorkloadId, Known> = BTreeMap::new();
    for d in store.dependencies(namespace)? {
        all.entry(d.key.workload.clone()).or_default().dependencies.push(d);
    }
    for w in store.watches(namespace)? {
        all.entry(w.workload.clone()).or_default().watches.push(w);
    }
    for l in store.lookups(namespace)? {
        all.entry(l.workload.clone()).or_default().lookups.push(l);
    }
    Ok(all)
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let (cluster, report) = snapshot::load(&options.cluster.cluster, Some(&options.cluster.cluster_domain))?;
    let partial = super::report_snapshot(&report);
    let store = options.store.existing()?;
    let namespace = options.view.namespace.as_deref();
    let known = known(&store, namespace)?;
    let stored = store.workloads(namespace)?;
    let subjects: Vec<_> =
        subjects(&cluster, &stored).into_iter().filter(|s| namespace.is_none_or(|n| s.id.namespace == n)).collect();
    let outcomes = generate(&cluster, &subjects, &known);
    let mut written = 0;
    for outcome in &outcomes {
        let Some(manifest) = &outcome.manifest else {
            let why = outcome.withheld.as_deref().unwrap_or("no reason was given");
            eprintln!("withheld: {}: {why}", outcome.workload);
            continue;
        };
        let text = manifest.to_yaml(&outcome.notes)?;
        match &options.output {
            Some(dir) => write(dir, manifest.namespace(), manifest.name(), &text)?,
            None => output::print(&format!("---\n{text}"))?,
        }
        written += 1;
    }
    match &options.output {
        Some(dir) => eprintln!("{written} Sidecars written below {}", dir.display()),
        None => eprintln!("{written} Sidecars written"),
    }
    Ok(if partial { Outcome::Partial } else { Outcome::Done })
}

/// Writes one file whole or not at all.
fn write(dir: &Path, namespace: &str, name: &str, text: &str) -> anyhow::Result<()> {
    // Names come from the API server, which allows no slash; a hand-written snapshot may hold anything.
    let safe = |s: &str| !s.is_empty() && !s.contains(['/', '\\', '\0']) && s != "." && s != "..";
    anyhow::ensure!(safe(namespace) && safe(name), "cannot make a file name of the workload {namespace:?}/{name:?}");
    let dir = dir.join(namespace);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let path = dir.join(format!("{name}.yaml"));
    let new = dir.join(format!(".{name}.yaml.new"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}; nothing of it was changed", path.display()))
}
