//! What was read of a snapshot, and what was not.
//!
//! Owns the report and its sentences about missing kinds. Must never read a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What was read, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of objects used, by kind.
    pub used: BTreeMap<String, u64>,
    /// Number of objects of kinds that Sidecarta does not need, by kind.
    pub skipped: BTreeMap<String, u64>,
    /// Broken objects and contradictions, as sentences; with file and line where there is one.
    pub problems: Vec<String>,
    /// Number of objects that were left out for an invalid name. Each is among the problems.
    pub invalid: u64,
    /// Files that were cut short. Each is among the problems.
    pub cut: Vec<PathBuf>,
    /// Namespaces of the Services, if `default/kubernetes`, which every cluster has, is not among
    /// them: the snapshot was taken of these namespaces alone.
    pub only_namespaces: BTreeSet<String>,
    /// Sentences about objects that were read whole, of which istiod refuses or leaves out
    /// something.
    pub remarks: Vec<String>,
    /// Digest of the objects' text, in whatever files they are: distinguishes snapshots.
    /// The sum, modulo 2^64, of the digest of each object's text without white space around it:
    /// SipHash-1-3 with a zero key over its UTF-8 bytes and one byte 0xff. It is part of the
    /// identity of stored batches, and must never change.
    pub digest: u64,
}

/// Kinds that change what a call needs. A mesh that uses none of them is rare.
const ISTIO_KINDS: [&str; 4] = ["VirtualService", "DestinationRule", "ServiceEntry", "Sidecar"];

impl Report {
    /// What a proof depends on and the snapshot does not have, as sentences. A cluster without such
    /// objects looks the same as a snapshot that was taken without them, so people must judge it.
    pub fn not_given(&self) -> Vec<String> {
        let mut out = Vec::new();
        out.extend(self.missing_namespaces());
        let lacks = |kind: &str| !self.used.contains_key(kind);
        if lacks("Service") && !self.used.is_empty() {
            out.push(
                "the snapshot has no Service: no call can be known as one of a Service; add \
                 `kubectl get services -A -o yaml`"
                    .to_owned(),
            );
        }
        if ISTIO_KINDS.iter().all(|kind| lacks(kind)) {
            out.push(
                "the snapshot has no VirtualService, DestinationRule, ServiceEntry or Sidecar: \
                 where the cluster has any, hosts that they ask for are missing; add `kubectl get \
                 virtualservices,destinationrules,serviceentries,sidecars,telemetries,\
                 authorizationpolicies,envoyfilters,wasmplugins,requestauthentications -A -o \
                 yaml`, and \
                 httproutes,grpcroutes where the cluster has the Gateway API"
                    .to_owned(),
            );
        }
        if lacks("ConfigMap") {
            out.push(
                "the snapshot has no MeshConfig, so Istio's defaults are taken (root namespace \
                 istio-system, outbound traffic ALLOW_ANY); add `kubectl get configmap istio -n \
                 istio-system -o yaml`"
                    .to_owned(),
            );
        }
        out
    }

    /// Says that the snapshot was taken of some namespaces alone, if it was.
    fn missing_namespaces(&self) -> Option<String> {
        /// Namespaces that are named.
        const SHOWN: usize = 5;
        if self.only_namespaces.is_empty() {
            return None;
        }
        let mut shown: Vec<&str> =
            self.only_namespaces.iter().take(SHOWN).map(String::as_str).collect();
        if self.only_namespaces.len() > SHOWN {
            shown.push("…");
        }
        Some(format!(
            "the snapshot has Services of {} alone, and not `kubernetes` of `default`, which every \
             cluster has: it seems to cover some namespaces only; what is called in others is not \
             known, and hosts of them are missing; take it with `-A`",
            shown.join(", ")
        ))
    }
}
