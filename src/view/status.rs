//! The state of a view's watches, for people and programs.
//!
//! Owns these words. Must never decide what to do about a state.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The kind that nothing works without.
pub(super) const PODS: &str = "Pod";

/// The state of a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewStatus {
    /// The indexes contain every kind that is served and allowed, and pods in any case. Once true,
    /// it stays true.
    pub synced: bool,
    /// Each watched kind; empty for the view of a snapshot.
    pub kinds: BTreeMap<String, KindStatus>,
    /// For how long the kind that fails longest has failed; the indexes may be that much behind. A
    /// connection that breaks silently is detected within five minutes.
    pub behind: Option<Duration>,
    /// Versions of objects that could not be read, since the start.
    pub broken: u64,
}

/// The state of the watch of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindStatus {
    /// The first list is not complete.
    Listing,
    /// It was listed and is watched.
    Synced {
        /// Number of known objects.
        objects: usize,
    },
    /// The API server does not serve this kind. Asked again every minute.
    Absent,
    /// The API server does not allow to list or to watch it, in its words. Asked again every
    /// minute.
    Forbidden(String),
    /// Listing and watching fail at the moment. The known objects stay in use.
    Failing {
        /// The last error.
        why: String,
        /// For how long there was no success.
        behind: Duration,
        /// Number of known objects.
        objects: usize,
    },
}

impl ViewStatus {
    /// Why the API server delivers no pods, if only a change of the cluster can mend it.
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
