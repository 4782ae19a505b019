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
    pub fn quantile(&self, p: f64) -> Duration {
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

    /// The most that is ever added.
    pub fn longest(&self) -> Duration {
        match self {
            Self::Uniform(most) => *most,
            Self::Normal { mean, deviation } => *mean + *deviation * DEVIATIONS,
            Self::Pareto { mean } => *mean * LONGEST,
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
