//! From sending to the last receiver, at a thousand messages a second, whatever is still on its way: on this disk, and on
//! the same one slowed down.

use std::time::{Duration, Instant};

use super::{Contender, name, row, shapes};
use crate::{Depth, arm::Kind, disk, report::Report};

/// From one message to the next, all rooms together.
const EVERY: Duration = Duration::from_millis(1);
/// Before those that count.
const BEGIN: usize = 1000;

pub(super) async fn measure(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let count = if depth == Depth::Full { 4000 } else { 500 };
    for (disk, is_slowed) in [("disk", false), ("disk-4ms", true)] {
        let disk_name = format!("log/latency/{disk}");
        if !wanted(&disk_name) {
            continue;
        }
        for shape in shapes(depth) {
            let name = format!("{disk_name}/{}", name(shape));
            if !wanted(&name) {
                continue;
            }
            let syncs = disk::syncs(folder.path())?;
            let ours = run(Kind::Switchyard, shape, is_slowed, count).await?;
            let floor = run(Kind::Appends, shape, is_slowed, count).await?;
            for part in [50, 95, 99] {
                let (ours, floor) = (percentile(&ours, part), percentile(&floor, part));
                report.add(row(format!("{name}/p{part}"), ours, "ms", Some(ours / floor)));
            }
            for part in [50, 95] {
                report.add(row(format!("{name}/fdatasync-p{part}"), percentile(&syncs, part), "ms", None));
            }
        }
    }
    Ok(())
}

async fn run(
    kind: Kind,
    shape: crate::client::Shape,
    is_slowed: bool,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
    let Contender { crowd, .. } = &Contender::new(kind, shape, is_slowed).await?;
    let start = Instant::now();
    for turn in 0..BEGIN + count {
        // What is due is sent even if this program was late, and counts from when it was due.
        let due = start + EVERY * turn as u32;
        if due > Instant::now() {
            crowd.sleep(due.saturating_duration_since(Instant::now())).await?;
        }
        if turn == BEGIN {
            crowd.take_latencies();
        }
        crowd.say(turn, due);
    }
    crowd.settle().await?;
    let mut latencies = crowd.take_latencies();
    latencies.sort_unstable();
    Ok(latencies)
}

/// In milliseconds, of what is in order.
fn percentile(sorted: &[Duration], part: usize) -> f64 {
    let at = (sorted.len().saturating_sub(1)) * part / 100;
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
