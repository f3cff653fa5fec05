//! Snapshot files: what `kubectl get … -o yaml` or `-o json` prints, in one file, several, or a
//! directory.
//!
//! Owns reading the files, and feeds the indexes of `cluster` and of `mesh` with the same objects.
//! A broken object is named with file and line, and the rest is read; a file that cannot be read at
//! all is an error. Must never guess a value that an object lacks.

mod builders;
mod domain;
mod json_file;
mod object;
mod reader;
mod report;
mod text;
mod versions;
mod yaml_file;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use reader::FileReader;
use text::{ListEnd, decoded, is_table, pieces};

use crate::cluster::objects::{
    AnyObject, CheckNames, Controller, Envelope, ObjectError, read_checked,
};
use crate::cluster::{Builder, Cluster};
use crate::mesh::{self, Meshes, UnreadObject};
use crate::yaml::{self, depth::TooDeep};
use text::{End, Piece, decoded, guess_name, is_table, pieces};
use versions::{Item, Versions};

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A path cannot be read.
    #[error(
        "cannot read the snapshot {}: {error}; pass what `kubectl get pods,svc,endpointslices,… -A \
         -o yaml` printed",
        path.display()
    )]
    Read {
        /// The path.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// The file is for people, not for programs.
    #[error(
        "{} is a table, as `kubectl get` prints it for people: take the snapshot with `-o yaml` or \
         `-o json`",
        path.display()
    )]
    Table {
        /// The path.
        path: PathBuf,
    },
    /// No file has a Kubernetes object.
    #[error(
        "no Kubernetes object was found in {paths}; a snapshot is what `kubectl get \
         pods,services,endpointslices,… -A -o yaml` prints{}",
        first.as_deref().map(|f| format!("\n  first problem: {f}")).unwrap_or_default()
    )]
    Nothing {
        /// The paths given.
        paths: String,
        /// The first problem, if there was one.
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
    /// Files that end before what they hold does; each is among the problems.
    pub cut: Vec<PathBuf>,
    /// Namespaces of Services, where there are any and the one that every cluster has is not among
    /// them: the snapshot was taken of these alone.
    pub only_namespaces: BTreeSet<String>,
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
        if !self.only_namespaces.is_empty() {
            const SHOWN: usize = 5;
            let mut all: Vec<&str> =
                self.only_namespaces.iter().take(SHOWN).map(String::as_str).collect();
            if self.only_namespaces.len() > SHOWN {
                all.push("…");
            }
            out.push(format!(
                "the snapshot has Services of {} alone, and not `kubernetes` of `default`, which every cluster has: it seems to cover \
                 some namespaces only; what is called in others is not known, and hosts of them are missing; take it with `-A`",
                all.join(", ")
            ));
        }
        let lacks = |kind: &str| !self.used.contains_key(kind);
        if lacks("Service") && !self.used.is_empty() {
            out.push(
                "the snapshot holds no Service: no call can be known as one of a Service; add `kubectl get services -A -o yaml`"
                    .to_owned(),
            );
        }
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
    versions: Versions,
    /// Digests of the objects that were read: the same text twice is one object.
    seen: BTreeSet<u64>,
    /// As it was asked for; else as the objects say.
    domain: Option<String>,
    domains: domain::Domains,
    /// Objects that the mesh does not read, and that could matter.
    unread: Vec<UnreadObject>,
    /// Only addresses matter.
    addresses_only: bool,
}

impl Builders {
    /// For resolving addresses only.
    pub fn addresses(domain: Option<&str>) -> Self {
        Self { addresses_only: true, ..Self::both(domain) }
    }

    /// For resolving addresses and for scoping.
    pub fn both(domain: Option<&str>) -> Self {
        let domain = domain.map(|d| d.trim_matches('.').to_owned());
        Self { domain, ..Self::default() }
    }

    /// Both forms, with what was read so far.
    pub fn build(self, mut report: Report) -> Snapshot {
        let domain = self.domains.decide(self.domain, &mut report.problems);
        let (mut cluster, mut mesh) = (Builder::default(), mesh::MeshBuilder::default());
        if let Some(domain) = &domain {
            (cluster, mesh) = (cluster.domain(domain), mesh.domain(domain));
        }
        self.unread.into_iter().for_each(|object| mesh.add_unread(object));
        let into = (!self.addresses_only).then_some(&mut mesh);
        self.versions.feed(&mut cluster, into, &mut report.problems);
        let (cluster, problems) = cluster.build();
        report.problems.extend(problems);
        let (meshes, remarks) = mesh.build_all();
        report.remarks.extend(remarks);
        let of_all = cluster.services().iter().any(|s| s.name == "kubernetes");
        if !of_all {
            report.only_namespaces =
                cluster.services().iter().map(|s| s.namespace.clone()).collect();
        }
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
            let text = decoded(&bytes);
            if text.as_deref().is_ok_and(is_table) {
                return Err(SnapshotError::Table { path: file });
            }
            read_text(&file, text, &mut builders, &mut report);
        }
    }
    if report.used.is_empty() {
        let paths = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(SnapshotError::Nothing { paths, first: report.problems.into_iter().next() });
    }
    Ok(builders.build(report))
}

/// The files of a path: the path itself, or below a directory all that end in .yaml, .yml or .json,
/// sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let fail = |error| SnapshotError::Read { path: path.to_owned(), error };
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        // Symbolic links to directories are not followed: they may form a loop.
        if entry.file_type().map_err(fail)?.is_dir() {
            out.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// Reads the objects of one file. Never fails: what cannot be read is named in the report.
pub fn read(file: &Path, bytes: &[u8], builders: &mut Builders, report: &mut Report) {
    read_text(file, decoded(bytes), builders, report);
}

fn read_text(
    file: &Path,
    text: Result<Cow<'_, str>, String>,
    builders: &mut Builders,
    report: &mut Report,
) {
    builders.versions.next_file();
    let text = match text {
        Ok(text) => text,
        Err(problem) => {
            report.problems.push(format!("{}:{problem}; the file is skipped", file.display()));
            return;
        }
    };
    let mut reader = FileReader { file, builders, report };
    if text.trim_start().starts_with(['{', '[']) {
        reader.read_json(&text);
        return;
    }
    let mut end = ListEnd::Whole;
    for piece in pieces(&text) {
        end = end.max(piece.end);
        let is_last =
            piece.text.as_bytes().as_ptr_range().end == text.as_bytes().as_ptr_range().end;
        let is_read = reader.read_yaml(piece);
        // A List that ends within an item was cut there.
        if !is_read && piece.item && is_last {
            end = ListEnd::Cut;
        }
    }
    match end {
        ListEnd::Whole => {}
        ListEnd::Open => reader.report.remarks.push(format!(
            "{}: the List ends within its items, without what kubectl prints behind them: where \
             the file was cut short, objects are missing, and hosts with them",
            file.display()
        )),
        ListEnd::Cut => reader.cut_short(),
    }
}

/// Says once of a file that it ends too early.
fn cut_short(file: &Path, report: &mut Report) {
    report.problems.push(format!(
        "{}: the file ends within a List: it was cut short, and the objects behind are missing; take the snapshot again",
        file.display()
    ));
    report.cut.push(file.to_owned());
}

/// What a list says of items that do not say it themselves: `PodList` has pods.
#[derive(Clone, Copy, Default)]
struct Within<'a> {
    kind: &'a str,
    api_version: &'a str,
}

impl<'a> Within<'a> {
    /// Of a list; a plain `List` says nothing of its items.
    fn of(kind: &'a str, api_version: &'a str) -> Self {
        match kind.strip_suffix("List") {
            Some(kind) if !kind.is_empty() => Self { kind, api_version },
            _ => Self::default(),
        }
    }

    fn complete(self, envelope: &mut Envelope) {
        if envelope.kind.is_empty() && !self.kind.is_empty() {
            envelope.kind = self.kind.to_owned();
            envelope.api_version = self.api_version.to_owned();
        }
    }
}

/// Reads an object or a list; false where it is no YAML.
fn read_yaml(file: &Path, piece: Piece<'_>, builders: &mut Builders, report: &mut Report) -> bool {
    let parsed: Result<yaml::Value, _> = if piece.item {
        yaml::from_str::<Vec<yaml::Value>>(piece.text)
            .map(|v| v.into_iter().next().unwrap_or_default())
    } else {
        yaml::from_str(piece.text)
    };
    let value = match parsed {
        Ok(value) => value,
        Err(yaml::YamlError::Deep(deep)) => {
            let deep = deep.within(piece.line, 1);
            report.problems.push(too_deep(file, deep, piece.text));
            return true;
        }
        Err(e) => {
            let line = piece.line + e.line().map_or(0, |l| l.saturating_sub(1));
            let what = guess_name(piece.text);
            report.problems.push(format!(
                "{}:{line}: {what} cannot be read and is skipped: {e}",
                file.display()
            ));
            return false;
        }
    };
    let within = Within::of(piece.kind, piece.api_version);
    read_value(file, piece, value, within, builders, report);
    true
}

/// Takes an object, or the items of a list: in flow style, which the text could not be cut at, or
/// within another list. The text has been checked for its depth.
fn read_value(
    file: &Path,
    piece: Piece<'_>,
    mut value: yaml::Value,
    within: Within<'_>,
    builders: &mut Builders,
    report: &mut Report,
) {
    // `<<` merges are rare in snapshots and cheap to honour.
    let _ = value.apply_merge();
    let word = |key: &str| value.get(key).and_then(yaml::Value::as_str).unwrap_or("").to_owned();
    let (kind, api_version) = (word("kind"), word("apiVersion"));
    let items = match &mut value {
        yaml::Value::Sequence(items) => Some(std::mem::take(items)),
        other => other.get_mut("items").and_then(yaml::Value::as_sequence_mut).map(std::mem::take),
    };
    match items {
        Some(items) => {
            for item in items {
                let within = Within::of(&kind, &api_version);
                read_value(file, piece, item, within, builders, report);
            }
        }
        None => {
            accept(file, piece.line, piece.text, Source::Yaml(value), within, builders, report);
        }
    }
}

fn too_deep(file: &Path, deep: TooDeep, text: &str) -> String {
    format!("{}:{}: {} is skipped: {deep}", file.display(), deep.line, guess_name(text))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonList<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    api_version: Option<Cow<'a, str>>,
}

fn read_json(file: &Path, text: &str, builders: &mut Builders, report: &mut Report) {
    let mut places = Places { text, at: 0, line: 1, begins: 0 };
    let mut at = 0;
    loop {
        let rest = &text[at..];
        // As a list at once: most of a snapshot is one, and its text is long. What is none is read
        // again as it is.
        let mut lists = serde_json::Deserializer::from_str(rest).into_iter::<JsonList<'_>>();
        let is_object = rest.trim_start().starts_with('{');
        let (list, length) = match lists.next().filter(|_| is_object || rest.trim().is_empty()) {
            None if is_object || rest.trim().is_empty() => return,
            Some(Ok(list)) => (Some(list), lists.byte_offset()),
            _ => {
                let mut documents =
                    serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
                match documents.next() {
                    Some(Err(e)) => {
                        // Read from the beginning once more, the place that the error tells is one
                        // in the file.
                        let all = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
                        let e = all.filter_map(Result::err).next().unwrap_or(e);
                        let (name, line) = (file.display(), e.line());
                        report.problems.push(format!(
                            "{name}:{line}: not valid JSON, the rest of the file is skipped: {e}"
                        ));
                        if e.is_eof() {
                            cut_short(file, report);
                        }
                        return;
                    }
                    _ => (None, documents.byte_offset()),
                }
            }
        };
        let document = rest[..length].trim_start();
        at += length;
        match list {
            Some(JsonList { items: Some(items), kind, api_version }) => {
                let within =
                    Within::of(kind.as_deref().unwrap_or(""), api_version.as_deref().unwrap_or(""));
                for item in items {
                    read_object(file, &mut places, item.get(), within, builders, report);
                }
            }
            _ => {
                read_object(file, &mut places, document, Within::default(), builders, report);
            }
        }
    }
}

/// Takes an object of JSON, or the items of a list or an array.
fn read_object(
    file: &Path,
    places: &mut Places<'_>,
    text: &str,
    within: Within<'_>,
    builders: &mut Builders,
    report: &mut Report,
) {
    let (line, column) = places.of(text);
    if let Err(deep) = yaml::depth::check_json(text) {
        report.problems.push(too_deep(file, deep.within(line, column), text));
        return;
    }
    if text.starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text)
    {
        for item in items {
            read_object(file, places, item.get(), Within::default(), builders, report);
        }
        return;
    }
    accept(file, line, text, Source::Json(text), within, builders, report);
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
    fn object<T: DeserializeOwned + CheckNames>(&self) -> Result<T, ObjectError<String>> {
        match self {
            Self::Yaml(value) => read_checked(value).map_err(in_words),
            Self::Json(text) => {
                read_checked(&mut serde_json::Deserializer::from_str(text)).map_err(in_words)
            }
        }
    }

    /// The object, where the mesh is made of such.
    fn known(&self, envelope: &Envelope) -> Option<Result<AnyObject, ObjectError<String>>> {
        Some(match self {
            Self::Yaml(value) => AnyObject::read(envelope, value)?.map_err(in_words),
            Self::Json(text) => {
                AnyObject::read(envelope, &mut serde_json::Deserializer::from_str(text))?
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

fn in_words<E: ToString>(refused: ObjectError<E>) -> ObjectError<String> {
    match refused {
        ObjectError::Type(e) => ObjectError::Type(e.to_string()),
        ObjectError::Name(e) => ObjectError::Name(e),
    }
}

fn accept(
    file: &Path,
    line: usize,
    text: &str,
    source: Source<'_>,
    within: Within<'_>,
    builders: &mut Builders,
    report: &mut Report,
) {
    let mut envelope = match source.envelope() {
        Ok(envelope) => envelope,
        Err(e) => {
            report
                .problems
                .push(format!("{}:{line}: not a Kubernetes object, skipped: {e}", file.display()));
            return;
        }
    };
    within.complete(&mut envelope);
    let kind = envelope.kind.as_str();
    if kind.is_empty() {
        report
            .problems
            .push(format!("{}:{line}: an object without `kind` is skipped", file.display()));
        return;
    }
    // A list within a list. Other kinds may end in the same word, and have no items.
    if let Source::Json(text) = source
        && kind.ends_with("List")
        && let Ok(JsonList { items: Some(items), .. }) = serde_json::from_str(text)
    {
        let within = Within::of(kind, &envelope.api_version);
        let mut places = Places { text, at: 0, line, begins: 0 };
        for item in items {
            read_object(file, &mut places, item.get(), within, builders, report);
        }
        return;
    }
    let group = envelope.group();
    let digest = digest(text.trim());
    let taken = match kind {
        "Node" if group.is_empty() => source.object().map(Item::Node).map(Some),
        "ReplicaSet"
        | "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "CronJob"
        | "Rollout"
        | "DeploymentConfig"
        | "ReplicationController"
        | "CloneSet" => source.object().map(|o| Some(Item::Controller(kind.to_owned(), o))),
        // Part of a snapshot, and no part of scoping.
        "Gateway" | "PeerAuthentication" if group.ends_with("istio.io") => Ok(None),
        _ => match source.known(&envelope) {
            Some(known) => known.map(|o| Some(Item::Known(Box::new(o)))),
            None => {
                // Any object may own pods: what it selects by and whom it belongs to is read of all.
                if let Ok(owner) = source.object::<Controller>() {
                    let meta = &owner.metadata;
                    let unread = UnreadObject::of(kind, group, &meta.namespace, &meta.name);
                    let item = Item::Controller(kind.to_owned(), owner);
                    if builders.versions.add(kind, item, digest) {
                        builders.unread.extend(unread);
                    }
                }
                *report.skipped.entry(kind.to_owned()).or_default() += 1;
                return;
            }
        },
    };
    match taken {
        Ok(item) => {
            let is_new_text = builders.seen.insert(digest);
            let is_new = match item {
                Some(item) => {
                    builders.domains.hear(&item);
                    builders.versions.add(kind, item, digest)
                }
                None => is_new_text,
            };
            *report.used.entry(kind.to_owned()).or_default() += u64::from(is_new);
            // Order and file boundaries must not show, so the digests of the objects are added.
            if is_new_text && !is_read_later(kind, group) {
                report.digest = report.digest.wrapping_add(digest);
            }
        }
        Err(refused) => {
            let what = guess_name(text);
            let why = match refused {
                ObjectError::Type(e) => format!("has a wrong type and is skipped: {e}"),
                ObjectError::Name(e) => {
                    report.invalid += 1;
                    format!("is skipped: {e}")
                }
            };
            report.problems.push(format!("{}:{line}: {what} {why}", file.display()));
        }
    }
}

/// Kinds that the first release passed over. Stored batches are named by a digest without them: a
/// capture that a store holds is not to count again for them.
fn is_read_later(kind: &str, group: &str) -> bool {
    let controllers = ["DeploymentConfig", "ReplicationController", "CloneSet"];
    let istio = ["EnvoyFilter", "WasmPlugin", "WorkloadEntry"];
    controllers.contains(&kind) || istio.contains(&kind) || group == "gateway.networking.k8s.io"
}

/// The digest of one object: see [`Report::digest`].
fn digest(text: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.write(&[0xff]);
    hasher.finish()
}

#[cfg(test)]
mod forms;
