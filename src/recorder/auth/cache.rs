//! Answers of the API server, cached for a while, and one question at a time about a token.
//!
//! Owns what is cached and for how long. Must never grow without a limit, nor store a token.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Semaphore, SemaphorePermit};

/// Answers in a cache, at most.
const MAX_ANSWERS: usize = 16_384;

/// Whose token is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TokenUse {
    Agent,
    Person,
}

/// Stands for a token and its use: 128 bits of keyed hashes. The keys are random at each start and
/// never shown, so nobody can make a token that has the hashes of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest(u64, u64);

/// Answers, each with the time when it came.
#[derive(Debug)]
pub(super) struct AnswerCache<K, V> {
    answers: Mutex<HashMap<K, (Instant, V)>>,
    valid_for: Duration,
}

impl<K: Hash + Eq + Clone, V: Clone> AnswerCache<K, V> {
    /// A cache whose answers are valid for this time.
    pub fn new(valid_for: Duration) -> Self {
        Self { answers: Mutex::new(HashMap::new()), valid_for }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = answers.get(key)?;
        (at.elapsed() < self.valid_for).then(|| value.clone())
    }

    pub fn put(&self, key: K, value: V) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS && !answers.contains_key(&key) {
            answers.retain(|_, (at, _)| at.elapsed() < self.valid_for);
            // All of them are valid: the older half is removed, and may be asked about again.
            if answers.len() >= MAX_ANSWERS {
                let mut times: Vec<Instant> = answers.values().map(|(at, _)| *at).collect();
                let (_, middle, _) = times.select_nth_unstable(MAX_ANSWERS / 2);
                let middle = *middle;
                answers.retain(|_, (at, _)| *at > middle);
            }
        }
        answers.insert(key, (Instant::now(), value));
    }

    pub fn remove(&self, key: &K) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The locks of all tokens that questions are asked about at this moment.
type TokenLocks = Arc<Mutex<HashMap<TokenDigest, Arc<AsyncMutex<()>>>>>;

/// Limits questions to the API server: one at a time about a token, and so many in all.
#[derive(Debug)]
pub(super) struct QuestionLimits {
    first: RandomState,
    second: RandomState,
    locks: TokenLocks,
    questions: Semaphore,
}

/// The lock of one token. The last one that is dropped removes it.
#[derive(Debug)]
pub(super) struct TokenLock {
    token: TokenDigest,
    lock: Arc<AsyncMutex<()>>,
    locks: TokenLocks,
}

impl QuestionLimits {
    pub fn new(questions: usize) -> Self {
        Self {
            first: RandomState::new(),
            second: RandomState::new(),
            locks: Arc::default(),
            questions: Semaphore::new(questions),
        }
    }

    /// What stands for a token.
    pub fn digest(&self, token: &str, token_use: TokenUse) -> TokenDigest {
        let both = (token, token_use);
        TokenDigest(self.first.hash_one(both), self.second.hash_one(both))
    }

    /// The lock of a token, not locked yet.
    pub fn token_lock(&self, token: TokenDigest) -> TokenLock {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(locks.entry(token).or_default());
        TokenLock { token, lock, locks: Arc::clone(&self.locks) }
    }

    /// Waits until one more question may be asked; `None` when the program ends.
    pub async fn question(&self) -> Option<SemaphorePermit<'_>> {
        self.questions.acquire().await.ok()
    }
}

impl TokenLock {
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().await
    }
}

impl Drop for TokenLock {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and that in the map: nobody else waits.
        if Arc::strong_count(&self.lock) <= 2 {
            locks.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_bounded_and_has_the_newest_answer() {
        let cache = AnswerCache::new(Duration::from_secs(60));
        for n in 0..3 * MAX_ANSWERS {
            cache.put(n, n);
            assert_eq!(cache.get(&n), Some(n));
        }
        assert!(cache.answers.lock().unwrap().len() <= MAX_ANSWERS);
    }

    #[test]
    fn an_answer_that_is_no_longer_valid_is_not_given() {
        let cache = AnswerCache::new(Duration::ZERO);
        cache.put(1, 1);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn a_digest_is_of_one_token_and_one_use() {
        let limits = QuestionLimits::new(1);
        let digest = limits.digest("a", TokenUse::Agent);
        assert_eq!(digest, limits.digest("a", TokenUse::Agent));
        assert_ne!(digest, limits.digest("a", TokenUse::Person));
        assert_ne!(digest, limits.digest("b", TokenUse::Agent));
    }

    #[test]
    fn the_lock_of_a_token_is_removed_when_nobody_has_it() {
        let limits = QuestionLimits::new(1);
        let token = limits.digest("a", TokenUse::Agent);
        let (one, two) = (limits.token_lock(token), limits.token_lock(token));
        assert!(Arc::ptr_eq(&one.lock, &two.lock));
        drop(one);
        assert_eq!(limits.locks.lock().unwrap().len(), 1);
        drop(two);
        assert!(limits.locks.lock().unwrap().is_empty());
    }
}
