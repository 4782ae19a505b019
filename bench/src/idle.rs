//! What somebody costs who only is there.

use std::time::Duration;

use crate::{
    Depth,
    arm::{Arm, Kind},
    client::{Bare, Browser, Swarm},
    report::{Report, Row},
};

/// Members of a room.
const ROOM: usize = 4;
/// Connected before the first look, so that what is made once is not counted.
const BEFORE: usize = 40;
/// For timers that follow the handshake, and for memory to be given back.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Browser,
    BrowserOnWebSocket,
    Bare,
}

/// Resident memory and CPU time of idle peers and idle WebSocket sessions.
pub(crate) async fn measure(depth: Depth, report: &mut Report) -> anyhow::Result<()> {
    let (peers, sockets) = if depth == Depth::Full { (500, 2000) } else { (60, 200) };
    let engine = of_each(Kind::Engine, Who::Bare, peers).await?;
    let switchyard = of_each(Kind::Switchyard, Who::Browser, peers).await?;
    let websocket = of_each(Kind::Switchyard, Who::BrowserOnWebSocket, sockets).await?;
    let mut row = |name: &str, value: f64, unit, engine: Option<f64>| {
        report.add(Row {
            name: format!("idle/{name}"),
            value,
            unit,
            floor_ratio: None,
            engine_ratio: engine.map(|engine| value / engine),
            peer_ratio: None,
        });
    };
    row("peer/memory", switchyard.0, "KB", Some(engine.0));
    row("peer/cpu", switchyard.1, "µs/s", Some(engine.1));
    row("websocket/memory", websocket.0, "KB", None);
    row("websocket/cpu", websocket.1, "µs/s", None);
    Ok(())
}

/// Kilobytes, and microseconds of CPU time a second, of each of `count` more clients.
async fn of_each(kind: Kind, who: Who, count: usize) -> anyhow::Result<(f64, f64)> {
    let mut arm = Arm::start(kind)?;
    let mut swarm = Swarm::new();
    connect(&mut arm, &mut swarm, who, BEFORE).await?;
    swarm.drive(SETTLE, |_| false).await?;
    let before = arm.resident()?;
    connect(&mut arm, &mut swarm, who, BEFORE + count).await?;
    swarm.drive(SETTLE, |_| false).await?;
    let memory = arm.resident()?.saturating_sub(before) as f64 / count as f64 / 1000.0;
    let cpu = arm.cpu()?;
    swarm.drive(SETTLE, |_| false).await?;
    let used = (arm.cpu()? - cpu).as_secs_f64() / SETTLE.as_secs_f64();
    Ok((memory, used * 1e6 / (BEFORE + count) as f64))
}

async fn connect(arm: &mut Arm, swarm: &mut Swarm, who: Who, count: usize) -> anyhow::Result<()> {
    for member in swarm.clients.len()..count {
        let group = member / ROOM;
        let (room, user) = (format!("idle-{group}"), format!("u{member}"));
        swarm.clients.push(match who {
            Who::Bare => Box::new(Bare::connect(arm, group)?),
            _ => {
                let channel = who == Who::Browser;
                Box::new(Browser::connect(arm.port, &room, &user, channel).await?)
            }
        });
        if member % ROOM == ROOM - 1 {
            swarm.ready().await?;
        }
    }
    swarm.ready().await
}
