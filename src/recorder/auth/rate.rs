//! How many questions somebody may cause in a time: a token bucket for each of them.
//!
//! Owns the buckets. Must never grow without a limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets in memory, at most.
const MAX_BUCKETS: usize = 16_384;

/// How fast a bucket fills, and how much it can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

/// How much a bucket had at a time.
#[derive(Clone, Copy, Debug)]
struct BucketLevel {
    left: f64,
    at: Instant,
}

/// A bucket for each key, which fills with time.
#[derive(Debug)]
pub(super) struct RateLimiter<K> {
    rate: Rate,
    /// A full bucket is not stored.
    buckets: Mutex<HashMap<K, BucketLevel>>,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// What a bucket has now.
    fn left(&self, bucket: Option<&BucketLevel>) -> f64 {
        bucket.map_or(self.rate.burst, |BucketLevel { left, at }| {
            (left + at.elapsed().as_secs_f64() * self.rate.per_second).min(self.rate.burst)
        })
    }

    /// Returns one to a bucket.
    pub fn give_back(&self, key: &K) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(key) {
            bucket.left = (bucket.left + 1.0).min(self.rate.burst);
        }
    }

    /// Takes one from a bucket. Returns whether there was one.
    pub fn spend(&self, key: &K) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.left(buckets.get(key));
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| self.left(Some(bucket)) < self.rate.burst);
            // All of them are in use. Another key has only the limit that is for all.
            if buckets.len() >= MAX_BUCKETS {
                return true;
            }
        }
        if left < 1.0 {
            return false;
        }
        buckets.insert(key.clone(), BucketLevel { left: left - 1.0, at: Instant::now() });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RATE: Rate = Rate { per_second: 10.0, burst: 3.0 };

    #[test]
    fn no_more_than_a_burst_is_spent_together() {
        let limiter = RateLimiter::new(RATE);
        assert!((0..3).all(|_| limiter.spend(&1)));
        assert!(!limiter.spend(&1));
        assert!(limiter.spend(&2), "another key has a bucket of its own");
    }

    #[test]
    fn what_is_given_back_can_be_spent_again() {
        let limiter = RateLimiter::new(RATE);
        assert!((0..3).all(|_| limiter.spend(&1)));
        limiter.give_back(&1);
        assert!(limiter.spend(&1) && !limiter.spend(&1));
    }

    #[test]
    fn a_bucket_fills_with_time() {
        let limiter = RateLimiter::new(RATE);
        assert!((0..3).all(|_| limiter.spend(&1)));
        let earlier = Instant::now().checked_sub(Duration::from_millis(150)).unwrap();
        limiter.buckets.lock().unwrap().get_mut(&1).unwrap().at = earlier;
        assert!(limiter.spend(&1) && !limiter.spend(&1), "one in 100 ms");
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let limiter = RateLimiter::new(RATE);
        for n in 0..20 + MAX_BUCKETS {
            let _ = limiter.spend(&n);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
