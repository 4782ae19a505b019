//! What an allocation takes that only is there, with a permission and a channel.

use std::time::Duration;

use super::contender::{Contender, Transport, outside, start};
use crate::{
    Depth, arm,
    report::{Report, Row},
};

/// There before the first look, so that what is made once is not counted.
const BEFORE: usize = 50;
/// For what follows a request.
const SETTLE: Duration = Duration::from_millis(300);
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];

pub(super) fn names() -> [String; 2] {
    TRANSPORTS.map(name)
}

fn name(transport: Transport) -> String {
    format!("turn/{}/memory", transport.name())
}

pub(super) async fn measure(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let count = if depth == Depth::Quick { 200 } else { 1000 };
    for transport in TRANSPORTS.into_iter().filter(|transport| wanted(&name(*transport))) {
        // Of their own: what others have given back would be taken again.
        let Some([ours, coturn]) = start()? else { return Ok(()) };
        let (ours, coturn) =
            (of_each(&ours, transport, count).await?, of_each(&coturn, transport, count).await?);
        report.add(Row {
            name: name(transport),
            value: ours,
            unit: "KB/allocation",
            floor_ratio: None,
            engine_ratio: None,
            peer_ratio: Some(ours / coturn),
        });
    }
    Ok(())
}

/// Kilobytes of resident memory.
async fn of_each(contender: &Contender, transport: Transport, count: usize) -> anyhow::Result<f64> {
    let first = contender.crowd(transport, outside(), BEFORE).await?;
    tokio::time::sleep(SETTLE).await;
    let before = arm::resident_of(contender.process())?;
    let crowd = contender.crowd(transport, outside(), count).await?;
    tokio::time::sleep(SETTLE).await;
    let after = arm::resident_of(contender.process())?;
    crowd.close().await;
    first.close().await;
    Ok(after.saturating_sub(before) as f64 / count as f64 / 1000.0)
}
