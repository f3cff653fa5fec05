//! Answers of the API server, cached for a while, and one question at a time about a token.
//!
//! Owns what is cached and for how long. Must never grow without a limit, nor store a token.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Semaphore, SemaphorePermit};

/// Answers in a cache, at most.
const MAX_ANSWERS: u64 = 16_384;

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

/// Answers, each valid for a time.
pub(super) type AnswerCache<K, V> = Cache<K, V>;

/// A cache of answers that are valid for this time. When it is full, the answer that was not used
/// for longest is removed, and may be asked about again.
pub(super) fn answer_cache<K, V>(valid_for: Duration) -> AnswerCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    // The newest answer is always taken: the default policy may refuse it.
    let policy = EvictionPolicy::lru();
    let cache = Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(valid_for);
    cache.eviction_policy(policy).build()
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
        let cache = answer_cache(Duration::from_secs(60));
        for n in 0..3 * MAX_ANSWERS {
            cache.insert(n, n);
            assert_eq!(cache.get(&n), Some(n));
        }
        cache.run_pending_tasks();
        assert_eq!(cache.entry_count(), MAX_ANSWERS);
    }

    #[test]
    fn an_answer_that_is_no_longer_valid_is_not_given() {
        let cache = answer_cache(Duration::from_millis(1));
        cache.insert(1, 1);
        std::thread::sleep(Duration::from_millis(2));
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
