//! What the engine's thread is asked to do.

use tokio::sync::oneshot;

use crate::observed::Observed;
use crate::store::{Applied, Store};

/// A batch that is to be queued.
pub(super) struct QueueRequest {
    /// As it came, compressed.
    pub bytes: Vec<u8>,
    pub batch: Observed,
    pub reply: oneshot::Sender<Result<Applied, String>>,
}

/// What the engine's thread is asked to do.
pub(super) enum EngineCommand {
    Queue(Box<QueueRequest>),
    Ask(Box<dyn FnOnce(&mut Store) + Send>),
    Stop,
}

/// Why the engine takes no command.
#[derive(Debug, thiserror::Error)]
pub enum EngineUnavailable {
    /// Too many commands wait: try again.
    #[error("too much to do at the moment")]
    Busy,
    /// It has ended, or the disk is full.
    #[error("the store takes nothing: {0}")]
    Closed(String),
}

impl EngineUnavailable {
    pub(super) fn ended() -> Self {
        Self::Closed("it has ended".to_owned())
    }
}
