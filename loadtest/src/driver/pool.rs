//! Threads with drivers on them: each user stays on one, so that its task is woken without crossing threads and its
//! state stays in one core's cache.

use std::{io, rc::Rc, thread, time::Instant};

use tokio::{
    runtime,
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use super::{Assignment, Shared, Told, drive, local_towards};
use crate::{adapter::Adapter, target::Target};

/// Threads that drive users. Dropping it ends them and whoever is still there.
#[derive(Debug)]
pub struct Pool {
    threads: Vec<mpsc::UnboundedSender<Assignment>>,
}

impl Pool {
    /// Starts so many threads. Times of users' records count from `epoch`; what drivers tell goes to `told`.
    pub fn start(
        threads: usize,
        target: &Target,
        adapter: &'static Adapter,
        epoch: Instant,
        told: &mpsc::UnboundedSender<Told>,
    ) -> io::Result<Self> {
        let local = local_towards(target.address())?;
        let start = |number| {
            let (sender, assignments) = mpsc::unbounded_channel();
            let (target, told) = (target.clone(), told.clone());
            // The runtime is made here, where its failure can be told.
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("driver-{number}")).spawn(move || {
                let shared = Shared { target, adapter, epoch, local, told };
                LocalSet::new().block_on(&runtime, work(assignments, shared));
            })?;
            Ok(sender)
        };
        let threads = (0..threads.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// A user comes, on the thread that its number says.
    pub fn assign(&self, assignment: Assignment) {
        let thread = assignment.plan.number as usize % self.threads.len();
        // A thread is gone only after a panic, which has told of itself; the run misses its users.
        let _ = self.threads[thread].send(assignment);
    }
}

async fn work(mut assignments: mpsc::UnboundedReceiver<Assignment>, shared: Shared) {
    let shared = Rc::new(shared);
    while let Some(assignment) = assignments.recv().await {
        spawn_local(drive(assignment, shared.clone()));
    }
}
