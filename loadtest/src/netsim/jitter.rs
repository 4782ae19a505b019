//! How the delay varies.

use std::time::Duration;

use crate::rng::Rng;

/// What is added to a link's delay, packet by packet. One number is drawn for each packet, whatever the distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Evenly between nothing and this. Mean and median are half of it.
    Uniform(Duration),
    /// Normally distributed. What would fall below 0 is 0, and nothing lies above the mean plus four deviations.
    /// With a mean of at least two deviations, mean and median are as given, and 97.7 % lie below the mean plus two
    /// deviations.
    Normal {
        /// The mean.
        mean: Duration,
        /// The standard deviation.
        deviation: Duration,
    },
    /// A heavy tail: Lomax (Pareto type II) of shape 2.5, cut at 100 times the mean, which 1 packet in 38,000 meets.
    /// The median is 0.48 of the mean, the 90th percentile 2.27, the 99th 7.96, and 1 packet in 1,000 is
    /// above 22.3 times the mean.
    Pareto {
        /// The mean.
        mean: Duration,
    },
}

const SHAPE: f64 = 2.5;
const LONGEST: u32 = 100;
const DEVIATIONS: u32 = 4;

impl Jitter {
    /// The delay that a fraction `p` of packets stays below, `p` from 0 to below 1.
    fn quantile(&self, p: f64) -> Duration {
        match self {
            Self::Uniform(most) => most.mul_f64(p),
            Self::Normal { mean, deviation } => {
                let z = normal_quantile(p).min(f64::from(DEVIATIONS));
                let seconds = mean.as_secs_f64() + deviation.as_secs_f64() * z;
                Duration::from_secs_f64(seconds.max(0.0))
            }
            Self::Pareto { mean } => {
                let scale = SHAPE - 1.0;
                let times = scale * ((1.0 - p).powf(-1.0 / SHAPE) - 1.0);
                mean.mul_f64(times.min(f64::from(LONGEST)))
            }
        }
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> Duration {
        match self {
            // In whole nanoseconds, the end included.
            Self::Uniform(most) => {
                let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
                Duration::from_nanos(rng.below(nanos.saturating_add(1)))
            }
            _ => self.quantile(rng.unit()),
        }
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self::Uniform(Duration::ZERO)
    }
}

impl From<Duration> for Jitter {
    fn from(most: Duration) -> Self {
        Self::Uniform(most)
    }
}

/// The inverse of the normal distribution function: Acklam's rational approximation, relative error below 1.2e-9.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e+01,
        2.209460984245205e+02,
        -2.759285104469687e+02,
        1.383_577_518_672_69e2,
        -3.066479806614716e+01,
        2.506628277459239e+00,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e+01,
        1.615858368580409e+02,
        -1.556989798598866e+02,
        6.680131188771972e+01,
        -1.328068155288572e+01,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-03,
        -3.223964580411365e-01,
        -2.400758277161838e+00,
        -2.549732539343734e+00,
        4.374664141464968e+00,
        2.938163982698783e+00,
    ];
    const D: [f64; 5] =
        [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00, 1.0];
    const TAIL: f64 = 0.02425;
    let polynomial = |factors: &[f64], x: f64| factors.iter().fold(0.0, |sum, factor| sum * x + factor);
    if p < TAIL {
        let q = (-2.0 * p.max(f64::MIN_POSITIVE).ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    } else if p <= 1.0 - TAIL {
        let q = p - 0.5;
        polynomial(&A, q * q) * q / polynomial(&B, q * q)
    } else {
        -normal_quantile(1.0 - p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netsim::testing::{MS, expect_share},
        rng::for_seeds,
    };

    const COUNT: u64 = 200_000;

    fn draws(jitter: Jitter, seed: u64) -> Vec<Duration> {
        let mut rng = Rng::new(seed);
        (0..COUNT).map(|_| jitter.draw(&mut rng)).collect()
    }

    fn mean(draws: &[Duration]) -> f64 {
        draws.iter().map(Duration::as_secs_f64).sum::<f64>() / draws.len() as f64
    }

    /// Holds the draws against the share that must be at or below each delay, in milliseconds.
    fn expect_quantiles(draws: &[Duration], quantiles: &[(f64, f64)]) {
        for (share, milliseconds) in quantiles {
            let below = draws.iter().filter(|draw| draw.as_secs_f64() * 1e3 <= *milliseconds).count() as u64;
            expect_share(&format!("up to {milliseconds} ms"), below, COUNT, *share, 1.0);
        }
    }

    #[test]
    fn even_jitter_is_spread_evenly_up_to_its_end() {
        for_seeds(5, |seed| {
            let draws = draws(Jitter::Uniform(20 * MS), seed);
            expect_quantiles(&draws, &[(0.1, 2.0), (0.25, 5.0), (0.5, 10.0), (0.9, 18.0), (1.0, 20.0)]);
        });
    }

    /// The quantiles are from a table of the normal distribution.
    #[test]
    fn normal_jitter_has_its_mean_and_deviation_and_ends_at_four_of_them() {
        for_seeds(5, |seed| {
            let draws = draws(Jitter::Normal { mean: 50 * MS, deviation: 10 * MS }, seed);
            let quantiles = [
                (0.001_35, 20.0),
                (0.022_75, 30.0),
                (0.158_66, 40.0),
                (0.5, 50.0),
                (0.75, 56.745),
                (0.9, 62.816),
            ];
            expect_quantiles(&draws, &quantiles);
            expect_quantiles(&draws, &[(0.977_25, 70.0), (0.99, 73.263), (0.998_65, 80.0), (1.0, 90.0)]);
            assert!((mean(&draws) - 0.05).abs() < 6.0 * 0.01 / (COUNT as f64).sqrt());
        });
    }

    #[test]
    fn normal_jitter_is_never_less_than_nothing() {
        let draws = draws(Jitter::Normal { mean: 5 * MS, deviation: 10 * MS }, 1);
        let none = draws.iter().filter(|draw| draw.is_zero()).count() as u64;
        expect_share("not delayed", none, COUNT, 0.308_54, 1.0);
    }

    /// The quantiles are those that the type's documentation gives.
    #[test]
    fn a_heavy_tail_has_its_mean_and_its_percentiles() {
        for_seeds(5, |seed| {
            let draws = draws(Jitter::Pareto { mean: 10 * MS }, seed);
            let quantiles = [(0.5, 4.793), (0.9, 22.678), (0.99, 79.644), (0.999, 222.73), (1.0, 1000.0)];
            expect_quantiles(&draws, &quantiles);
            // The deviation is √5 means; the cut takes 0.2 % off the mean.
            let tolerance = 0.01 * (0.002 + 6.0 * 5f64.sqrt() / (COUNT as f64).sqrt());
            assert!((mean(&draws) - 0.01).abs() < tolerance, "{}", mean(&draws));
        });
    }

    #[test]
    fn one_number_is_drawn_whatever_the_distribution() {
        let kinds = [
            Jitter::default(),
            Jitter::Uniform(5 * MS),
            Jitter::Normal { mean: 5 * MS, deviation: MS },
            Jitter::Pareto { mean: MS },
        ];
        for kind in kinds {
            let (mut rng, mut plain) = (Rng::new(5), Rng::new(5));
            kind.draw(&mut rng);
            plain.next_u64();
            assert_eq!(rng.next_u64(), plain.next_u64(), "{kind:?}");
        }
    }
}
