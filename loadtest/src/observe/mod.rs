//! What the server and this program use while a run lasts: a look each second, and what the looks come to.
//!
//! The server's process is looked at only if it runs on this machine; its `/metrics`, wherever it is, when the hold
//! begins and when it ends. Nothing here decides about the run: a figure that cannot be had is missing, and the report
//! says why.

pub mod process;
mod prometheus;

use std::{collections::BTreeMap, time::Duration};

use crate::{figures, observe::process::Usage, target::Target};

/// Values of metrics by name.
pub type Metrics = BTreeMap<String, f64>;

/// One look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Since the run began.
    pub at: Duration,
    /// The server's process, and what it has used.
    pub server: Option<(u32, Usage)>,
    /// What this program has used.
    pub own: Usage,
    /// CPU seconds of its threads, by their ids.
    pub own_threads: BTreeMap<u32, f64>,
}

/// What the last second has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// The server's share of a core.
    pub server_cpu: Option<f64>,
    /// The server's resident memory.
    pub server_rss_bytes: Option<u64>,
    /// This program's share of a core.
    pub own_cpu: Option<f64>,
    /// The busiest of its threads' share of a core.
    pub busiest_thread_share: f64,
}

/// All looks of a run.
#[derive(Debug, Default)]
pub struct Looks {
    looks: Vec<Look>,
    metrics: Option<(Metrics, Metrics)>,
}

/// Looks at the server's process and at this one.
pub fn look(at: Duration, server: Option<u32>) -> Look {
    Look {
        at,
        server: server.and_then(|pid| Some((pid, process::usage(pid)?))),
        own: process::usage(std::process::id()).unwrap_or_default(),
        own_threads: process::own_threads(),
    }
}

/// The server's process, if it is on this machine and may be looked at.
pub fn find_server(target: &Target) -> Option<u32> {
    process::is_own(target.address().ip()).then(|| process::listener(target.address())).flatten()
}

/// The server's metrics, if it shows them.
pub async fn metrics(target: &Target) -> Option<Metrics> {
    let (status, body) = target.get("/metrics").await.ok()?;
    (status == 200).then(|| prometheus::read(&String::from_utf8_lossy(&body)))
}

impl Looks {
    /// Adds a look, and says what the time since the one before has used.
    pub fn push(&mut self, look: Look) -> Recent {
        let recent = self.looks.last().map_or_else(Recent::default, |before| {
            let span = (look.at - before.at).as_secs_f64();
            let share = |(from, to): (f64, f64)| (to - from).max(0.0) / span;
            Recent {
                server_cpu: same_process(before, &look).map(share),
                server_rss_bytes: look.server.map(|(_, usage)| usage.rss_bytes),
                own_cpu: Some(share((before.own.cpu_s, look.own.cpu_s))),
                busiest_thread_share: busiest(before, &look) / span,
            }
        });
        self.looks.push(look);
        recent
    }

    /// The metrics when the hold began and when it ended.
    pub fn set_metrics(&mut self, begin: Option<Metrics>, end: Option<Metrics>) {
        self.metrics = begin.zip(end);
    }

    /// The server's figures of the hold, in which `delivered` messages were received.
    pub fn server(&self, hold: (Duration, Duration), delivered: u64) -> figures::Server {
        let looks = self.within(hold);
        let seen: Vec<(f64, Usage)> =
            looks.iter().filter_map(|look| Some((look.at.as_secs_f64(), look.server?.1))).collect();
        // A server that was restarted is another process: each adds what it has used itself.
        let cpu_s: f64 = looks
            .windows(2)
            .map(|pair| match (same_process(&pair[0], &pair[1]), pair[1].server) {
                (Some((from, to)), _) => to - from,
                (None, Some((_, usage))) if pair[0].server.is_some() => usage.cpu_s,
                _ => 0.0,
            })
            .sum();
        let (cpu_s, is_seen) = (cpu_s.max(0.0), seen.len() >= 2);
        let half: Vec<_> =
            seen.iter().skip(seen.len() / 2).map(|(at, usage)| (*at, usage.rss_bytes as f64)).collect();
        let unavailable = match (is_seen, &self.metrics) {
            (true, _) => None,
            (false, Some(_)) => Some("the server's process is not on this machine, or not to be looked at"),
            (false, None) => Some("neither the server's process nor its /metrics can be looked at"),
        };
        figures::Server {
            pid: looks.iter().rev().find_map(|look| Some(look.server?.0)),
            cpu_s: is_seen.then_some(cpu_s),
            rss_begin_bytes: seen.first().map(|(_, usage)| usage.rss_bytes),
            rss_end_bytes: seen.last().map(|(_, usage)| usage.rss_bytes),
            rss_max_bytes: seen.iter().map(|(_, usage)| usage.rss_bytes).max(),
            rss_slope_bytes_per_s: slope(&half),
            cpu_us_per_delivery: (is_seen && delivered > 0).then(|| cpu_s * 1e6 / delivered as f64),
            metrics: self.metric_pairs(),
            unavailable: unavailable.map(str::to_owned),
        }
    }

    /// This program's figures of the hold; `behind` is counted elsewhere.
    pub fn harness(&self, hold: (Duration, Duration), behind: figures::Times) -> figures::Harness {
        let looks = self.within(hold);
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
            return figures::Harness { behind, ..figures::Harness::default() };
        };
        let span = (last.at - first.at).as_secs_f64();
        figures::Harness {
            threads: u32::try_from(last.own_threads.len()).unwrap_or(u32::MAX),
            cpu_s: last.own.cpu_s - first.own.cpu_s,
            busiest_thread_share: if span > 0.0 { busiest(first, last) / span } else { 0.0 },
            behind,
            rss_max_bytes: self.looks.iter().map(|look| look.own.rss_bytes).max().unwrap_or_default(),
        }
    }

    fn within(&self, (from, until): (Duration, Duration)) -> &[Look] {
        let begin = self.looks.partition_point(|look| look.at < from);
        let end = self.looks.partition_point(|look| look.at <= until);
        self.looks.get(begin..end).unwrap_or_default()
    }

    fn metric_pairs(&self) -> BTreeMap<String, (f64, f64)> {
        let Some((begin, end)) = &self.metrics else { return BTreeMap::new() };
        // A labelled series may be born in between; it was 0 then.
        let pair = |(name, to): (&String, &f64)| (name.clone(), (*begin.get(name).unwrap_or(&0.0), *to));
        end.iter().map(pair).collect()
    }
}

/// CPU seconds of the thread that has used the most between two looks.
fn busiest(before: &Look, after: &Look) -> f64 {
    let used = |(id, to): (&u32, &f64)| to - before.own_threads.get(id).unwrap_or(&0.0);
    after.own_threads.iter().map(used).fold(0.0, f64::max)
}

/// CPU seconds at both looks, if they were of the same process.
fn same_process(before: &Look, after: &Look) -> Option<(f64, f64)> {
    let ((old, from), (new, to)) = (before.server?, after.server?);
    (old == new).then_some((from.cpu_s, to.cpu_s))
}

/// The slope of the line through these points with the least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 3 {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let over: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let under: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (under > 0.0).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: u64, server: Option<(u32, f64, u64)>, own_cpu_s: f64) -> Look {
        let usage = |cpu_s, rss_bytes| Usage { cpu_s, rss_bytes };
        Look {
            at: Duration::from_secs(at),
            server: server.map(|(pid, cpu, rss)| (pid, usage(cpu, rss))),
            own: usage(own_cpu_s, 5),
            own_threads: [(1, own_cpu_s / 4.0), (2, own_cpu_s * 3.0 / 4.0)].into(),
        }
    }

    const fn seconds(from: u64, until: u64) -> (Duration, Duration) {
        (Duration::from_secs(from), Duration::from_secs(until))
    }

    #[test]
    fn the_hold_alone_counts_and_memory_that_grows_shows() {
        let mut looks = Looks::default();
        for at in 0..10 {
            let recent = looks.push(second(at, Some((7, at as f64 * 0.5, 1000 + 100 * at)), at as f64));
            let cpu = (at > 0).then_some(0.5);
            assert_eq!(recent.server_cpu, cpu);
        }
        let server = looks.server(seconds(2, 8), 1000);
        assert_eq!((server.pid, server.cpu_s), (Some(7), Some(3.0)));
        assert_eq!((server.rss_begin_bytes, server.rss_end_bytes), (Some(1200), Some(1800)));
        assert_eq!(server.cpu_us_per_delivery, Some(3000.0));
        assert!((server.rss_slope_bytes_per_s.unwrap() - 100.0).abs() < 1e-6);
        assert_eq!(server.unavailable, None);
        let harness = looks.harness(seconds(2, 8), figures::Times::default());
        assert_eq!((harness.threads, harness.cpu_s, harness.rss_max_bytes), (2, 6.0, 5));
        assert!((harness.busiest_thread_share - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_restarted_server_adds_what_its_successor_uses() {
        let mut looks = Looks::default();
        looks.push(second(0, Some((7, 10.0, 1)), 0.0));
        looks.push(second(1, Some((7, 11.0, 1)), 0.0));
        looks.push(second(2, Some((8, 0.25, 1)), 0.0));
        looks.push(second(3, Some((8, 0.75, 1)), 0.0));
        let server = looks.server(seconds(0, 3), 0);
        assert_eq!((server.pid, server.cpu_s), (Some(8), Some(1.75)));
        assert_eq!(server.cpu_us_per_delivery, None);
    }

    #[test]
    fn a_server_that_cannot_be_seen_has_no_figures_and_a_reason() {
        let mut looks = Looks::default();
        looks.push(second(0, None, 0.0));
        looks.push(second(1, None, 0.0));
        let server = looks.server(seconds(0, 1), 5);
        assert_eq!((server.cpu_s, server.rss_max_bytes), (None, None));
        assert!(server.unavailable.is_some());
        let metrics = |value| Some(Metrics::from([("up".to_owned(), value)]));
        looks.set_metrics(metrics(0.0), metrics(1.0));
        assert_eq!(looks.server(seconds(0, 1), 5).metrics["up"], (0.0, 1.0));
    }
}
