//! One load from beginning to end: pairs that open, one round of traffic between them, and what of it arrived.

use std::time::Duration;

use tokio::{sync::watch, task::LocalSet, time::sleep};

use super::{
    crowd::{Crowd, Opening, Pairs},
    traffic::{Round, Traffic},
};

/// What it has shown.
#[derive(Debug, Default)]
pub struct Figures {
    /// Pairs that were ready to send.
    pub ready: u32,
    /// Of opening the pairs.
    pub opening: Opening,
    /// Of the traffic between them.
    pub round: Round,
}

/// For requests that follow opening, before anything is measured.
const SETTLE: Duration = Duration::from_millis(50);

/// Runs until the end, or until `interrupted` becomes true. `ready` is told when the pairs are open.
///
/// # Errors
/// If the system does not give what all pairs need.
pub async fn run(
    pairs: &Pairs,
    traffic: &Traffic,
    mut interrupted: watch::Receiver<bool>,
    ready: impl FnOnce(),
) -> Result<Figures, String> {
    let running = async {
        let opened = tokio::select! {
            opened = Crowd::open(pairs) => Some(opened?),
            () = until_true(&mut interrupted) => None,
        };
        let Some((mut crowd, opening)) = opened else { return Ok(Figures::default()) };
        sleep(SETTLE).await;
        ready();
        let round = crowd.carry(traffic, &mut interrupted).await;
        let ready = u32::try_from(crowd.len()).unwrap_or(u32::MAX);
        crowd.close().await;
        Ok(Figures { ready, opening, round })
    };
    LocalSet::new().run_until(running).await
}

impl Figures {
    /// Why pairs could not be opened or could not go on, and how many.
    pub fn failures(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.opening.failures.iter().chain(&self.round.failures);
        all.map(|(why, count)| (why.as_str(), *count))
    }
}

/// Never, if nobody is left who could say so.
pub(super) async fn until_true(interrupted: &mut watch::Receiver<bool>) {
    if interrupted.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
