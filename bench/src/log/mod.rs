//! What a room's log costs: messages that are on disk before anybody is told of them.
//!
//! Everything goes over real WebSockets to a real database in a temporary folder, synced as it is in life. Beside the
//! server runs the floor, which syncs the same events by the same policy; the two take turns.

mod joining;
mod latency;
mod memory;
mod throughput;

use tempfile::TempDir;
use tokio::task::LocalSet;

use crate::{
    Depth,
    arm::{Arm, Kind},
    client::{Crowd, Shape},
    report::{Report, Row},
};

/// Many small rooms, and one that is large.
const SHAPES: [Shape; 2] = [Shape { rooms: 500, members: 4 }, Shape { rooms: 1, members: 50 }];

/// All of it.
pub(crate) async fn measure(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let measuring = async {
        if wanted("log/throughput") {
            throughput::measure(depth, wanted, report).await?;
        }
        if wanted("log/latency") {
            latency::measure(depth, wanted, report).await?;
        }
        if wanted("log/memory") {
            memory::measure(depth, report).await?;
        }
        if wanted("log/join") {
            joining::measure(depth, report).await?;
        }
        anyhow::Ok(())
    };
    LocalSet::new().run_until(measuring).await
}

/// An arm, those who talk to it, and where it writes to.
struct Contender {
    crowd: Crowd,
    arm: Arm,
    _folder: TempDir,
}

impl Contender {
    async fn new(kind: Kind, shape: Shape, is_slowed: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = is_slowed.then(|| crate::disk::slowed(folder.path())).transpose()?;
        let arm = Arm::start_on(kind, Some(&folder.path().join("store.db")), disk.as_deref())?;
        let crowd = Crowd::connect(&arm, shape).await?;
        Ok(Self { crowd, arm, _folder: folder })
    }
}

fn name(shape: Shape) -> String {
    format!("{}x{}", shape.rooms, shape.members)
}

/// Fewer rooms where it is only to be seen that it works.
fn shapes(depth: Depth) -> [Shape; 2] {
    match depth {
        Depth::Full => SHAPES,
        Depth::Quick => [Shape { rooms: 50, members: 4 }, SHAPES[1]],
    }
}

/// A row, with its ratio to the floor.
fn row(name: String, value: f64, unit: &'static str, floor_ratio: Option<f64>) -> Row {
    Row { name, value, unit, floor_ratio, engine_ratio: None, peer_ratio: None }
}
