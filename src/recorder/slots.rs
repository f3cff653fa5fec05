//! Slots and room for requests: how many bytes of bodies and of batches are in memory at once, and
//! how much of it one caller may have.
//!
//! Owns these limits, and reading a body within them and within a time. A body is read before its
//! batch takes a slot for parsing, so that slow senders delay nobody. Must never wait without a
//! limit.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::observed::MAX_MEMORY;

/// Bytes of a batch's body. A batch of an agent that could not send for days has a tenth of it.
pub(super) const MAX_BODY: usize = 16 * 1024 * 1024;
/// Bytes of any other body.
pub(super) const MAX_JSON: usize = 1024 * 1024;
/// Bytes of all bodies at once.
const BODIES: usize = 8 * MAX_BODY;
/// Bytes of memory of all batches at once, from parsing until they are on the disk.
const BATCHES: usize = 2 * MAX_MEMORY;
/// Batches that are parsed at once.
const PARSED: usize = 4;
/// Bodies of one caller at once. An agent sends one batch after the other; it may send a second one
/// when it no longer waits for the answer to the first.
const BODIES_OF_CALLER: usize = 2;
/// Answers at once that are in memory until they are sent.
const ANSWERS: usize = 16;
/// Answers at once to one caller.
const ANSWERS_TO_CALLER: usize = 4;
/// Longest time that a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time in which nothing of a body comes.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a request waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a unit of room.
const UNIT: usize = 1024;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It has more bytes than it may.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    #[error("the body did not come within {0:?}")]
    TooSlow(Duration),
    /// The connection ended.
    #[error("the body cannot be read: {0}")]
    Broken(String),
    /// There are too many other bodies.
    #[error("too many bodies at the moment")]
    Busy,
}

/// What a caller's slots are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SlotUse {
    /// Bodies of this caller.
    Body(String),
    /// Answers to this caller.
    Answer(String),
}

/// How many slots are taken, by caller.
type TakenSlots = Arc<Mutex<HashMap<SlotUse, usize>>>;

/// All slots and all room.
#[derive(Debug)]
pub(super) struct RequestSlots {
    /// In units of room.
    bodies: Arc<Semaphore>,
    /// In units of room.
    batches: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    taken: TakenSlots,
}

/// A caller's slot, until it is dropped.
#[derive(Debug)]
pub(super) struct CallerSlot {
    slot_use: SlotUse,
    taken: TakenSlots,
}

impl Drop for CallerSlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = taken.get_mut(&self.slot_use) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.slot_use);
            }
        }
    }
}

/// A body in memory, and the room that it takes.
#[derive(Debug)]
pub(super) struct BufferedBody {
    pub bytes: Vec<u8>,
    pub room: Option<OwnedSemaphorePermit>,
}

/// A slot in which an answer is made and sent.
#[derive(Debug)]
pub(super) struct AnswerSlot {
    _room: OwnedSemaphorePermit,
    _caller: Option<CallerSlot>,
}

/// Units of room for so many bytes.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl RequestSlots {
    pub fn new() -> Self {
        let semaphore = |n: usize| Arc::new(Semaphore::new(n));
        Self {
            bodies: semaphore(BODIES / UNIT),
            batches: semaphore(BATCHES / UNIT),
            parsed: semaphore(PARSED),
            answers: semaphore(ANSWERS),
            taken: Arc::default(),
        }
    }

    /// A slot for a body of this caller; `None` where all slots of the caller are taken.
    pub fn body_of(&self, caller: &str) -> Option<CallerSlot> {
        self.take(SlotUse::Body(caller.to_owned()), BODIES_OF_CALLER)
    }

    fn take(&self, slot_use: SlotUse, max_slots: usize) -> Option<CallerSlot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let n = taken.entry(slot_use.clone()).or_default();
        if *n >= max_slots {
            return None;
        }
        *n += 1;
        Some(CallerSlot { slot_use, taken: Arc::clone(&self.taken) })
    }

    /// Reads a body of `max_bytes` at most. Room is taken for the bytes that have come, not for
    /// those that are announced.
    pub async fn read(&self, mut body: Body, max_bytes: usize) -> Result<BufferedBody, BodyError> {
        // A body that is announced as too long is not read.
        if body.size_hint().lower() > max_bytes as u64 {
            return Err(BodyError::TooLong(max_bytes));
        }
        let until = Instant::now() + BODY_TIMEOUT;
        let mut read = BufferedBody { bytes: Vec::new(), room: None };
        loop {
            let silent_until = (Instant::now() + SILENCE_TIMEOUT).min(until);
            let frame = match tokio::time::timeout_at(silent_until, body.frame()).await {
                Ok(None) => return Ok(read),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => return Err(BodyError::Broken(e.to_string())),
                Err(_) if silent_until < until => return Err(BodyError::TooSlow(SILENCE_TIMEOUT)),
                Err(_) => return Err(BodyError::TooSlow(BODY_TIMEOUT)),
            };
            let Some(data) = frame.data_ref() else { continue };
            let (before, after) = (read.bytes.len(), read.bytes.len() + data.len());
            if after > max_bytes {
                return Err(BodyError::TooLong(max_bytes));
            }
            let more = units(after) - units(before);
            let more = Arc::clone(&self.bodies).try_acquire_many_owned(more);
            let more = more.map_err(|_| BodyError::Busy)?;
            match &mut read.room {
                Some(room) => room.merge(more),
                None => read.room = Some(more),
            }
            read.bytes.extend_from_slice(data);
        }
    }

    /// A slot for parsing a batch. Waits for one for a while.
    pub async fn parse(&self) -> Option<OwnedSemaphorePermit> {
        wait(&self.parsed, 1).await
    }

    /// Room for a batch that takes so many bytes of memory. Waits for it for a while.
    pub async fn batch(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        wait(&self.batches, units(bytes.min(BATCHES))).await
    }

    /// A slot for an answer to this caller. Waits for one for a while.
    pub async fn answer(&self, caller: Option<&str>) -> Option<AnswerSlot> {
        let caller = match caller {
            Some(caller) => Some(self.take(SlotUse::Answer(caller.to_owned()), ANSWERS_TO_CALLER)?),
            None => None,
        };
        Some(AnswerSlot { _room: wait(&self.answers, 1).await?, _caller: caller })
    }
}

async fn wait(semaphore: &Arc<Semaphore>, n: u32) -> Option<OwnedSemaphorePermit> {
    let permit = Arc::clone(semaphore).acquire_many_owned(n);
    tokio::time::timeout(ROOM_TIMEOUT, permit).await.ok()?.ok()
}

/// The body of an answer, which has its slot until it is sent or its client has disconnected.
pub(super) struct AnswerBody {
    body: Body,
    _slot: AnswerSlot,
}

impl AnswerBody {
    pub fn new(body: Body, slot: AnswerSlot) -> Self {
        Self { body, _slot: slot }
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_two_slots_for_bodies_and_frees_them() {
        let slots = RequestSlots::new();
        let two = [slots.body_of("n1").unwrap(), slots.body_of("n1").unwrap()];
        assert!(slots.body_of("n1").is_none());
        assert!(slots.body_of("n2").is_some());
        drop(two);
        assert!(slots.body_of("n1").is_some());
        assert!(slots.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn the_memory_of_all_batches_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let slots = RequestSlots::new();
            let large = slots.batch(MAX_MEMORY).await.unwrap();
            let small = slots.batch(1).await.unwrap();
            let short = Duration::from_millis(20);
            let third = tokio::time::timeout(short, slots.batch(MAX_MEMORY)).await;
            assert!(third.is_err(), "one unit is taken: it waits");
            drop(small);
            assert!(slots.batch(MAX_MEMORY).await.is_some());
            drop(large);
            assert_eq!(slots.batches.available_permits(), BATCHES / UNIT);
        });
    }

    #[test]
    fn a_body_takes_room_for_the_bytes_that_have_come() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let slots = RequestSlots::new();
            let left = || slots.bodies.available_permits();
            let read = slots.read(Body::from(vec![0; 3 * UNIT + 1]), MAX_JSON).await.unwrap();
            assert_eq!((read.bytes.len(), BODIES / UNIT - left()), (3 * UNIT + 1, 4));
            let long = slots.read(Body::from(vec![0; MAX_JSON + 1]), MAX_JSON).await;
            assert!(matches!(long, Err(BodyError::TooLong(MAX_JSON))));
            let rest = Arc::clone(&slots.bodies).try_acquire_many_owned(left() as u32).unwrap();
            let none = slots.read(Body::from("x"), MAX_JSON).await;
            assert!(matches!(none, Err(BodyError::Busy)));
            drop((rest, read));
            assert_eq!(left(), BODIES / UNIT);
        });
    }
}
