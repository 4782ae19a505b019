//! Acknowledged messages a second: every writer keeps so many unanswered.

use std::time::{Duration, Instant};

use super::{Contender, name, row, shapes};
use crate::{
    Depth,
    arm::Kind,
    client::Shape,
    report::{Report, median},
};

/// Of one round, after the begin of it.
const MEASURED: Duration = Duration::from_secs(2);
/// From the begin of writing until it goes evenly.
const BEGIN: Duration = Duration::from_millis(700);

/// What one round says.
#[derive(Clone, Copy)]
struct Round {
    /// Messages acknowledged in a second.
    rate: f64,
    /// CPU time in microseconds, for each of them.
    cpu: f64,
}

pub(super) async fn measure(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rounds = if depth == Depth::Full { 5 } else { 1 };
    for shape in shapes(depth) {
        let name = format!("log/throughput/{}", name(shape));
        if !wanted(&name) {
            continue;
        }
        let mut ours = Contender::new(Kind::Switchyard, shape, false).await?;
        let mut floor = Contender::new(Kind::Appends, shape, false).await?;
        let mut results = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (contender, results) in [&mut ours, &mut floor].into_iter().zip(&mut results) {
                results.push(round(contender, window(shape)).await?);
            }
        }
        let [ours, floor] = results;
        let of = |figure: fn(&Round) -> f64| median(ours.iter().map(figure).collect());
        let ratio = |figure: fn(&Round) -> f64, inverse: bool| {
            let ratios = ours.iter().zip(&floor).map(|(ours, floor)| {
                let ratio = figure(ours) / figure(floor);
                if inverse { 1.0 / ratio } else { ratio }
            });
            Some(median(ratios.collect()))
        };
        let (rate, cpu) = (of(|round| round.rate), of(|round| round.cpu));
        let cpu_ratio = ratio(|round| round.cpu, false);
        report.add(row(format!("{name}/rate"), rate, "messages/s", ratio(|round| round.rate, true)));
        report.add(row(format!("{name}/cpu"), cpu, "µs/message", cpu_ratio));
        let delivery = cpu / shape.members as f64;
        report.add(row(format!("{name}/cpu-delivery"), delivery, "µs/delivery", cpu_ratio));
    }
    Ok(())
}

/// Unanswered messages of each writer: enough that a sync always has some to carry, and that a room's batches do not run
/// into what a room takes undecided.
fn window(shape: Shape) -> usize {
    if shape.rooms > 1 { 8 } else { 32 }
}

async fn round(contender: &mut Contender, window: usize) -> anyhow::Result<Round> {
    let Contender { crowd, arm, .. } = contender;
    crowd.write(window);
    crowd.sleep(BEGIN).await?;
    let (start, before, cpu) = (Instant::now(), crowd.tally(), arm.cpu()?);
    crowd.sleep(MEASURED).await?;
    let (time, after, cpu) = (start.elapsed(), crowd.tally(), arm.cpu()? - cpu);
    crowd.settle().await?;
    let messages = (after.acknowledged - before.acknowledged) as f64;
    Ok(Round { rate: messages / time.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / messages })
}
