//! Room for requests: how many bytes of bodies and of batches are in memory at once, and how much
//! of it one caller may have.
//!
//! Owns these bounds, and reading a body within them and within a time. A body is read before a
//! batch takes its place among those that are parsed, so that who sends slowly holds up nobody.
//! Must never wait without a limit.

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

/// Bytes of a batch's body. A batch of an agent that was away for days has a tenth of it.
pub(super) const MAX_BODY: usize = 16 * 1024 * 1024;
/// Bytes of any other body.
pub(super) const MAX_WORDS: usize = 1024 * 1024;
/// Bytes of bodies at once.
const BODIES: usize = 8 * MAX_BODY;
/// Bytes of memory of batches at once, from when they are parsed until they are on the disk.
const BATCHES: usize = 2 * MAX_MEMORY;
/// Batches that are parsed at once.
const PARSED: usize = 4;
/// Bodies of one caller at once. An agent sends one batch after the other; a second one may come
/// when it has given up waiting for the answer to the first.
const OF_ONE: usize = 2;
/// Answers at once that have to be held in memory until they are sent, and those to one caller.
const ANSWERS: usize = 16;
/// See [`ANSWERS`].
const ANSWERS_TO_ONE: usize = 4;
/// How long a body may take.
pub(super) const BODY: Duration = Duration::from_secs(30);
/// How long a body may bring nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// How long is waited for room.
const ROOM: Duration = Duration::from_secs(10);
/// Bytes of a unit of room.
const UNIT: usize = 1024;

/// Why a body is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBody {
    /// It is too long.
    #[error("the body is longer than {0} bytes")]
    Long(usize),
    /// It took too long.
    #[error("the body did not come within {0:?}")]
    Late(Duration),
    /// The client ended it.
    #[error("the body cannot be read: {0}")]
    Broken(String),
    /// There are too many others.
    #[error("too many bodies at the moment")]
    Busy,
}

/// Whose places these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Use {
    Body(String),
    Answer(String),
}

/// All room there is.
#[derive(Debug)]
pub(super) struct Places {
    bodies: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    callers: Arc<Mutex<HashMap<Use, usize>>>,
}

/// A caller's place.
#[derive(Debug)]
pub(super) struct OfCaller {
    of: Use,
    callers: Arc<Mutex<HashMap<Use, usize>>>,
}

impl Drop for OfCaller {
    fn drop(&mut self) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = callers.get_mut(&self.of) {
            *n -= 1;
            if *n == 0 {
                callers.remove(&self.of);
            }
        }
    }
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Read {
    pub bytes: Vec<u8>,
    pub room: Option<OwnedSemaphorePermit>,
}

/// Room in which an answer is made and sent.
#[derive(Debug)]
pub(super) struct AnswerPlace {
    _room: OwnedSemaphorePermit,
    _caller: Option<OfCaller>,
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Places {
    pub fn new() -> Self {
        let semaphore = |n: usize| Arc::new(Semaphore::new(n));
        Self {
            bodies: semaphore(BODIES / UNIT),
            batches: semaphore(BATCHES / UNIT),
            parsed: semaphore(PARSED),
            answers: semaphore(ANSWERS),
            callers: Arc::default(),
        }
    }

    /// A place for a body of this caller; `None` where they have as many as they may.
    pub fn body_of(&self, caller: &str) -> Option<OfCaller> {
        self.place(Use::Body(caller.to_owned()), OF_ONE)
    }

    fn place(&self, of: Use, most: usize) -> Option<OfCaller> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let n = callers.entry(of.clone()).or_default();
        if *n >= most {
            return None;
        }
        *n += 1;
        Some(OfCaller { of, callers: Arc::clone(&self.callers) })
    }

    /// Reads a body of at most so many bytes. Room is taken for what has come, not for what is
    /// announced.
    pub async fn read(&self, mut body: Body, most: usize) -> Result<Read, NoBody> {
        // What is announced as too long need not come.
        if body.size_hint().lower() > most as u64 {
            return Err(NoBody::Long(most));
        }
        let until = Instant::now() + BODY;
        let mut read = Read { bytes: Vec::new(), room: None };
        loop {
            let silent = (Instant::now() + SILENCE).min(until);
            let frame = match tokio::time::timeout_at(silent, body.frame()).await {
                Ok(None) => return Ok(read),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => return Err(NoBody::Broken(e.to_string())),
                Err(_) if silent < until => return Err(NoBody::Late(SILENCE)),
                Err(_) => return Err(NoBody::Late(BODY)),
            };
            let Some(data) = frame.data_ref() else { continue };
            if read.bytes.len() + data.len() > most {
                return Err(NoBody::Long(most));
            }
            let more = units(read.bytes.len() + data.len()) - units(read.bytes.len());
            let more = Arc::clone(&self.bodies).try_acquire_many_owned(more);
            let more = more.map_err(|_| NoBody::Busy)?;
            match &mut read.room {
                Some(room) => room.merge(more),
                None => read.room = Some(more),
            }
            read.bytes.extend_from_slice(data);
        }
    }

    /// A place among the batches that are parsed. Waits a while for one.
    pub async fn parse(&self) -> Option<OwnedSemaphorePermit> {
        wait(&self.parsed, 1).await
    }

    /// Room for a batch of so many bytes of memory. Waits a while for it.
    pub async fn batch(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        wait(&self.batches, units(bytes.min(BATCHES))).await
    }

    /// Room for an answer to this caller. Waits a while for it.
    pub async fn answer(&self, caller: Option<&str>) -> Option<AnswerPlace> {
        let caller = match caller {
            Some(caller) => Some(self.place(Use::Answer(caller.to_owned()), ANSWERS_TO_ONE)?),
            None => None,
        };
        Some(AnswerPlace { _room: wait(&self.answers, 1).await?, _caller: caller })
    }
}

async fn wait(semaphore: &Arc<Semaphore>, n: u32) -> Option<OwnedSemaphorePermit> {
    let place = Arc::clone(semaphore).acquire_many_owned(n);
    tokio::time::timeout(ROOM, place).await.ok()?.ok()
}

/// A body that keeps its place until it is sent, or its client is gone.
pub(super) struct Kept {
    body: Body,
    _place: AnswerPlace,
}

impl Kept {
    pub fn new(body: Body, place: AnswerPlace) -> Self {
        Self { body, _place: place }
    }
}

impl hyper::body::Body for Kept {
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
    fn a_caller_has_a_share_and_gives_it_back() {
        let places = Places::new();
        let two = [places.body_of("n1").unwrap(), places.body_of("n1").unwrap()];
        assert!(places.body_of("n1").is_none());
        assert!(places.body_of("n2").is_some());
        drop(two);
        assert!(places.body_of("n1").is_some());
        assert!(places.callers.lock().unwrap().is_empty());
    }

    #[test]
    fn the_memory_of_batches_is_bounded_by_their_size() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let places = Places::new();
            let large = places.batch(MAX_MEMORY).await.unwrap();
            let small = places.batch(1).await.unwrap();
            let short = Duration::from_millis(20);
            let third = tokio::time::timeout(short, places.batch(MAX_MEMORY)).await;
            assert!(third.is_err(), "one unit is taken: it waits");
            drop(small);
            assert!(places.batch(MAX_MEMORY).await.is_some());
            drop(large);
            assert_eq!(places.batches.available_permits(), BATCHES / UNIT);
        });
    }

    #[test]
    fn a_body_takes_room_for_what_has_come_and_no_more_than_it_may() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let places = Places::new();
            let left = || places.bodies.available_permits();
            let read = places.read(Body::from(vec![0; 3 * UNIT + 1]), MAX_WORDS).await.unwrap();
            assert_eq!((read.bytes.len(), BODIES / UNIT - left()), (3 * UNIT + 1, 4));
            let long = places.read(Body::from(vec![0; MAX_WORDS + 1]), MAX_WORDS).await;
            assert!(matches!(long, Err(NoBody::Long(MAX_WORDS))));
            let rest = Arc::clone(&places.bodies).try_acquire_many_owned(left() as u32).unwrap();
            let none = places.read(Body::from("x"), MAX_WORDS).await;
            assert!(matches!(none, Err(NoBody::Busy)));
            drop((rest, read));
            assert_eq!(left(), BODIES / UNIT);
        });
    }
}
