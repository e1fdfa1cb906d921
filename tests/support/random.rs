//! Random numbers that can be repeated: each run prints its seed, and `FAREBOX_SEED` sets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns and prints the seed of this run: FAREBOX_SEED, or else the time.
pub fn seed() -> u64 {
    let set = std::env::var("FAREBOX_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = set.unwrap_or_else(|| clock() | 1);
    eprintln!("FAREBOX_SEED={seed}");
    seed
}

/// xorshift64*: a small generator. Its whole state comes from the seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the seed of [`seed`].
    pub fn seeded() -> Self {
        Self::of(seed())
    }

    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % limit
    }

    /// A random time from `from` to `to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below((to - from) as usize) as u64)
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A second generator, for another task.
    pub fn fork(&mut self) -> Self {
        self.below(1);
        Self(self.0 ^ 0x9E37_79B9_7F4A_7C15 | 1)
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            list.swap(n, self.below(n + 1));
        }
    }
}
