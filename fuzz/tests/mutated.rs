//! Each target with its first inputs, cut, changed and joined at random: a short, repeatable run.
//! `make fuzz` is the long one.

#![allow(missing_docs)]

use sidecarta_fuzz::{TARGETS, seeds};

/// A small generator of numbers (xorshift64*): the same inputs in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len());
        match random.below(6) {
            0 => input.truncate(at),
            1 if !input.is_empty() => input[at] = random.next() as u8,
            2 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            3 => input.insert(at, random.next() as u8),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let to = (at + random.below(32)).min(input.len());
                input.drain(at..to);
            }
        }
    }
    input
}

#[test]
fn every_target_takes_whatever_comes() {
    /// Inputs of each target; bytes, at most, that they have together.
    const INPUTS: usize = 4_000;
    const BYTES: usize = 8 << 20;
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has nothing to begin with");
        seeds.iter().for_each(|seed| target(seed));
        let mut random = Random(0x5eed + name.len() as u64);
        let (mut inputs, mut bytes) = (0, 0);
        while inputs < INPUTS && bytes < BYTES {
            let input = mutated(&mut random, &seeds);
            target(&input);
            inputs += 1;
            bytes += input.len();
        }
        println!("{name}: {inputs} inputs, {bytes} bytes");
    }
}
