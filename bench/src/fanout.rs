//! What a delivered message costs: one sends, ten, fifty or a hundred receive.
//!
//! A burst is handed over back to back, and the next one a moment after the last message of it has arrived: no arm is
//! ever saturated, and each burst finds the arm asleep, as single messages do in life.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::{
    Depth,
    arm::{Arm, Kind},
    client::{Bare, Browser, Burst, Client, Datagrams, Lane, Stream, Swarm},
    report::{Report, Row, median},
};

const RECEIVERS: [usize; 3] = [10, 50, 100];
/// Rounds of [`overhead`] for each of the others: it is about single hundredths.
const OVERHEAD_ROUNDS: usize = 4;
/// Between bursts.
const PAUSE: Duration = Duration::from_micros(500);
/// After the last burst: for acknowledgements.
const SETTLE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(5);
/// Lossy messages that have not come after so long are lost.
const LOST: Duration = Duration::from_secs(2);

/// An arm and its clients, the first of which sends. There are no others: what idle clients cost is another row.
struct Contender {
    arm: Arm,
    swarm: Swarm,
}

/// Over data channels.
pub(crate) async fn data(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &count in receivers(depth) {
        let bursts = data_bursts(depth).into_iter().map(|burst| (name("data", count, burst), burst));
        let bursts: Vec<_> = bursts.filter(|(name, _)| wanted(name)).collect();
        if bursts.is_empty() {
            continue;
        }
        let mut contenders = [
            Contender::new(Kind::Switchyard)?,
            Contender::new(Kind::Engine)?,
            Contender::new(Kind::Datagrams)?,
        ];
        for member in 0..=count {
            let [switchyard, engine, floor] = &mut contenders;
            let user = format!("u{member}");
            let browser = Browser::connect(switchyard.arm.port, "bench", &user, true).await?;
            switchyard.swarm.clients.push(Box::new(browser));
            engine.swarm.clients.push(Box::new(Bare::connect(&mut engine.arm, 0)?));
            floor.swarm.clients.push(Box::new(Datagrams::connect(&mut floor.arm, 0)?));
            glance(&mut contenders)?;
        }
        ready(&mut contenders).await?;
        for (name, burst) in bursts {
            let cost = compare(rounds(depth), &mut contenders, burst).await?;
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
    Ok(())
}

/// Over WebSockets.
pub(crate) async fn websocket(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &count in receivers(depth) {
        let bursts = socket_bursts(depth).into_iter().map(|burst| (name("websocket", count, burst), burst));
        let bursts: Vec<_> = bursts.filter(|(name, _)| wanted(name)).collect();
        if bursts.is_empty() {
            continue;
        }
        let mut contenders = [Contender::new(Kind::Switchyard)?, Contender::new(Kind::Writes)?];
        for member in 0..=count {
            let [switchyard, floor] = &mut contenders;
            let user = format!("u{member}");
            let browser = Browser::connect(switchyard.arm.port, "bench", &user, false).await?;
            switchyard.swarm.clients.push(Box::new(browser));
            floor.swarm.clients.push(Box::new(Stream::connect(&floor.arm, 0).await?));
            glance(&mut contenders)?;
        }
        ready(&mut contenders).await?;
        for (name, burst) in bursts {
            let cost = compare(rounds(depth), &mut contenders, burst).await?;
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
    Ok(())
}

/// The same messages to servers over WebSockets: one with all that is not the WebSocket switched off, one without it, and
/// one in which it is there and idle.
pub(crate) async fn overhead(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let bursts = [(64, 1), (64, 16), (1024, 16)];
    let bursts = bursts.map(|(size, count)| Burst { lane: Lane::Reliable, size, count });
    let named = |burst| (name("overhead", 10, burst), burst);
    let bursts: Vec<_> = bursts.into_iter().map(named).filter(|(name, _)| wanted(name)).collect();
    if bursts.is_empty() {
        return Ok(());
    }
    let mut contenders = Vec::new();
    for kind in [Kind::Without, Kind::Off, Kind::Switchyard] {
        let mut contender = Contender::new(kind)?;
        for member in 0..=10 {
            let browser = Browser::connect(contender.arm.port, "bench", &format!("u{member}"), false).await?;
            contender.swarm.clients.push(Box::new(browser));
        }
        contenders.push(contender);
        glance(&mut contenders)?;
    }
    ready(&mut contenders).await?;
    for (name, burst) in bursts {
        let cost = compare(rounds(depth) * OVERHEAD_ROUNDS, &mut contenders, burst).await?;
        for (index, of) in [(1, "off"), (2, "idle")] {
            report.add(Row {
                name: format!("{name}/{of}"),
                value: cost.microseconds[index],
                unit: "µs/delivery",
                engine_ratio: None,
                floor_ratio: None,
                // Of the first to this one; so it is this one's to the first.
                peer_ratio: Some(1.0 / cost.ratios[index]),
            });
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

/// Messages singly, and as many as a busy room sends at once.
fn data_bursts(depth: Depth) -> Vec<Burst> {
    let all = [(64, 1), (64, 16), (1024, 1), (1024, 16), (16 * 1024, 1), (16 * 1024, 4)];
    let some = if depth == Depth::Full { &all[..] } else { &all[..4] };
    let both = some.iter().flat_map(|&(size, count)| {
        // A lossy message is at most 15 KiB long.
        let lossy = Burst { lane: Lane::Lossy, size: size.min(15 * 1024), count };
        [Burst { lane: Lane::Reliable, size, count }, lossy]
    });
    both.collect()
}

/// The same, and as many as make a server merge all that it can.
fn socket_bursts(depth: Depth) -> Vec<Burst> {
    let all =
        [(64, 1), (64, 16), (64, 256), (1024, 1), (1024, 16), (1024, 256), (16 * 1024, 1), (16 * 1024, 4)];
    let some = if depth == Depth::Full { &all[..] } else { &all[..3] };
    some.iter().map(|&(size, count)| Burst { lane: Lane::Reliable, size, count }).collect()
}

fn name(rung: &str, receivers: usize, burst: Burst) -> String {
    let lane = if burst.lane == Lane::Lossy { "lossy" } else { "reliable" };
    format!("{rung}/{lane}/1-{receivers}/{}/burst-{}", bytes(burst.size), burst.count)
}

fn bytes(size: usize) -> String {
    if size < 1024 { format!("{size}B") } else { format!("{}KiB", size / 1024) }
}

impl Contender {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self { arm: Arm::start(kind)?, swarm: Swarm::new() })
    }
}

/// Nobody is left alone for long: a client that is silent would be given up.
fn glance(contenders: &mut [Contender]) -> anyhow::Result<()> {
    contenders.iter_mut().try_for_each(|contender| contender.swarm.glance())
}

/// Waits until everybody is ready.
async fn ready(contenders: &mut [Contender]) -> anyhow::Result<()> {
    for _ in 0..600 {
        let mut all_ready = true;
        for contender in &mut *contenders {
            let all = |clients: &[Box<dyn Client>]| clients.iter().all(|client| client.is_ready());
            all_ready &= contender.swarm.drive(Duration::from_millis(50), all).await?;
        }
        if all_ready {
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
pub(crate) fn rounds(depth: Depth) -> usize {
    let asked = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(if depth == Depth::Full { 7 } else { 1 })
}

/// Measures the contenders in turn, round by round.
async fn compare(rounds: usize, contenders: &mut [Contender], burst: Burst) -> anyhow::Result<Cost> {
    let mut costs = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (index, costs) in costs.iter_mut().enumerate() {
            glance(contenders)?;
            let contender = &mut contenders[index];
            let receivers = contender.swarm.clients.len() - 1;
            let wanted = if burst.size > 4096 { 600 } else { 3000 };
            let bursts = if round == 0 { 2 } else { (wanted / (receivers * burst.count)).clamp(3, 60) };
            let cost =
                measure(contender, burst, bursts).await.with_context(|| format!("arm {index}, {burst:?}"))?;
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
async fn measure(contender: &mut Contender, burst: Burst, bursts: usize) -> anyhow::Result<f64> {
    let swarm = &mut contender.swarm;
    let receivers = swarm.clients.len() - 1;
    let before = contender.arm.cpu()?;
    let mut lost = 0;
    for _ in 0..bursts {
        let expected = swarm.clients[0].expects(burst) * receivers as u64;
        let target = Swarm::received(&swarm.clients) + expected;
        swarm.clients[0].send(burst)?;
        let patience = if burst.lane == Lane::Lossy { LOST } else { PATIENCE };
        let complete = |clients: &[Box<dyn Client>]| Swarm::received(clients) >= target;
        if !swarm.drive(patience, complete).await? {
            let missing = target - Swarm::received(&swarm.clients);
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
