//! The randomness of the fault tests: a seed says all of it.

use std::time::{Duration, SystemTime};

/// The seed of this run: FAREBOX_SEED, or the clock. Printed, so that a run can be repeated.
pub fn seed() -> u64 {
    let set = std::env::var("FAREBOX_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = set.unwrap_or_else(|| clock().as_nanos() as u64 | 1);
    eprintln!("FAREBOX_SEED={seed}");
    seed
}

/// xorshift64*: a small generator.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }

    /// Between so many milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Another generator, for a task of its own.
    pub fn fork(&mut self) -> Self {
        self.below(1);
        Self(self.0 ^ 0x9E37_79B9_7F4A_7C15 | 1)
    }
}
