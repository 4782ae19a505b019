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
