//! How much may be asked in a time: a bucket for each of those who cause it.
//!
//! Owns the buckets. Must never grow without bound.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets at once.
const MAX_BUCKETS: usize = 16_384;

/// A bucket each, which fills with time.
#[derive(Debug)]
pub(super) struct Pace<K> {
    a_second: f64,
    at_once: f64,
    /// What is left, and when that was so. A full one is not kept.
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

impl<K: Hash + Eq + Clone> Pace<K> {
    /// With what comes in a second, and what there is at most.
    pub fn new((a_second, at_once): (f64, f64)) -> Self {
        Self { a_second, at_once, buckets: Mutex::default() }
    }

    fn left(&self, known: Option<&(f64, Instant)>) -> f64 {
        known.map_or(self.at_once, |(left, at)| {
            (left + at.elapsed().as_secs_f64() * self.a_second).min(self.at_once)
        })
    }

    /// Gives one back.
    pub fn give_back(&self, who: &K) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((left, _)) = buckets.get_mut(who) {
            *left = (*left + 1.0).min(self.at_once);
        }
    }

    /// Takes one; whether there was one.
    pub fn spend(&self, who: &K) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.left(buckets.get(who));
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(who) {
            buckets.retain(|_, known| self.left(Some(known)) < self.at_once);
            // All of them are in use. Whoever comes now shares the bound of all.
            if buckets.len() >= MAX_BUCKETS {
                return true;
            }
        }
        if left < 1.0 {
            return false;
        }
        buckets.insert(who.clone(), (left - 1.0, Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_spent_comes_back_with_time() {
        let pace = Pace::new((10.0, 3.0));
        assert!((0..3).all(|_| pace.spend(&1)));
        assert!(!pace.spend(&1));
        pace.give_back(&1);
        assert!(pace.spend(&1) && !pace.spend(&1));
        assert!(pace.spend(&2), "another's is another");
        let earlier = Instant::now().checked_sub(Duration::from_millis(150)).unwrap();
        pace.buckets.lock().unwrap().get_mut(&1).unwrap().1 = earlier;
        assert!(pace.spend(&1) && !pace.spend(&1), "one in 100 ms");
        for n in 10..20 + MAX_BUCKETS as i32 {
            let _ = pace.spend(&n);
        }
        assert!(pace.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
