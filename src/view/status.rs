//! How far a view has come, in words for people and programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The kind that nothing works without.
pub(super) const PODS: &str = "Pod";

/// How far the view has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The indexes hold every kind that is served and allowed, and pods in any case. Stays true
    /// from then on.
    pub synced: bool,
    /// Each watched kind; none where a snapshot is all there is.
    pub kinds: BTreeMap<String, KindStatus>,
    /// For how long the kind that fails longest has failed; the indexes may be that much behind. A
    /// connection that breaks without a word is noticed within five minutes.
    pub behind: Option<Duration>,
    /// Versions of objects that could not be read, since the start.
    pub broken: u64,
}

/// How a watch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindStatus {
    /// Its first list is not complete.
    Listing,
    /// It is watched.
    Synced {
        /// Objects known.
        objects: usize,
    },
    /// The API server does not serve this kind. Asked again every minute.
    Absent,
    /// The API server does not allow to list or to watch it, in its words. Asked again every
    /// minute.
    Forbidden(String),
    /// Neither list nor watch can be had at the moment. What was known stays in use.
    Failing {
        /// Why.
        why: String,
        /// For how long there was no success.
        behind: Duration,
        /// Objects known.
        objects: usize,
    },
}

impl Status {
    /// Why pods are not told of, where they never will be until somebody changes the cluster.
    pub fn blind(&self) -> Option<&KindStatus> {
        self.kinds
            .get(PODS)
            .filter(|status| matches!(status, KindStatus::Absent | KindStatus::Forbidden(_)))
    }
}

impl fmt::Display for KindStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listing => f.write_str("being listed"),
            Self::Synced { objects } => write!(f, "{objects} objects"),
            Self::Absent => f.write_str("not served by the API server"),
            Self::Forbidden(why) => write!(f, "forbidden: {why}"),
            Self::Failing { why, .. } => write!(f, "cannot be watched: {why}"),
        }
    }
}
