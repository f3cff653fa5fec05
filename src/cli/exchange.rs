//! `sidecarta export` and `sidecarta import`.
//!
//! An import is an export of a store, or the batches of an agent: its first line shows which.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use hyper::Method;

use super::remote::RecordSource;
use super::{CommandOutcome, ReadOptions, StoreOptions, output};
use crate::clock;
use crate::learn::{self, Union};
use crate::model::counter;
use crate::observed::{BatchReadError, Observed, Reader};
use crate::records::StoreDefect;
use crate::snapshot;
use crate::store::{Applied, Store};
use crate::verify::{self, CheckRules, CheckedBatch, check};

/// Write the whole store, or a recorder's while it runs, as NDJSON
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidecarta export > backup.ndjson\n  sidecarta export --recorder \
                  https://recorder:15098 backup.ndjson\n  sidecarta export --store staging | zstd \
                  > staging.ndjson.zst"
)]
pub(super) struct ExportOptions {
    #[command(flatten)]
    read: ReadOptions,
    /// File to write; standard output without it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Learn from an agent's batches, or merge an export into the store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sidecarta import --cluster cluster.yaml observed.ndjson
  sidecarta import backup.ndjson --store fresh
  zstd -dc staging.ndjson.zst | sidecarta import -")]
pub(super) struct ImportOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// For an agent's batches: what `kubectl get … -A -o yaml` printed of the cluster, files or
    /// directories
    #[arg(long, value_name = "PATH", num_args = 1..)]
    cluster: Vec<PathBuf>,
    /// DNS domain of the cluster [default: as the proxies of its pods have it, else cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// For an agent's batches: leave out lines about pods that the snapshot does not contain.
    /// Without it these lines are believed: whoever imports a file vouches for it
    #[arg(long)]
    known_pods_only: bool,
    /// File to read, `-` for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs `sidecarta export`.
pub(super) fn export(options: &ExportOptions) -> anyhow::Result<CommandOutcome> {
    // The source is opened before the file is made, so that a failure leaves no empty file.
    let source = match options.read.source()? {
        RecordSource::Store(dir) => ExportSource::Store(Box::new(super::open_to_read(&dir)?)),
        RecordSource::Recorder(recorder) => {
            let answer = recorder.ask(Method::GET, "/v1/export", Vec::new())?;
            ExportSource::Packed(answer.body.to_vec())
        }
    };
    match &options.file {
        Some(path) => {
            let fail = || format!("cannot write {}", path.display());
            let mut out = BufWriter::new(File::create(path).with_context(fail)?);
            source.write(&mut out)?;
            out.flush().and_then(|()| out.get_ref().sync_all()).with_context(fail)?;
        }
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            source.write(&mut out)?;
            out.flush()?;
        }
    }
    Ok(match &source {
        ExportSource::Store(store) => super::read_outcome(StoreDefect::of(store).as_ref()),
        ExportSource::Packed(_) => CommandOutcome::Done,
    })
}

/// What is exported.
enum ExportSource {
    Store(Box<Store>),
    /// The answer of a recorder: an export, compressed with zstd.
    Packed(Vec<u8>),
}

impl ExportSource {
    fn write(&self, out: &mut impl Write) -> anyhow::Result<()> {
        match self {
            Self::Store(store) => {
                let rows = store.export(out)?;
                output::say(format_args!("{rows} records exported"));
            }
            Self::Packed(bytes) => {
                zstd::stream::copy_decode(bytes.as_slice(), &mut *out)
                    .context("the recorder's answer cannot be read, or not be written")?;
                output::say("all records of the recorder exported");
            }
        }
        Ok(())
    }
}

/// Runs `sidecarta import`.
pub(super) fn import(options: &ImportOptions) -> anyhow::Result<CommandOutcome> {
    // In `--cluster PATH... FILE` the parser takes FILE as the last path.
    let mut cluster = options.cluster.clone();
    let file =
        options.file.clone().or_else(|| if cluster.len() > 1 { cluster.pop() } else { None });
    let file =
        file.context("no file is named: `sidecarta import FILE`, with `-` for standard input")?;
    let mut input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(BufReader::new(
            File::open(&file).with_context(|| format!("cannot read {}", file.display()))?,
        )),
    };
    let of_agent = input
        .fill_buf()
        .with_context(|| format!("cannot read {}", file.display()))?
        .starts_with(b"{\"observed\"");
    if of_agent {
        anyhow::ensure!(
            !cluster.is_empty(),
            "{} contains an agent's batches, which do not say who had the called addresses: pass \
             --cluster with what `kubectl get pods,services,endpointslices,… -A -o yaml` printed \
             at that time",
            file.display()
        );
        return import_batches(options, &cluster, &file, input);
    }
    let mut store = options.store.create()?;
    let imported =
        store.import(input).with_context(|| format!("cannot import {}", file.display()))?;
    store.close()?;
    output::say(&imported);
    if let Some(missing) = &imported.salvaged {
        output::warn(format_args!("the export was made of a damaged store: {missing}"));
        return Ok(CommandOutcome::Partial);
    }
    Ok(CommandOutcome::Done)
}

/// Sums over the batches that were merged.
#[derive(Default)]
struct ImportedBatches {
    new: u64,
    already_merged: u64,
    edges: u64,
    /// Lines that `verify` counted, by counter.
    counted: BTreeMap<&'static str, u64>,
}

/// Learns from an agent's batches. A batch that cannot be read is reported and skipped; refused
/// lines of the others are reported by number.
fn import_batches(
    options: &ImportOptions,
    cluster: &[PathBuf],
    file: &Path,
    input: Box<dyn BufRead>,
) -> anyhow::Result<CommandOutcome> {
    let (cluster, report) = snapshot::load(cluster, options.cluster_domain.as_deref())?;
    let mut partial = super::report_snapshot(&report);
    // Made with the first batch that can be read: if there is none, no store is left behind.
    let mut store = None;
    let now = clock::now();
    let mut imported = ImportedBatches::default();
    for batch in Reader::new(input) {
        match batch {
            Ok(batch) => {
                let edges = batch.edges.len() as u64;
                let rules = CheckRules::of_file(&batch, now);
                let CheckedBatch { mut batch, unverified: unknown } =
                    check(batch, &cluster, &rules);
                let unverified = batch.counters.get(counter::UNVERIFIED).copied();
                if let Some(n) = unverified.filter(|_| options.known_pods_only) {
                    batch.counters.insert(counter::DROPPED.to_owned(), n);
                }
                let mut learned = Union::default();
                learned.add(learn::batch(&cluster, &batch));
                if let Some(unknown) = unknown.filter(|_| !options.known_pods_only) {
                    learned.add(learn::batch(&cluster, &unknown));
                }
                let Some(learned) = learned.batch() else { continue };
                let store = match &mut store {
                    Some(store) => store,
                    none => none.insert(options.store.create()?),
                };
                match store.apply(&learned)? {
                    Applied::New => imported.add(&batch, edges),
                    Applied::AlreadyMerged => imported.already_merged += 1,
                }
            }
            Err(e @ BatchReadError::Io { .. }) => {
                return Err(e).with_context(|| format!("cannot read {}", file.display()));
            }
            Err(e) => {
                output::warn(format_args!("{}: {e}", file.display()));
                partial = true;
            }
        }
    }
    if let Some(store) = store {
        store.close()?;
    }
    partial |= imported.report(file, options.known_pods_only);
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

impl ImportedBatches {
    /// Adds a batch that was merged, with the edges that it had before it was checked.
    fn add(&mut self, batch: &Observed, edges: u64) {
        self.new += 1;
        self.edges += edges;
        for name in verify::CHECK_COUNTERS {
            *self.counted.entry(name).or_default() +=
                batch.counters.get(name).copied().unwrap_or(0);
        }
    }

    /// Prints the sums. Returns whether lines were refused or left out.
    fn report(&self, file: &Path, known_pods_only: bool) -> bool {
        let mut partial = false;
        for (name, what, refused) in [
            (
                counter::LINES_ELSEWHERE,
                "are about pods that the snapshot has on other nodes: refused",
                true,
            ),
            (counter::IMPOSSIBLE, "contradict themselves: refused", true),
            (counter::DROPPED, "are about pods that the snapshot does not contain: left out", true),
            (counter::CORRECTED, "have times or counts that cannot be true: corrected", false),
        ] {
            let n = self.counted.get(name).copied().unwrap_or(0);
            if n > 0 {
                output::warn(format_args!("{}: {n} lines {what} ({name})", file.display()));
                partial |= refused;
            }
        }
        let unverified = self.counted.get(counter::UNVERIFIED).copied().unwrap_or(0);
        if unverified > 0 && !known_pods_only {
            output::note(format_args!(
                "{unverified} lines are about pods that the snapshot does not contain: what the \
                 batches say of these pods is believed (--known-pods-only leaves them out)"
            ));
        }
        output::say(format_args!(
            "{} batches with {} edges learned; {} were already merged",
            self.new, self.edges, self.already_merged
        ));
        partial
    }
}
