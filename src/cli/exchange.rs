//! `sidecarta export` and `sidecarta import`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{Outcome, StoreOptions};

/// Write the whole store as NDJSON
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidecarta export > backup.ndjson\n  sidecarta export --store staging | zstd > staging.ndjson.zst"
)]
pub(super) struct ExportOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// File to write; standard output without it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Merge an export into the store
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidecarta import backup.ndjson --store fresh\n  zstd -dc staging.ndjson.zst | sidecarta import -"
)]
pub(super) struct ImportOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// File to read, `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn export(options: &ExportOptions) -> anyhow::Result<Outcome> {
    let store = options.store.existing()?;
    let rows = match &options.file {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            let mut out = BufWriter::new(file);
            let rows = store.export(&mut out)?;
            out.flush().and_then(|()| out.get_ref().sync_all()).with_context(|| format!("cannot write {}", path.display()))?;
            rows
        }
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let rows = store.export(&mut out)?;
            out.flush()?;
            rows
        }
    };
    eprintln!("{rows} records exported");
    Ok(Outcome::Done)
}

pub(super) fn import(options: &ImportOptions) -> anyhow::Result<Outcome> {
    let mut store = options.store.create()?;
    let imported = if options.file.as_os_str() == "-" {
        store.import(std::io::stdin().lock())
    } else {
        let file = File::open(&options.file).with_context(|| format!("cannot read {}", options.file.display()))?;
        store.import(BufReader::new(file))
    };
    let imported = imported.with_context(|| format!("cannot import {}", options.file.display()))?;
    store.close()?;
    eprintln!("{imported}");
    Ok(Outcome::Done)
}
