//! A small seeded generator of random numbers, so that a simulation is a function of its seed.
//!
//! xoshiro256++ (Blackman and Vigna, 2018), its state filled by splitmix64 as the authors advise. It is fast and
//! statistically sound and never fit for secrets. [`for_seeds`] runs a test of a simulation with several.

use std::{
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: std::array::from_fn(|_| splitmix64(&mut mix)) }
    }

    /// An independent stream of the same seed: number `stream` of them.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut mix = stream;
        Self::new(seed ^ splitmix64(&mut mix))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        // The 53 upper bits are what a double holds exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability. Draws once whatever the answer, so that streams stay aligned.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..bound`; 0 for an empty range.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply and shift (Lemire): the bias is below bound / 2⁶⁴.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// Runs a test for each seed: the one in the variable `SEED`, else the first `SEEDS`, else the first few. The seed that it
/// fails with is printed.
pub fn for_seeds(few: u64, test: impl Fn(u64)) {
    let number =
        |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number in SEED and SEEDS"));
    let seeds: RangeInclusive<u64> = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, Some(most)) => 1..=most,
        (None, None) => 1..=few,
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("failed with seed {seed}; SEED={seed} runs it again");
            resume_unwind(panic);
        }
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_agrees_with_its_published_values() {
        let mut state = 1_234_567;
        let values: Vec<u64> = (0..3).map(|_| splitmix64(&mut state)).collect();
        assert_eq!(values, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_seed_gives_one_stream_and_another_seed_another() {
        let take = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn the_numbers_are_spread_evenly() {
        let mut rng = Rng::new(3);
        let mut buckets = [0u32; 16];
        for _ in 0..160_000 {
            buckets[rng.below(16) as usize] += 1;
        }
        assert!(buckets.iter().all(|&count| (9_500..10_500).contains(&count)), "{buckets:?}");
        let mean = (0..100_000).map(|_| rng.unit()).sum::<f64>() / 100_000.0;
        assert!((0.495..0.505).contains(&mean), "{mean}");
    }
}
