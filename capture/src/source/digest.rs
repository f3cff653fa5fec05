//! Digests of captures. They show that a capture was replayed before.
//!
//! Owns what identifies a capture. It is no security function: who forges a capture deceives only
//! themselves. Must never change for the same frames, since digests are stored.

use crate::frame::{Frame, FrameBatch};

/// A digest for each source. It is computed where batches are processed, not where they are read:
/// reading is the slower half, and reading the heads of all frames fetches them for processing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(Vec<u64>);

impl Digests {
    /// Adds the frames of a batch.
    pub fn add(&mut self, batch: &FrameBatch) {
        for frame in batch.frames() {
            let source = frame.interface.source as usize;
            if source >= self.0.len() {
                self.0.resize(source + 1, SEED);
            }
            self.0[source] = digest(self.0[source], &frame);
        }
    }

    /// The digest of what a source delivered.
    pub fn of(&self, source: u32) -> u64 {
        self.0.get(source as usize).copied().unwrap_or(SEED)
    }
}

/// Initial value of a digest: the fractional part of the golden ratio, so that the digest of an
/// empty capture is not 0.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of a frame that are digested: link, network and transport headers.
const DIGESTED: usize = 64;

/// Adds a frame to a digest, by folded multiplication. Must stay as it is, since digests are
/// stored.
fn digest(so_far: u64, frame: &Frame<'_>) -> u64 {
    // Operations that do not depend on the digest so far are grouped. The others are a chain of
    // multiplications, each of which waits for the last.
    let mix = |a: u64, data_a: u64, data_b: u64| {
        let wide = u128::from(a ^ (data_a ^ 0xa076_1d64_78bd_642f))
            * u128::from(data_b ^ 0xe703_7ed1_a0b4_28db);
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let lengths = u64::from(frame.wire_len) << 32 | frame.data.len() as u64;
    let mut d = mix(so_far, frame.time as u64, lengths ^ u64::from(frame.link.0) << 48);
    let head = &frame.data[..frame.data.len().min(DIGESTED)];
    let mut chunks = head.chunks_exact(16);
    for chunk in &mut chunks {
        let (a, b) = chunk.split_at(8);
        d = mix(d, word(a), word(b));
    }
    let (a, b) = chunks.remainder().split_at(chunks.remainder().len().min(8));
    mix(d, word(a), word(b))
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
