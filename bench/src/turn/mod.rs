//! TURN.
//!
//! - [`beside`]: the whole server and coturn, relaying the same traffic by turns ([`contender`]: one of them);
//! - [`memory`]: what an allocation of each takes;
//! - [`machine`]: our state machine alone.

mod beside;
mod contender;
mod machine;
mod memory;

use crate::{Depth, report::Report};

pub(crate) async fn measure(
    depth: Depth,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    if machine::names(depth).any(|name| wanted(&name)) {
        machine::measure(depth, report)?;
    }
    let beside = beside::cases(depth).into_iter().filter(|case| wanted(&case.name())).collect::<Vec<_>>();
    let memory = memory::names().into_iter().any(|name| wanted(&name));
    if beside.is_empty() && !memory {
        return Ok(());
    }
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let Some(mut contenders) = contender::start()? else {
                eprintln!("turn: coturn is not installed, so the relay is not compared with it");
                return Ok(());
            };
            beside::measure(depth, &beside, &mut contenders, report).await?;
            drop(contenders);
            memory::measure(depth, wanted, report).await
        })
        .await
}
