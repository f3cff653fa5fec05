//! Checks whether an agent can have made a batch.
//!
//! Owns which texts of a batch are names, and of what. A sender may write any text into a batch.
//! Must never check numbers: their reader does that.

use super::Observed;
use crate::Pod;
use crate::valid::{self, InvalidName};

/// Checks every text of a batch: names of objects by the rules of Kubernetes, names on the wire by
/// what the capture layer can write.
///
/// # Errors
/// The first text that breaks a rule, and where it is.
pub(super) fn validate(batch: &Observed) -> Result<(), String> {
    words(batch).map_err(|e| e.to_string())?;
    for pod in &batch.pods {
        of_pod(pod).map_err(|e| e.of(format_args!("a pod of the batch ({:?})", pod.name)))?;
    }
    for edge in &batch.edges {
        let mut names = edge.call.names().map(String::as_str);
        names
            .try_for_each(valid::wire_name)
            .map_err(|e| e.of(format_args!("a connection to {}", edge.call.responder)))?;
    }
    let folded = batch.watching.iter().flat_map(|w| w.folded.domains.keys());
    folded
        .map(String::as_str)
        .try_for_each(valid::wire_name)
        .map_err(|e| e.of("a folded domain"))?;
    batch
        .asked
        .iter()
        .try_for_each(|a| valid::wire_name(&a.question).map_err(|e| e.of("a question of the DNS")))
}

fn words(batch: &Observed) -> Result<(), InvalidName> {
    valid::word("the node", &batch.node)?;
    // The part of the next batch that is in an agent's spool has no identity yet.
    if !batch.id.source.is_empty() {
        valid::word("the source", &batch.id.source)?;
    }
    batch.counters.keys().try_for_each(|name| valid::word("the counter", name))
}

fn of_pod(pod: &Pod) -> Result<(), InvalidName> {
    valid::workload(&pod.workload)?;
    valid::object_name(&pod.name)?;
    if !pod.uid.is_empty() {
        valid::word("the UID", &pod.uid)?;
    }
    if !pod.node.is_empty() {
        valid::word("the node", &pod.node)?;
    }
    valid::labels(&pod.labels)?;
    valid::labels(&pod.selector)
}
