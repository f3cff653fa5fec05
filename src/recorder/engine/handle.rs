//! The handle to the engine, for those who give it commands.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use super::command::{EngineCommand, EngineUnavailable, QueueRequest};
use super::progress::{EngineProgress, MergePace};
use super::worker::StoreWorker;
use crate::observed::Observed;
use crate::store::{Applied, Store};
use crate::view::View;

/// Commands that wait for the thread, at most.
const MAX_COMMANDS: usize = 256;

/// The handle to the engine. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: SyncSender<EngineCommand>,
    progress: Arc<Mutex<EngineProgress>>,
    outbox: watch::Receiver<u64>,
}

impl Engine {
    /// A handle, and what its thread has to run ([`StoreWorker::run`]).
    pub fn new(store: Store, view: View, pace: MergePace) -> (Self, StoreWorker) {
        let (commands, receiver) = sync_channel(MAX_COMMANDS);
        let progress = Arc::new(Mutex::new(EngineProgress::default()));
        let (publish, outbox) = watch::channel(store.outbox());
        let worker = StoreWorker::new(store, view, pace, receiver, Arc::clone(&progress), publish);
        (Self { commands, progress, outbox }, worker)
    }

    /// Queues a batch. `bytes`: the batch as it came, compressed. When this succeeds, the batch is
    /// on the disk.
    ///
    /// # Errors
    /// When it is not.
    pub async fn queue(
        &self,
        batch: Observed,
        bytes: Vec<u8>,
    ) -> Result<Applied, EngineUnavailable> {
        let (reply, answer) = oneshot::channel();
        self.send(EngineCommand::Queue(Box::new(QueueRequest { bytes, batch, reply })))?;
        match answer.await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(why)) => Err(EngineUnavailable::Closed(why)),
            Err(_) => Err(EngineUnavailable::ended()),
        }
    }

    /// Runs a question on the engine's thread, which has the store.
    ///
    /// # Errors
    /// When the engine takes no command.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, EngineUnavailable> {
        let (reply, answer) = oneshot::channel();
        // Sending the reply fails where nobody waits for the answer any more.
        self.send(EngineCommand::Ask(Box::new(move |store| drop(reply.send(question(store))))))?;
        answer.await.map_err(|_| EngineUnavailable::ended())
    }

    /// Ends the thread when all commands before this one are done.
    pub fn stop(&self) {
        // Waits for room: this command must not be lost. A thread that has ended needs none.
        let _ = self.commands.send(EngineCommand::Stop);
    }

    /// Changes when there may be more alerts to deliver.
    pub fn outbox(&self) -> watch::Receiver<u64> {
        self.outbox.clone()
    }

    /// What the engine has done so far.
    pub fn progress(&self) -> EngineProgress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, command: EngineCommand) -> Result<(), EngineUnavailable> {
        self.commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => EngineUnavailable::Busy,
            TrySendError::Disconnected(_) => EngineUnavailable::ended(),
        })
    }
}
