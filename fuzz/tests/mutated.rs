//! Each target with its first inputs, cut, changed and joined at random: a short, repeatable run.
//! `make fuzz` is the long one.

#![allow(missing_docs)]

use sidecarta_fuzz::{TARGETS, seeds};
use sidecarta_testkit::random::Random;

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.index(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.index(input.len());
        match random.below(6) {
            0 => input.truncate(at),
            1 if !input.is_empty() => input[at] = random.number() as u8,
            2 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            3 => input.insert(at, random.number() as u8),
            4 => {
                let other = &seeds[random.index(seeds.len())];
                let from = random.index(other.len());
                let to = (from + random.index(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let to = (at + random.index(32)).min(input.len());
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
