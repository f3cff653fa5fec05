//! The engine: the thread that owns the store. It queues what agents send, resolves it when the
//! view of the cluster has passed its time, and answers questions.
//!
//! Owns the order of writes. A batch is acknowledged when it is on the disk, resolved later, and
//! counts once. Must never resolve before the cluster is known, and never let what cannot be
//! resolved delay what can be acknowledged.

mod command;
mod handle;
mod merge;
mod progress;
mod resolve;
mod unverified;
mod upkeep;
mod waiting;
mod worker;

pub use command::EngineUnavailable;
pub use handle::Engine;
pub use progress::{EngineProgress, MergePace};
pub use worker::StoreWorker;
