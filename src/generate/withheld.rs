//! Why no Sidecar is written: the codes, and the reasons that do not depend on calls.
//!
//! Owns the words for programs and people. Must never weigh how much is known: `readiness` does.

use serde::Serialize;

use super::group::Group;
use super::learned::Gap;
use crate::model::valid;

/// Why no Sidecar is written, as programs distinguish the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its pods have no proxy that a Sidecar could configure.
    NoProxy,
    /// Nothing is known of it.
    NotWatched,
    /// More watching would help.
    Unready,
    /// It has a gap: a call that the Sidecar is not sure to keep.
    Incomplete,
    /// No labels select its pods for good.
    NoSelector,
    /// A Sidecar that Sidecarta did not write already applies to its pods.
    NotAdopted,
    /// Its pods belong to several revisions of istiod.
    SeveralRevisions,
    /// istiod does not look at its namespace.
    Undiscovered,
    /// Another Sidecar would win, or Kubernetes would refuse it.
    Conflict,
}

impl Cause {
    /// As JSON spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoProxy => "no-proxy",
            Self::NotWatched => "not-watched",
            Self::Unready => "unready",
            Self::Incomplete => "incomplete",
            Self::NoSelector => "no-selector",
            Self::NotAdopted => "not-adopted",
            Self::SeveralRevisions => "several-revisions",
            Self::Undiscovered => "undiscovered",
            Self::Conflict => "conflict",
        }
    }
}

/// Why no Sidecar is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// The reason, for programs.
    pub code: Cause,
    /// The reason as a sentence, for people.
    pub reason: String,
    /// More watching would help.
    pub unready: bool,
    /// Something is known of the workload that would have been written.
    pub known: bool,
}

impl Withheld {
    pub(super) fn new(code: Cause, reason: impl Into<String>) -> Self {
        let known = !matches!(code, Cause::NoProxy | Cause::NotWatched | Cause::Undiscovered);
        Self { code, reason: reason.into(), unready: code == Cause::Unready, known }
    }
}

/// Withheld for gaps.
pub(super) fn incomplete(gaps: &[Gap]) -> Withheld {
    /// Gaps that are named; `explain` shows the others.
    const NAMED: usize = 5;
    let mut all: Vec<String> = gaps.iter().take(NAMED).map(ToString::to_string).collect();
    if gaps.len() > NAMED {
        all.push(format!("and {} more", gaps.len() - NAMED));
    }
    let reason = format!(
        "a call is known that the Sidecar would not keep for sure (--include-incomplete writes it \
         all the same): {}",
        all.join("; ")
    );
    Withheld::new(Cause::Incomplete, reason)
}

/// Why nothing is written for a group, whatever its calls are.
pub(super) fn refused(g: &Group) -> Option<Withheld> {
    let why = |code, reason: &Option<String>| reason.as_ref().map(|r| Withheld::new(code, r));
    why(Cause::Undiscovered, &g.undiscovered)
        .or_else(|| why(Cause::SeveralRevisions, &g.several_revisions))
        .or_else(|| why(Cause::NotAdopted, &g.not_adopted))
        .or_else(|| why(Cause::Conflict, &g.refused))
        .or_else(|| nameless(g).map(|r| Withheld::new(Cause::Conflict, r)))
}

/// Why a group's Sidecar cannot have its name, namespace or labels. The label of an application
/// need not be a valid name, and a store of an older release may contain names that were never
/// checked.
fn nameless(g: &Group) -> Option<String> {
    let namespace = if g.namespace.is_empty() { Ok(()) } else { valid::namespace(&g.namespace) };
    let checked = namespace.and_then(|()| valid::object_name(&g.name));
    let checked = checked.and_then(|()| g.selector.as_ref().map_or(Ok(()), valid::labels));
    checked.err().map(|e| format!("its Sidecar would have a name that Kubernetes refuses: {e}"))
}
