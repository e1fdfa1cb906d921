//! Chance that can be had again: a run prints its seed and takes it back (`FAREBOX_SEED`).

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*: a small generator, so that a seed says all.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From FAREBOX_SEED, or the clock; printed.
    pub fn seeded() -> Self {
        let set = std::env::var("FAREBOX_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = set.unwrap_or_else(|| clock() | 1);
        eprintln!("FAREBOX_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % limit
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            list.swap(n, self.below(n + 1));
        }
    }
}
