//! The records that were learned so far, one for each key.
//!
//! Owns finding a record by a borrowed key. Must never store a key beside the one in its record:
//! there are as many keys as dependencies, and they are most of the memory of a replay.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::model::{Merge, Record, RecordKey};

/// Records, found by their key.
#[derive(Debug, Default)]
pub(super) struct RecordIndex {
    all: Vec<Record>,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl RecordIndex {
    /// The hash of a key, which differs from run to run, and the index of its record.
    pub fn find(&self, key: &RecordKey<'_>) -> (u64, Option<usize>) {
        let hash = self.hasher.hash_one(key);
        (
            hash,
            self.index.find(hash, |i| self.all[*i as usize].key() == *key).map(|at| *at as usize),
        )
    }

    pub fn get_mut(&mut self, key: &RecordKey<'_>) -> Option<&mut Record> {
        let (_, at) = self.find(key);
        at.map(|at| &mut self.all[at])
    }

    /// Merges a record into that of the same key, or adds it.
    pub fn merge(&mut self, record: Record) {
        let hash = self.hasher.hash_one(record.key());
        let (all, hasher) = (&mut self.all, &self.hasher);
        let entry = self.index.entry(
            hash,
            |i| all[*i as usize].key() == record.key(),
            |i| hasher.hash_one(all[*i as usize].key()),
        );
        match entry {
            Entry::Occupied(e) => all[*e.get() as usize].merge(&record),
            Entry::Vacant(e) => {
                e.insert(all.len() as u32);
                all.push(record);
            }
        }
    }

    /// Merges all records of another collection.
    pub fn absorb(&mut self, other: Self) {
        other.all.into_iter().for_each(|record| self.merge(record));
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// All records, ascending by key.
    pub fn into_sorted(self) -> Vec<Record> {
        let mut all = self.all;
        all.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        all
    }
}
