//! The values of the project: workloads, destinations, evidence, dependencies, coverage, and how
//! two records of the same thing merge.
//!
//! Owns plain values, their merge laws and their serde, and what a name may be ([`valid`]). Must
//! never do I/O, read a clock, or import another package of the project.

#![warn(unreachable_pub)]

mod alert;
mod baseline;
mod batch;
mod counted;
pub mod counter;
mod coverage;
mod dependency;
mod destination;
mod evidence;
pub mod export;
mod folded;
mod labels;
pub mod observed;
mod pod;
pub mod sums;
mod tally;
mod time;
mod unverified;
pub mod valid;
mod workload;

pub use alert::{Alert, AlertKind, Delivery, RaisedAlert};
pub use baseline::{Acceptance, AcceptedDependency, Baseline};
pub use batch::{Batch, BatchId, Record, RecordKey, Source};
pub use counted::{CountedBefore, Ledger, LedgerEntry};
pub use coverage::{Lookups, OwnedBy, Ownership, Span, Spans, Watch, WatchTotals};
pub use dependency::{Dependency, DependencyKey};
pub use destination::{Destination, Infrastructure, ServicePort, Unresolved};
pub use evidence::{Evidence, Example, Grade};
pub use folded::{Folded, domain};
pub use labels::{LabelIndex, selects};
pub use pod::{CaptureScope, Labels, Pod};
pub use tally::Tally;
pub use time::Time;
pub use unverified::{UnverifiedAmount, UnverifiedBatch};
pub use workload::{DataPlane, Protocol, Workload, WorkloadId};

/// Two records of the same thing become one.
///
/// `merge` must be associative and commutative, so that neither the order of batches nor how they
/// were cut shows in the result. Counts are sums. The store ensures that a batch counts once: it
/// stores the identity of each batch that it has merged.
///
/// ```
/// use sidecarta_model::{Merge, Tally, Time};
///
/// let mut all = Tally::new(3, Time(10), Time(20));
/// all.merge(&Tally::new(2, Time(5), Time(15)));
/// assert_eq!(all, Tally::new(5, Time(5), Time(20)));
/// ```
pub trait Merge {
    /// Merges `other` into `self`.
    fn merge(&mut self, other: &Self);
}

/// Where only one of them has a value, the result is that value.
impl<T: Merge + Clone> Merge for Option<T> {
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Some(a), Some(b)) => a.merge(b),
            (a @ None, b) => a.clone_from(b),
            (Some(_), None) => {}
        }
    }
}

/// Whether a count is left out of what is written.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests;
