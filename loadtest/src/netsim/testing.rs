//! What the tests of the simulator share.

use std::time::Duration;

pub(super) const MS: Duration = Duration::from_millis(1);

/// Fails unless `count` of `all` is what independent chances of `share` give, within six standard deviations:
/// by chance alone it fails once in 500 million times. `spread` multiplies the deviation, for chances that depend on
/// each other.
pub(super) fn expect_share(what: &str, count: u64, all: u64, share: f64, spread: f64) {
    let expected = all as f64 * share;
    let deviation = (expected * (1.0 - share)).sqrt() * spread;
    let off = (count as f64 - expected).abs();
    assert!(off <= 6.0 * deviation + 1.0, "{what}: {count} of {all}, not about {expected:.0}");
}
