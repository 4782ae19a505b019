//! What a delivered message costs: one sends, ten, fifty or a hundred receive.
//!
//! A burst is handed over back to back, and the next one a moment after the last message of it has arrived: no arm is
//! ever saturated, and each burst finds the arm asleep, as single messages do in life.

use std::{ops::Range, time::Duration};

use anyhow::{Context as _, bail, ensure};

use crate::{
    Depth,
    arm::{Arm, Kind},
    client::{Bare, Browser, Burst, Client, Datagrams, Lane, Stream, Swarm},
    report::{Report, Row, median},
};

const RECEIVERS: [usize; 3] = [10, 50, 100];
/// Between bursts.
const PAUSE: Duration = Duration::from_micros(500);
/// After the last burst: for acknowledgements.
const SETTLE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(5);
/// Lossy messages that have not come after so long are lost.
const LOST: Duration = Duration::from_millis(300);

/// An arm and its clients: groups of them, one for each number of receivers. The first of a group sends.
struct Contender {
    arm: Arm,
    swarm: Swarm,
    groups: Vec<Range<usize>>,
}

/// Over data channels.
pub(crate) async fn data(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let receivers = receivers(depth);
    let mut contenders =
        [Contender::new(Kind::Switchyard), Contender::new(Kind::Engine), Contender::new(Kind::Datagrams)]
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?;
    for (group, &count) in receivers.iter().enumerate() {
        for member in 0..=count {
            let [switchyard, engine, floor] = &mut contenders[..] else {
                bail!("three arms");
            };
            let room = format!("bench-{group}");
            let browser = Browser::connect(switchyard.arm.port, &room, &format!("u{member}"), true).await?;
            let bare = Bare::connect(&mut engine.arm, group)?;
            let datagrams = Datagrams::connect(&mut floor.arm, group)?;
            switchyard.swarm.clients.push(Box::new(browser));
            engine.swarm.clients.push(Box::new(bare));
            floor.swarm.clients.push(Box::new(datagrams));
            glance(&mut contenders)?;
        }
        ready(&mut contenders, count + 1).await?;
    }
    for (group, &count) in receivers.iter().enumerate() {
        for (size, bursts) in sizes(depth) {
            for lane in [Lane::Reliable, Lane::Lossy] {
                for burst in bursts {
                    // A lossy message is at most 15 KiB long.
                    let size = if lane == Lane::Lossy { size.min(15 * 1024) } else { size };
                    let burst = Burst { lane, size, count: burst };
                    let lane = if lane == Lane::Lossy { "lossy" } else { "reliable" };
                    let name = format!("data/{lane}/1-{count}/{}/burst-{}", bytes(size), burst.count);
                    if !wanted(&name) {
                        continue;
                    }
                    let cost = compare(depth, &mut contenders, group, burst).await?;
                    report.add(Row {
                        name,
                        value: cost.microseconds[0],
                        unit: "µs/delivery",
                        engine_ratio: Some(cost.ratios[1]),
                        floor_ratio: Some(cost.ratios[2]),
                        peer_ratio: None,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Over WebSockets.
pub(crate) async fn websocket(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let receivers = receivers(depth);
    let mut contenders = [Contender::new(Kind::Switchyard), Contender::new(Kind::Writes)]
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (group, &count) in receivers.iter().enumerate() {
        for member in 0..=count {
            let [switchyard, floor] = &mut contenders[..] else {
                bail!("two arms");
            };
            let room = format!("bench-{group}");
            let browser = Browser::connect(switchyard.arm.port, &room, &format!("u{member}"), false).await?;
            let stream = Stream::connect(&floor.arm, group as u8).await?;
            switchyard.swarm.clients.push(Box::new(browser));
            floor.swarm.clients.push(Box::new(stream));
            glance(&mut contenders)?;
        }
        ready(&mut contenders, count + 1).await?;
    }
    for (group, &count) in receivers.iter().enumerate() {
        for (size, bursts) in websocket_sizes(depth) {
            for &burst in bursts {
                let burst = Burst { lane: Lane::Reliable, size, count: burst };
                let name = format!("websocket/reliable/1-{count}/{}/burst-{}", bytes(size), burst.count);
                if !wanted(&name) {
                    continue;
                }
                let cost = compare(depth, &mut contenders, group, burst).await?;
                report.add(Row {
                    name,
                    value: cost.microseconds[0],
                    unit: "µs/delivery",
                    engine_ratio: None,
                    floor_ratio: Some(cost.ratios[1]),
                    peer_ratio: None,
                });
            }
        }
    }
    Ok(())
}

fn receivers(depth: Depth) -> &'static [usize] {
    match depth {
        Depth::Full => &RECEIVERS,
        Depth::Quick => &RECEIVERS[..2],
    }
}

/// Sizes of messages and of bursts: singly, and as many as a busy room sends at once.
fn sizes(depth: Depth) -> Vec<(usize, [usize; 2])> {
    let all = vec![(64, [1, 16]), (1024, [1, 16]), (16 * 1024, [1, 4])];
    match depth {
        Depth::Full => all,
        Depth::Quick => all[..2].to_vec(),
    }
}

fn websocket_sizes(depth: Depth) -> Vec<(usize, &'static [usize])> {
    let all: Vec<(usize, &[usize])> = vec![(64, &[1, 16, 256]), (1024, &[1, 16, 256]), (16 * 1024, &[1, 4])];
    match depth {
        Depth::Full => all,
        Depth::Quick => all[..1].to_vec(),
    }
}

fn bytes(size: usize) -> String {
    if size < 1024 { format!("{size}B") } else { format!("{}KiB", size / 1024) }
}

impl Contender {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self { arm: Arm::start(kind)?, swarm: Swarm::new(), groups: Vec::new() })
    }
}

/// Nobody is left alone for long: a client that is silent would be given up.
fn glance(contenders: &mut [Contender]) -> anyhow::Result<()> {
    contenders.iter_mut().try_for_each(|contender| contender.swarm.glance())
}

/// Waits until everybody is ready; the last `count` clients of each are a group.
async fn ready(contenders: &mut [Contender], count: usize) -> anyhow::Result<()> {
    for _ in 0..600 {
        let mut all_ready = true;
        for contender in &mut *contenders {
            let all = |clients: &[Box<dyn Client>]| clients.iter().all(|client| client.is_ready());
            all_ready &= contender.swarm.drive(Duration::from_millis(50), all).await?;
        }
        if all_ready {
            for Contender { swarm, groups, .. } in contenders {
                groups.push(swarm.clients.len() - count..swarm.clients.len());
            }
            return Ok(());
        }
    }
    bail!("not all clients are ready in time")
}

struct Cost {
    /// Of each contender, the least of all rounds.
    microseconds: Vec<f64>,
    /// Of the first contender to each, the median of all rounds.
    ratios: Vec<f64>,
}

/// As many as `ROUNDS` says, to watch one row for long, as a profiler does.
fn rounds(depth: Depth) -> usize {
    let asked = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(if depth == Depth::Full { 7 } else { 1 })
}

/// Measures the contenders in turn, round by round.
async fn compare(
    depth: Depth,
    contenders: &mut [Contender],
    group: usize,
    burst: Burst,
) -> anyhow::Result<Cost> {
    let rounds = rounds(depth);
    let mut costs = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (index, costs) in costs.iter_mut().enumerate() {
            glance(contenders)?;
            let contender = &mut contenders[index];
            let receivers = contender.groups[group].len() - 1;
            let wanted = if burst.size > 4096 { 600 } else { 3000 };
            let bursts = if round == 0 { 2 } else { (wanted / (receivers * burst.count)).clamp(3, 60) };
            let cost = measure(contender, group, burst, bursts)
                .await
                .with_context(|| format!("arm {index}, {burst:?}"))?;
            // The first round warms caches and windows.
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let ratios = costs.iter().map(|of| {
        let ratios = costs[0].iter().zip(of).map(|(first, other)| first / other);
        median(ratios.collect())
    });
    Ok(Cost {
        ratios: ratios.collect(),
        microseconds: costs.iter().map(|costs| costs.iter().copied().fold(f64::INFINITY, f64::min)).collect(),
    })
}

/// CPU time of the arm per delivered message, in microseconds.
async fn measure(
    contender: &mut Contender,
    group: usize,
    burst: Burst,
    bursts: usize,
) -> anyhow::Result<f64> {
    let members = contender.groups[group].clone();
    let receivers = members.len() - 1;
    let swarm = &mut contender.swarm;
    let before = contender.arm.cpu()?;
    let mut lost = 0;
    for _ in 0..bursts {
        let expected = swarm.clients[members.start].expects(burst) * receivers as u64;
        let target = Swarm::received(&swarm.clients[members.clone()]) + expected;
        swarm.clients[members.start].send(burst)?;
        let patience = if burst.lane == Lane::Lossy { LOST } else { PATIENCE };
        let complete = |clients: &[Box<dyn Client>]| Swarm::received(&clients[members.clone()]) >= target;
        if !swarm.drive(patience, complete).await? {
            let missing = target - Swarm::received(&swarm.clients[members.clone()]);
            ensure!(
                burst.lane == Lane::Lossy,
                "{missing} of {expected} did not arrive: a benchmark that drops is void"
            );
            lost += missing;
        }
        swarm.drive(PAUSE, |_| false).await?;
    }
    swarm.drive(SETTLE, |_| false).await?;
    let used = contender.arm.cpu()? - before;
    let sent = bursts * burst.count * receivers;
    ensure!(
        lost as usize * 100 <= sent,
        "{lost} of {sent} lossy messages were lost, more than one in a hundred"
    );
    Ok(used.as_secs_f64() * 1e6 / (sent as f64 - lost as f64))
}
