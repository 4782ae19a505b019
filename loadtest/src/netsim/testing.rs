//! What the tests of the simulator share.

use std::{ops::RangeInclusive, time::Duration};

pub(super) const MS: Duration = Duration::from_millis(1);

/// Runs a test for each seed: `SEED` alone, else the first `SEEDS`, else the first few.
pub(super) fn for_seeds(few: u64, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: RangeInclusive<u64> = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, Some(most)) => 1..=most,
        (None, None) => 1..=few,
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        if let Err(panic) = result {
            eprintln!("failed with seed {seed}; SEED={seed} runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Fails unless `count` of `all` is what independent chances of `share` give, within six standard deviations:
/// by chance alone it fails once in 500 million times. `spread` multiplies the deviation, for chances that depend on
/// each other.
pub(super) fn expect_share(what: &str, count: u64, all: u64, share: f64, spread: f64) {
    let expected = all as f64 * share;
    let deviation = (expected * (1.0 - share)).sqrt() * spread;
    let off = (count as f64 - expected).abs();
    assert!(off <= 6.0 * deviation + 1.0, "{what}: {count} of {all}, not about {expected:.0}");
}
