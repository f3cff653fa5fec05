//! Answers for a while, and one question at a time about the same.
//!
//! Owns what is remembered and for how long. Must never grow without bound, nor keep a token.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Turn, MutexGuard, Semaphore, SemaphorePermit};

/// Answers remembered at once.
const MAX_REMEMBERED: usize = 16_384;

/// Stands for a token and what it is shown for: 128 bits of keyed hashes. Their keys are made at
/// the start and are known to nobody, so nobody can find a token that has those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Secret(u64, u64);

/// Answers for a while.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    known: Mutex<HashMap<K, (Instant, V)>>,
    during: Duration,
}

impl<K: Hash + Eq + Clone, V: Clone> Memory<K, V> {
    /// Answers are good for so long.
    pub fn of(during: Duration) -> Self {
        Self { known: Mutex::new(HashMap::new()), during }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(at, _)| at.elapsed() < self.during).map(|(_, v)| v.clone())
    }

    pub fn put(&self, key: K, value: V) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED && !known.contains_key(&key) {
            known.retain(|_, (at, _)| at.elapsed() < self.during);
            // All of them are fresh: the older half is forgotten, and may be asked about again.
            if known.len() >= MAX_REMEMBERED {
                let mut times: Vec<Instant> = known.values().map(|(at, _)| *at).collect();
                let (_, middle, _) = times.select_nth_unstable(MAX_REMEMBERED / 2);
                let middle = *middle;
                known.retain(|_, (at, _)| *at > middle);
            }
        }
        known.insert(key, (Instant::now(), value));
    }

    pub fn forget(&self, key: &K) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Lets one question at a time be asked about a token, and only so many in all.
#[derive(Debug)]
pub(super) struct Lanes {
    first: RandomState,
    second: RandomState,
    open: Arc<Mutex<HashMap<Secret, Arc<Turn<()>>>>>,
    questions: Semaphore,
}

/// The turns of those who ask about one token.
#[derive(Debug)]
pub(super) struct Lane {
    key: Secret,
    turn: Arc<Turn<()>>,
    open: Arc<Mutex<HashMap<Secret, Arc<Turn<()>>>>>,
}

impl Lanes {
    pub fn new(questions: usize) -> Self {
        Self {
            first: RandomState::new(),
            second: RandomState::new(),
            open: Arc::default(),
            questions: Semaphore::new(questions),
        }
    }

    /// What stands for a token.
    pub fn secret(&self, token: &str, agent: bool) -> Secret {
        Secret(self.first.hash_one((token, agent)), self.second.hash_one((token, agent)))
    }

    pub fn lane(&self, key: Secret) -> Lane {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Arc::clone(open.entry(key).or_default());
        Lane { key, turn, open: Arc::clone(&self.open) }
    }

    /// A place among the questions that are asked at once; none when the program ends.
    pub async fn question(&self) -> Option<SemaphorePermit<'_>> {
        self.questions.acquire().await.ok()
    }
}

impl Lane {
    /// Waits for its turn.
    pub async fn enter(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and that in the map: nobody else waits.
        if Arc::strong_count(&self.turn) <= 2 {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let memory = Memory::of(Duration::from_secs(60));
        for n in 0..3 * MAX_REMEMBERED {
            memory.put(n, n);
            assert_eq!(memory.get(&n), Some(n));
        }
        assert!(memory.known.lock().unwrap().len() <= MAX_REMEMBERED);
        let over = Memory::of(Duration::ZERO);
        over.put(1, 1);
        assert_eq!(over.get(&1), None);
    }

    #[test]
    fn lanes_are_gone_when_nobody_is_in_them() {
        let lanes = Lanes::new(1);
        let key = lanes.secret("a", true);
        assert_ne!(key, lanes.secret("a", false));
        assert_ne!(key, lanes.secret("b", true));
        let (one, two) = (lanes.lane(key), lanes.lane(key));
        assert!(Arc::ptr_eq(&one.turn, &two.turn));
        drop(one);
        assert_eq!(lanes.open.lock().unwrap().len(), 1);
        drop(two);
        assert!(lanes.open.lock().unwrap().is_empty());
    }
}
