//! Controllers that were deleted.
//!
//! Owns for how long they are remembered. A Job is deleted before its pods are, and then only it
//! says which CronJob its pods belong to. Must never hide a controller that exists.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::object::IndexObject;
use crate::cluster::ControllerBrief;

/// Deleted controllers, the oldest first.
#[derive(Debug, Default)]
pub(super) struct FormerControllers(Vec<FormerController>);

#[derive(Debug)]
struct FormerController {
    kind: Arc<str>,
    controller: Arc<ControllerBrief>,
    forget: Instant,
}

impl FormerControllers {
    /// Remembers an object that was deleted, where it is a controller.
    pub(super) fn add(&mut self, kind: &str, object: &IndexObject, horizon: Duration) {
        if let IndexObject::Controller(controller) = object {
            self.0.push(FormerController {
                kind: kind.into(),
                controller: Arc::clone(controller),
                forget: Instant::now() + horizon,
            });
        }
    }

    /// Forgets what is due.
    pub(super) fn forget(&mut self, at: Instant) {
        self.0.retain(|former| former.forget > at);
    }

    /// All that are remembered, each with its kind.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<ControllerBrief>)> {
        self.0.iter().map(|f| (Arc::clone(&f.kind), Arc::clone(&f.controller))).collect()
    }
}
