//! Memory of the server while one room's log grows.

use std::time::Duration;

use super::{Contender, row};
use crate::{Depth, arm::Kind, client::Shape, report::Report};

const SHAPE: Shape = Shape { rooms: 1, members: 4 };
const WINDOW: usize = 64;

/// Resident memory when a tenth, half and all of the log is there. `FULL=1` makes it a million events.
pub(super) async fn measure(depth: Depth, report: &mut Report) -> anyhow::Result<()> {
    let is_full = crate::is_set("FULL");
    let events = match depth {
        _ if is_full => 1_000_000,
        Depth::Full => 200_000,
        Depth::Quick => 20_000,
    };
    let Contender { crowd, arm, _folder } = &Contender::new(Kind::Switchyard, SHAPE, false).await?;
    crowd.write(WINDOW);
    for part in [10, 50, 100] {
        while crowd.tally().acknowledged < events * part / 100 {
            crowd.sleep(Duration::from_millis(5)).await?;
        }
        let resident = arm.resident()? as f64 / 1e6;
        report.add(row(format!("log/memory/{events}/{part}%"), resident, "MB", None));
    }
    crowd.settle().await
}
