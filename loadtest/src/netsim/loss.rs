//! Which packets chance takes.

use crate::rng::Rng;

/// How chance takes packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each packet on its own, with this probability.
    Random(f64),
    /// In bursts.
    Bursty(GilbertElliott),
}

/// The model of Gilbert (1960) and Elliott (1963): a link that is now good, now bad, and changes at most once a packet.
///
/// With `p` and `r` the probabilities of going bad and of recovering, the share of packets that meet a bad link is
/// `p / (p + r)`, and the lengths of bad spells, in packets, are geometric with mean `1 / r`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// The probability, at each packet, that a good link goes bad.
    pub good_to_bad: f64,
    /// The probability, at each packet, that a bad link recovers.
    pub bad_to_good: f64,
    /// The probability that a good link loses a packet.
    pub loss_in_good: f64,
    /// The probability that a bad link loses a packet.
    pub loss_in_bad: f64,
}

impl GilbertElliott {
    /// The simple Gilbert model: good loses nothing and bad everything, so that `mean` of all packets are lost, in
    /// runs of `burst` packets on average. A `mean` of 0 to below 1, a `burst` of 1 or more; where the two cannot
    /// both be had (runs so short that the rest could not hold them apart) the mean holds and the runs are longer.
    pub fn from_mean(mean: f64, burst: f64) -> Self {
        let bad_to_good = (1.0 / burst).min((1.0 - mean) / mean.max(f64::MIN_POSITIVE));
        let good_to_bad = mean * bad_to_good / (1.0 - mean);
        Self { good_to_bad, bad_to_good, loss_in_good: 0.0, loss_in_bad: 1.0 }
    }

    /// The share of packets that this loses in the long run.
    pub fn mean(&self) -> f64 {
        let both = self.good_to_bad + self.bad_to_good;
        let bad = if both > 0.0 { self.good_to_bad / both } else { 0.0 };
        bad * self.loss_in_bad + (1.0 - bad) * self.loss_in_good
    }
}

impl Loss {
    /// The share of packets that this loses in the long run.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Random(probability) => *probability,
            Self::Bursty(model) => model.mean(),
        }
    }
}

impl Default for Loss {
    fn default() -> Self {
        Self::Random(0.0)
    }
}

impl From<f64> for Loss {
    fn from(probability: f64) -> Self {
        Self::Random(probability)
    }
}

/// The chances of one link.
#[derive(Clone, Debug)]
pub(super) struct LossProcess {
    loss: Rng,
    change: Rng,
    is_bad: bool,
}

impl LossProcess {
    pub(super) fn new(loss: Rng, change: Rng) -> Self {
        Self { loss, change, is_bad: false }
    }

    /// Whether the next packet is lost. Draws as often whatever the model, so that another one shifts no chances.
    pub(super) fn takes(&mut self, model: &Loss) -> bool {
        let change = self.change.unit();
        let probability = match model {
            Loss::Random(probability) => *probability,
            Loss::Bursty(model) => {
                let changes = if self.is_bad { model.bad_to_good } else { model.good_to_bad };
                self.is_bad ^= change < changes;
                if self.is_bad { model.loss_in_bad } else { model.loss_in_good }
            }
        };
        self.loss.chance(probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netsim::testing::expect_share, rng::for_seeds};

    const COUNT: u64 = 200_000;

    fn losses(model: Loss, seed: u64) -> Vec<bool> {
        let mut process = LossProcess::new(Rng::stream(seed, 1), Rng::stream(seed, 2));
        (0..COUNT).map(|_| process.takes(&model)).collect()
    }

    fn count(losses: &[bool]) -> u64 {
        losses.iter().filter(|lost| **lost).count() as u64
    }

    /// How much wider the number of losses is spread than that of independent ones: the states of successive packets
    /// correlate by 1 - p - r.
    fn spread(model: &GilbertElliott) -> f64 {
        let correlation = 1.0 - model.good_to_bad - model.bad_to_good;
        ((1.0 + correlation) / (1.0 - correlation)).sqrt()
    }

    #[test]
    fn random_loss_takes_its_share_of_packets() {
        for_seeds(5, |seed| {
            for share in [0.0, 0.001, 0.02, 0.1, 0.3, 1.0] {
                expect_share("lost", count(&losses(share.into(), seed)), COUNT, share, 1.0);
            }
        });
    }

    #[test]
    fn random_losses_do_not_depend_on_each_other() {
        for_seeds(5, |seed| {
            let losses = losses(0.2.into(), seed);
            let pairs = losses.windows(2).filter(|pair| pair[0] && pair[1]).count() as u64;
            // Pairs overlap, so their number is spread a little more.
            expect_share("lost in a row", pairs, COUNT - 1, 0.04, 1.2);
        });
    }

    #[test]
    fn bursty_loss_has_its_mean_and_runs_of_its_length_which_is_geometric() {
        for_seeds(5, |seed| {
            for (mean, burst) in [(0.01, 3.0), (0.02, 8.0), (0.1, 1.5), (0.3, 20.0)] {
                let model = GilbertElliott::from_mean(mean, burst);
                let losses = losses(Loss::Bursty(model), seed);
                expect_share("lost", count(&losses), COUNT, mean, spread(&model));
                let runs: Vec<u64> =
                    losses.chunk_by(|a, b| a == b).filter(|run| run[0]).map(|run| run.len() as u64).collect();
                let all = runs.len() as f64;
                let length = runs.iter().sum::<u64>() as f64 / all;
                let deviation = (burst * (burst - 1.0) / all).sqrt();
                assert!((length - burst).abs() < 6.0 * deviation, "{mean} {burst}: runs of {length}");
                for more in [1, 2, 4, 8, 16] {
                    let longer = runs.iter().filter(|length| **length > more).count() as u64;
                    let share = (1.0 - 1.0 / burst).powi(more as i32);
                    expect_share(
                        &format!("{burst}: longer than {more}"),
                        longer,
                        runs.len() as u64,
                        share,
                        1.0,
                    );
                }
            }
        });
    }

    #[test]
    fn losses_of_a_burst_of_one_stand_alone() {
        let losses = losses(Loss::Bursty(GilbertElliott::from_mean(0.05, 1.0)), 3);
        assert!(losses.windows(2).all(|pair| !(pair[0] && pair[1])));
        expect_share("lost", count(&losses), COUNT, 0.05, 1.0);
    }

    #[test]
    fn the_full_model_loses_in_both_of_its_states() {
        let model =
            GilbertElliott { good_to_bad: 0.02, bad_to_good: 0.1, loss_in_good: 0.01, loss_in_bad: 0.6 };
        assert!((model.mean() - (0.01 * 5.0 + 0.6) / 6.0).abs() < 1e-12);
        for_seeds(5, |seed| {
            let losses = losses(Loss::Bursty(model), seed);
            expect_share("lost", count(&losses), COUNT, model.mean(), spread(&model));
            // After a loss, the state is bad with the probability 0.6 / 0.65 (Bayes), and then changes or not.
            let bad = 0.6 / 0.65;
            let after = bad * (0.9 * 0.6 + 0.1 * 0.01) + (1.0 - bad) * (0.02 * 0.6 + 0.98 * 0.01);
            let pairs = losses.windows(2).filter(|pair| pair[0] && pair[1]).count() as u64;
            expect_share("lost after a loss", pairs, count(&losses), after, 3.0);
        });
    }

    #[test]
    fn another_model_shifts_no_chances() {
        let mut process = LossProcess::new(Rng::new(1), Rng::new(2));
        let mut other = process.clone();
        for number in 0..1_000 {
            process.takes(&Loss::Random(0.5));
            other.takes(&Loss::Bursty(GilbertElliott::from_mean(0.1, 2.0)));
            if number % 100 == 99 {
                other.is_bad = false;
                let same: Vec<bool> = (0..20).map(|_| process.takes(&0.5.into())).collect();
                assert!(same.iter().all(|lost| other.takes(&0.5.into()) == *lost));
            }
        }
    }
}
