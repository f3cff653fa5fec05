//! Snapshot files: what `kubectl get … -o yaml` or `-o json` prints, in one file, several, or a
//! directory.
//!
//! Owns reading and naming what could not be read, and feeds the indexes of `cluster` and of `mesh`
//! with the same objects. A broken object is named with file and line, and the rest goes on; a file
//! that cannot be read at all is an error. Must never guess a value that an object lacks.

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use siphasher::sip::SipHasher13;

use crate::cluster::objects::{Check, Controller, Envelope, Known, Refused, read_checked};
use crate::cluster::{Builder, Cluster};
use crate::mesh::{self, Meshes, Unread};
use crate::yaml::{self, depth::TooDeep};
use text::{Piece, guess_name, pieces};

/// Why no snapshot could be had.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A path cannot be read.
    #[error("cannot read the snapshot {}: {error}; pass what `kubectl get pods,svc,endpointslices,… -A -o yaml` printed", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// Nothing in it is a Kubernetes object.
    #[error(
        "no Kubernetes object was found in {paths}; a snapshot is what `kubectl get pods,services,endpointslices,… -A -o yaml` prints{}",
        first.as_deref().map(|f| format!("\n  first problem: {f}")).unwrap_or_default()
    )]
    Nothing {
        /// The paths given.
        paths: String,
        /// What was wrong first, where something was.
        first: Option<String>,
    },
}

/// What was read, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects used, by kind.
    pub used: BTreeMap<String, u64>,
    /// Objects of kinds that Sidecarta does not need, by kind.
    pub skipped: BTreeMap<String, u64>,
    /// Broken objects and contradictions, each with file and line where there is one.
    pub problems: Vec<String>,
    /// Objects that were left out for a name that is none, whatever their kind; each is among the
    /// problems.
    pub invalid: u64,
    /// Objects that were read whole, and of which istiod refuses or leaves out something.
    pub remarks: Vec<String>,
    /// Digest of the objects' text, whatever files they stood in: tells one snapshot from another.
    /// The sum, modulo 2^64, of the digest of each object's text without white space around it:
    /// SipHash-1-3 with a zero key over its UTF-8 bytes and one byte 0xff. It is part of the
    /// identity of stored batches, and must never change.
    pub digest: u64,
}

impl Report {
    /// What a proof rests on and the snapshot does not hold, in words. A cluster without such
    /// objects looks the same as a snapshot that was taken without them, so this is for people to
    /// judge.
    pub fn not_given(&self) -> Vec<String> {
        /// Kinds that change what a call needs. A mesh that uses none of them is rare.
        const ISTIO: [&str; 4] = ["VirtualService", "DestinationRule", "ServiceEntry", "Sidecar"];
        let mut out = Vec::new();
        if !ISTIO.iter().any(|kind| self.used.contains_key(*kind)) {
            out.push(
                "the snapshot holds no VirtualService, DestinationRule, ServiceEntry or Sidecar: where the cluster has any, hosts that \
                 they ask for are missing; add `kubectl get virtualservices,destinationrules,serviceentries,sidecars,telemetries,\
                 authorizationpolicies,envoyfilters,wasmplugins -A -o yaml`, and httproutes,grpcroutes where the cluster has the \
                 Gateway API"
                    .to_owned(),
            );
        }
        if !self.used.contains_key("ConfigMap") {
            out.push(
                "the snapshot holds no MeshConfig, so Istio's defaults are taken (root namespace istio-system, outbound traffic \
                 ALLOW_ANY); add `kubectl get configmap istio -n istio-system -o yaml`"
                    .to_owned(),
            );
        }
        out
    }
}

/// A snapshot in both its forms.
#[derive(Debug)]
pub struct Snapshot {
    /// Who held which address, and what answers behind it.
    pub cluster: Cluster,
    /// What istiod would make of it, for each of its revisions.
    pub meshes: Meshes,
    /// What was read, and what not.
    pub report: Report,
}

/// Collects objects for both forms.
#[derive(Debug, Default)]
pub struct Builders {
    cluster: Builder,
    /// Absent where only addresses matter.
    mesh: Option<mesh::Builder>,
}

impl Builders {
    /// For resolving addresses only.
    pub fn addresses(domain: Option<&str>) -> Self {
        Self {
            cluster: domain.map_or_else(Builder::default, |d| Builder::default().domain(d)),
            mesh: None,
        }
    }

    /// For resolving addresses and for scoping.
    pub fn both(domain: Option<&str>) -> Self {
        let mesh =
            domain.map_or_else(mesh::Builder::default, |d| mesh::Builder::default().domain(d));
        Self { mesh: Some(mesh), ..Self::addresses(domain) }
    }

    /// Both forms, with what was read so far.
    pub fn build(self, mut report: Report) -> Snapshot {
        let (cluster, problems) = self.cluster.build();
        report.problems.extend(problems);
        let (meshes, remarks) = self.mesh.unwrap_or_default().build_all();
        report.remarks.extend(remarks);
        Snapshot { cluster, meshes, report }
    }
}

/// Reads a snapshot for resolving addresses.
///
/// # Errors
/// When a path cannot be read, or no object at all is found.
pub fn load(paths: &[PathBuf], domain: Option<&str>) -> Result<(Cluster, Report), SnapshotError> {
    let snapshot = read_all(paths, Builders::addresses(domain))?;
    Ok((snapshot.cluster, snapshot.report))
}

/// Reads a snapshot for resolving addresses and for scoping.
///
/// # Errors
/// When a path cannot be read, or no object at all is found.
pub fn load_mesh(paths: &[PathBuf], domain: Option<&str>) -> Result<Snapshot, SnapshotError> {
    read_all(paths, Builders::both(domain))
}

fn read_all(paths: &[PathBuf], mut builders: Builders) -> Result<Snapshot, SnapshotError> {
    let mut report = Report::default();
    for path in paths {
        for file in files(path)? {
            let bytes = fs::read(&file)
                .map_err(|error| SnapshotError::Read { path: file.clone(), error })?;
            read(&file, &bytes, &mut builders, &mut report);
        }
    }
    if report.used.is_empty() {
        let paths = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(SnapshotError::Nothing { paths, first: report.problems.into_iter().next() });
    }
    Ok(builders.build(report))
}

/// The files of a path: itself, or below a directory all that end in .yaml, .yml or .json, sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let fail = |error| SnapshotError::Read { path: path.to_owned(), error };
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        // Symbolic links to directories are not followed: they may lead in circles.
        if entry.file_type().map_err(fail)?.is_dir() {
            out.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// Reads one file's objects. Never fails: what cannot be read is named in the report.
pub fn read(file: &Path, bytes: &[u8], builders: &mut Builders, report: &mut Report) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            report
                .problems
                .push(format!("{}:{line}: not UTF-8 text; the file is skipped", file.display()));
            return;
        }
    };
    if text.trim_start().starts_with('{') {
        read_json(file, text, builders, report);
    } else {
        for piece in pieces(text) {
            read_yaml(file, piece, builders, report);
        }
    }
}

fn read_yaml(file: &Path, piece: Piece<'_>, builders: &mut Builders, report: &mut Report) {
    let parsed: Result<yaml::Value, _> = if piece.item {
        yaml::from_str::<Vec<yaml::Value>>(piece.text)
            .map(|v| v.into_iter().next().unwrap_or_default())
    } else {
        yaml::from_str(piece.text)
    };
    let mut value = match parsed {
        Ok(value) => value,
        Err(yaml::Error::Deep(deep)) => {
            let deep = deep.within(piece.line, 1);
            report.problems.push(too_deep(file, deep, piece.text));
            return;
        }
        Err(e) => {
            let line = piece.line + e.line().map_or(0, |l| l.saturating_sub(1));
            let what = guess_name(piece.text);
            report.problems.push(format!(
                "{}:{line}: {what} cannot be read and is skipped: {e}",
                file.display()
            ));
            return;
        }
    };
    // `<<` merges are rare in snapshots and cheap to honour.
    let _ = value.apply_merge();
    // A list in flow style, which the text could not be cut at.
    if let Some(items) =
        value.get_mut("items").and_then(yaml::Value::as_sequence_mut).map(std::mem::take)
    {
        for item in items {
            accept(file, piece.line, piece.text, Source::Yaml(item), builders, report);
        }
    } else {
        accept(file, piece.line, piece.text, Source::Yaml(value), builders, report);
    }
}

fn too_deep(file: &Path, deep: TooDeep, text: &str) -> String {
    format!("{}:{}: {} is skipped: {deep}", file.display(), deep.line, guess_name(text))
}

#[derive(serde::Deserialize)]
struct JsonList<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

fn read_json(file: &Path, text: &str, builders: &mut Builders, report: &mut Report) {
    let mut places = Places { text, at: 0, line: 1, begins: 0 };
    let mut at = 0;
    loop {
        let rest = &text[at..];
        // As a list at once: most of a snapshot is one, and its text is long. What is none is read
        // again as it is.
        let mut lists = serde_json::Deserializer::from_str(rest).into_iter::<JsonList<'_>>();
        let (items, length) = match lists.next() {
            None => return,
            Some(Ok(list)) => (list.items, lists.byte_offset()),
            Some(Err(_)) => {
                let mut documents =
                    serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
                match documents.next() {
                    Some(Err(e)) => {
                        // Read from the beginning once more, the place that the error tells is one
                        // in the file.
                        let all = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
                        let e = all.filter_map(Result::err).next().unwrap_or(e);
                        let (file, line) = (file.display(), e.line());
                        report.problems.push(format!(
                            "{file}:{line}: not valid JSON, the rest of the file is skipped: {e}"
                        ));
                        return;
                    }
                    _ => (None, documents.byte_offset()),
                }
            }
        };
        let document = rest[..length].trim_start();
        at += length;
        match items {
            Some(items) => {
                for item in items {
                    let (item, place) = (item.get(), places.of(item.get()));
                    read_object(file, place, item, builders, report);
                }
            }
            None => read_object(file, places.of(document), document, builders, report),
        }
    }
}

/// Takes an object of JSON that begins at this line and column.
fn read_object(
    file: &Path,
    (line, column): (usize, usize),
    text: &str,
    builders: &mut Builders,
    report: &mut Report,
) {
    match yaml::depth::check_json(text) {
        Ok(()) => accept(file, line, text, Source::Json(text), builders, report),
        Err(deep) => report.problems.push(too_deep(file, deep.within(line, column), text)),
    }
}

/// Lines and columns of parts of a text, asked for in their order: one pass keeps a file of many
/// objects linear.
struct Places<'a> {
    text: &'a str,
    /// How far lines are counted.
    at: usize,
    line: usize,
    /// Where that line begins.
    begins: usize,
}

impl Places<'_> {
    fn of(&mut self, part: &str) -> (usize, usize) {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let offset = offset.clamp(self.at, self.text.len());
        for (i, _) in
            self.text.as_bytes()[self.at..offset].iter().enumerate().filter(|(_, b)| **b == b'\n')
        {
            self.line += 1;
            self.begins = self.at + i + 1;
        }
        self.at = offset;
        (self.line, 1 + offset - self.begins)
    }
}

enum Source<'a> {
    Yaml(yaml::Value),
    Json(&'a str),
}

impl Source<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Yaml(value) => T::deserialize(value).map_err(|e| e.to_string()),
            Self::Json(text) => serde_json::from_str(text).map_err(|e| e.to_string()),
        }
    }

    /// The object, where its fields have the right types and its names are names.
    fn object<T: DeserializeOwned + Check>(&self) -> Result<T, Refused<String>> {
        match self {
            Self::Yaml(value) => read_checked(value).map_err(in_words),
            Self::Json(text) => {
                read_checked(&mut serde_json::Deserializer::from_str(text)).map_err(in_words)
            }
        }
    }

    /// The object, where the mesh is made of such.
    fn known(&self, envelope: &Envelope) -> Option<Result<Known, Refused<String>>> {
        Some(match self {
            Self::Yaml(value) => Known::read(envelope, value)?.map_err(in_words),
            Self::Json(text) => {
                Known::read(envelope, &mut serde_json::Deserializer::from_str(text))?
                    .map_err(in_words)
            }
        })
    }

    /// What it is. Both words stand first in what `kubectl` prints, so the text is not read further
    /// than them.
    fn envelope(&self) -> Result<Envelope, String> {
        if let Self::Json(text) = self {
            let mut found = Envelope::default();
            // Stopping early is an error to the parser, and none here.
            let _ = Envelope::find(&mut serde_json::Deserializer::from_str(text), &mut found);
            if found.complete() {
                return Ok(found);
            }
        }
        self.parse()
    }
}

fn in_words<E: ToString>(refused: Refused<E>) -> Refused<String> {
    match refused {
        Refused::Type(e) => Refused::Type(e.to_string()),
        Refused::Name(e) => Refused::Name(e),
    }
}

fn accept(
    file: &Path,
    line: usize,
    text: &str,
    source: Source<'_>,
    builders: &mut Builders,
    report: &mut Report,
) {
    let envelope = match source.envelope() {
        Ok(envelope) => envelope,
        Err(e) => {
            report
                .problems
                .push(format!("{}:{line}: not a Kubernetes object, skipped: {e}", file.display()));
            return;
        }
    };
    let kind = envelope.kind.as_str();
    if kind.is_empty() {
        report
            .problems
            .push(format!("{}:{line}: an object without `kind` is skipped", file.display()));
        return;
    }
    let group = envelope.group();
    let cluster = &mut builders.cluster;
    let taken = match kind {
        "Node" if group.is_empty() => source.object().map(|o| cluster.node(o)),
        "ReplicaSet"
        | "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "CronJob"
        | "Rollout"
        | "DeploymentConfig"
        | "ReplicationController"
        | "CloneSet" => source.object().map(|o| cluster.controller(kind, o)),
        // Part of a snapshot, and no part of scoping.
        "Gateway" | "PeerAuthentication" if group.ends_with("istio.io") => Ok(()),
        _ => match source.known(&envelope) {
            Some(known) => known.map(|o| feed(o, builders)),
            None => {
                // Any object may own pods: what it selects by and whom it belongs to is read of all.
                if let Ok(owner) = source.object::<Controller>() {
                    let meta = &owner.metadata;
                    let unread = Unread::of(kind, group, &meta.namespace, &meta.name);
                    if let (Some(mesh), Some(unread)) = (&mut builders.mesh, unread) {
                        mesh.unread(unread);
                    }
                    cluster.controller(kind, owner);
                }
                *report.skipped.entry(kind.to_owned()).or_default() += 1;
                return;
            }
        },
    };
    match taken {
        Ok(()) => {
            *report.used.entry(kind.to_owned()).or_default() += 1;
            // Order and file boundaries must not show, so the digests of the objects are added.
            if !read_later(kind, group) {
                report.digest = report.digest.wrapping_add(digest(text.trim()));
            }
        }
        Err(refused) => {
            let what = guess_name(text);
            let why = match refused {
                Refused::Type(e) => format!("has a wrong type and is skipped: {e}"),
                Refused::Name(e) => {
                    report.invalid += 1;
                    format!("is skipped: {e}")
                }
            };
            report.problems.push(format!("{}:{line}: {what} {why}", file.display()));
        }
    }
}

/// Kinds that the first release passed over: none decides who has an address, and a capture that a
/// store holds is not to count again for them.
fn read_later(kind: &str, group: &str) -> bool {
    let controllers = ["DeploymentConfig", "ReplicationController", "CloneSet"];
    let proxies = ["EnvoyFilter", "WasmPlugin"];
    controllers.contains(&kind) || proxies.contains(&kind) || group == "gateway.networking.k8s.io"
}

/// The digest of one object: see [`Report::digest`].
fn digest(text: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.write(&[0xff]);
    hasher.finish()
}

/// Hands an object to the mesh, where that is built, and to the indexes of addresses.
fn feed(object: Known, builders: &mut Builders) {
    let Builders { cluster, mesh } = builders;
    if let Some(mesh) = mesh {
        mesh.add(object.clone());
    }
    match object {
        Known::Pod(o) => cluster.pod(&o),
        Known::Service(o) => cluster.service(o),
        Known::EndpointSlice(o) => cluster.slice(o),
        Known::ServiceEntry(o) => cluster.entry(o),
        Known::ConfigMap(o) => cluster.config_map(o),
        Known::Namespace(o) => cluster.namespace(o),
        Known::VirtualService(o) => cluster.virtual_hosts(o.mesh_hosts()),
        // What these say decides nothing about addresses.
        Known::DestinationRule(_)
        | Known::Sidecar(_)
        | Known::Telemetry(_)
        | Known::AuthorizationPolicy(_)
        | Known::EnvoyFilter(_)
        | Known::WasmPlugin(_)
        | Known::HttpRoute(_)
        | Known::GrpcRoute(_)
        | Known::TcpRoute(_)
        | Known::TlsRoute(_) => {}
    }
}

#[cfg(test)]
mod tests {
    /// Stored batches are named by it: another value would count every capture twice after an
    /// upgrade. This one is what the program of the first release gave.
    #[test]
    fn the_digest_of_an_object_is_the_one_that_stores_hold() {
        assert_eq!(super::digest("kind: Namespace"), 0x8e4b_067c_6741_f3e9);
    }
}
