//! Takes the objects of one file in, and reports what cannot be read.
//!
//! Owns which kinds are read, and the sentences about broken objects. Must never let a broken
//! object stop the rest of its file.

use std::hash::Hasher;
use std::path::Path;

use siphasher::sip::SipHasher13;

use super::builders::Builders;
use super::object::{ItemDefaults, ObjectText};
use super::report::Report;
use super::text::guess_name;
use super::versions::ParsedObject;
use crate::cluster::objects::{Controller, Envelope, ObjectError};
use crate::mesh::UnreadObject;
use crate::yaml::depth::TooDeep;

/// Reads one file into the builders and the report.
pub(super) struct FileReader<'a> {
    pub file: &'a Path,
    pub builders: &'a mut Builders,
    pub report: &'a mut Report,
}

impl FileReader<'_> {
    /// Reports a problem at a line, counted from 1.
    pub fn problem(&mut self, line: usize, what: impl std::fmt::Display) {
        self.report.problems.push(format!("{}:{line}: {what}", self.file.display()));
    }

    /// Reports that the file ends too early.
    pub fn cut_short(&mut self) {
        self.report.problems.push(format!(
            "{}: the file ends within a List: it was cut short, and the objects behind are \
             missing; take the snapshot again",
            self.file.display()
        ));
        self.report.cut.push(self.file.to_owned());
    }

    /// Reports an object that is nested too deeply.
    pub fn too_deep(&mut self, deep: TooDeep, text: &str) {
        let line = deep.line;
        self.problem(line, format_args!("{} is skipped: {deep}", guess_name(text)));
    }

    /// Kind and version of an object; `None` if it has none, which is reported.
    pub fn envelope(
        &mut self,
        line: usize,
        object: &ObjectText<'_>,
        defaults: ItemDefaults<'_>,
    ) -> Option<Envelope> {
        let mut envelope = match object.envelope() {
            Ok(envelope) => envelope,
            Err(e) => {
                self.problem(line, format_args!("not a Kubernetes object, skipped: {e}"));
                return None;
            }
        };
        defaults.complete(&mut envelope);
        if envelope.kind.is_empty() {
            self.problem(line, "an object without `kind` is skipped");
            return None;
        }
        Some(envelope)
    }

    /// Takes one object in. `text` is what it was read from, `line` where that begins.
    pub fn take(&mut self, line: usize, text: &str, object: &ObjectText<'_>, envelope: &Envelope) {
        let kind = envelope.kind.as_str();
        let group = envelope.group();
        let digest = digest(text.trim());
        let parsed = match kind {
            "Node" if group.is_empty() => object.object().map(ParsedObject::Node).map(Some),
            "ReplicaSet"
            | "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "Job"
            | "CronJob"
            | "Rollout"
            | "DeploymentConfig"
            | "ReplicationController"
            | "CloneSet" => {
                object.object().map(|o| Some(ParsedObject::Controller(kind.to_owned(), o)))
            }
            // They are part of a snapshot, and mean nothing for scoping.
            "Gateway" | "PeerAuthentication" if group.ends_with("istio.io") => Ok(None),
            _ => match object.known(envelope) {
                Some(known) => known.map(|o| Some(ParsedObject::Known(Box::new(o)))),
                None => return self.take_unknown_kind(object, envelope, digest),
            },
        };
        match parsed {
            Ok(parsed) => self.count(kind, group, parsed, digest),
            Err(refused) => self.refuse(line, text, refused),
        }
    }

    /// Takes an object of a kind that is not read. Any object may own pods, so its selector and its
    /// owner are read all the same.
    fn take_unknown_kind(&mut self, object: &ObjectText<'_>, envelope: &Envelope, digest: u64) {
        let kind = envelope.kind.as_str();
        if let Ok(owner) = object.object::<Controller>() {
            let meta = &owner.metadata;
            let unread = UnreadObject::of(kind, envelope.group(), &meta.namespace, &meta.name);
            let parsed = ParsedObject::Controller(kind.to_owned(), owner);
            if self.builders.versions.add(kind, parsed, digest) {
                self.builders.unread.extend(unread);
            }
        }
        *self.report.skipped.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds an object that was read, and counts it once.
    fn count(&mut self, kind: &str, group: &str, parsed: Option<ParsedObject>, digest: u64) {
        let is_new_text = self.builders.seen.insert(digest);
        let is_new = match parsed {
            Some(parsed) => {
                self.builders.domains.add(&parsed);
                self.builders.versions.add(kind, parsed, digest)
            }
            None => is_new_text,
        };
        *self.report.used.entry(kind.to_owned()).or_default() += u64::from(is_new);
        // The digest must not depend on the order of the objects or on the files that they are in,
        // so it is a sum.
        if is_new_text && !is_read_later(kind, group) {
            self.report.digest = self.report.digest.wrapping_add(digest);
        }
    }

    /// Reports an object with a field of the wrong type, or with an invalid name.
    fn refuse(&mut self, line: usize, text: &str, refused: ObjectError<String>) {
        let what = guess_name(text);
        match refused {
            ObjectError::Type(e) => {
                self.problem(line, format_args!("{what} has a wrong type and is skipped: {e}"));
            }
            ObjectError::Name(e) => {
                self.report.invalid += 1;
                self.problem(line, format_args!("{what} is skipped: {e}"));
            }
        }
    }
}

/// Whether the first release did not read this kind. The digest that names stored batches is
/// without such objects: with them, a capture that a store has would count again after an upgrade.
fn is_read_later(kind: &str, group: &str) -> bool {
    let controllers = ["DeploymentConfig", "ReplicationController", "CloneSet"];
    let istio = ["EnvoyFilter", "WasmPlugin", "WorkloadEntry", "RequestAuthentication"];
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
mod tests {
    /// Stored batches are named by it: another value would count every capture twice after an
    /// upgrade. The first release computed this value.
    #[test]
    fn the_digest_of_an_object_is_the_one_that_stores_have() {
        assert_eq!(super::digest("kind: Namespace"), 0x8e4b_067c_6741_f3e9);
    }
}
