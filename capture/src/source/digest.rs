//! Digests of captures: they recognise that one is replayed.
//!
//! Owns what identifies a capture. No security function: who forges a capture deceives only
//! himself. Must never change for the same frames, for digests are stored.

use crate::frame::{Frame, FrameBatch};

/// A digest for each source. Whoever takes batches in makes it, not whoever reads: reading is the
/// slower half, and reading the heads of all frames beforehand brings them near.
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

/// Start of a digest: the fractional part of the golden ratio, so that an empty capture has no zero
/// digest.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of a frame that enter the digest: link, network and transport headers.
const DIGESTED: usize = 64;

/// Adds a frame to a digest. Folded multiplication, fixed for ever: digests are stored.
fn digest(so_far: u64, frame: &Frame<'_>) -> u64 {
    // What does not depend on the digest so far stands apart: the rest is a chain of
    // multiplications, each of which waits for the last.
    let mix = |a: u64, known_a: u64, known_b: u64| {
        let wide = u128::from(a ^ (known_a ^ 0xa076_1d64_78bd_642f))
            * u128::from(known_b ^ 0xe703_7ed1_a0b4_28db);
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
