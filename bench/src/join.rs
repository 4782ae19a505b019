//! What coming in costs: WebSocket, hello and join; and, in the second row, ICE, DTLS, SCTP and the move to the data
//! channel as well.

use std::time::Duration;

use crate::{
    Depth,
    arm::{Arm, Kind},
    client::{Bare, Browser, Swarm},
    report::{Report, Row},
};

/// Members of a room.
const ROOM: usize = 4;
const SETTLE: Duration = Duration::from_millis(50);

/// CPU time of a join, and how many that makes for one core in a second.
pub(crate) async fn measure(depth: Depth, report: &mut Report) -> anyhow::Result<()> {
    let (joins, peers) = if depth == Depth::Full { (800, 400) } else { (80, 40) };
    let websocket = of_each(Kind::Switchyard, false, joins).await?;
    let channel = of_each(Kind::Switchyard, true, peers).await?;
    let engine = of_each(Kind::Engine, true, peers).await?;
    let mut row = |name: &str, microseconds: f64, engine: Option<f64>| {
        let engine_ratio = engine.map(|engine| microseconds / engine);
        let mut add = |what: &str, value: f64, unit| {
            report.add(Row {
                name: format!("join/{name}/{what}"),
                value,
                unit,
                floor_ratio: None,
                engine_ratio,
                peer_ratio: None,
            });
        };
        add("cpu", microseconds, "µs/join");
        add("rate", 1e6 / microseconds, "joins/s·core");
    };
    row("websocket", websocket, None);
    row("data-channel", channel, Some(engine));
    Ok(())
}

/// Microseconds of CPU time for each of `count` clients.
async fn of_each(kind: Kind, channel: bool, count: usize) -> anyhow::Result<f64> {
    let mut arm = Arm::start(kind)?;
    let mut swarm = Swarm::new();
    come(&mut arm, &mut swarm, kind, channel, ROOM * 4).await?;
    let before = arm.cpu()?;
    let present = swarm.clients.len();
    come(&mut arm, &mut swarm, kind, channel, present + count).await?;
    let used = arm.cpu()? - before;
    Ok(used.as_secs_f64() * 1e6 / count as f64)
}

async fn come(
    arm: &mut Arm,
    swarm: &mut Swarm,
    kind: Kind,
    channel: bool,
    count: usize,
) -> anyhow::Result<()> {
    for member in swarm.clients.len()..count {
        let group = member / ROOM;
        swarm.clients.push(if kind == Kind::Engine {
            Box::new(Bare::connect(arm, group)?)
        } else {
            let (room, user) = (format!("join-{group}"), format!("u{member}"));
            Box::new(Browser::connect(arm.port, &room, &user, channel).await?)
        });
        if member % ROOM == ROOM - 1 {
            swarm.ready().await?;
        }
    }
    swarm.drive(SETTLE, |_| false).await?;
    Ok(())
}
