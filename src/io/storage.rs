//! Between a shard and the store: letters of its rooms out, replies in.
//!
//! The doors ask the store too, without a room, for what is durable and need not be decided: [`Questions`].
//!
//! Neither side waits for the other. A letter that the store does not take is answered here, as a failure; replies come
//! through a queue that is as long as what was asked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use crate::{
    config::Config,
    engine::Shard,
    metrics::Metrics,
    names::{RoomPlace, ShardId},
    store::{Answer, Letter, Reply, Request, Store, StoreError},
};

/// Where the answers to the doors' questions go: no shard has this number.
const DOORS: RoomPlace = RoomPlace { shard: ShardId(u16::MAX), slot: 0, serial: 0 };

/// The questions of the doors that the store has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Questions {
    /// Asks the store. It answers everything that it takes.
    pub(super) async fn ask(&self, store: &Store, request: Request) -> Result<Answer, StoreError> {
        let ticket = self.asked.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.open().insert(ticket, sender);
        if store.send(Letter { from: DOORS, ticket, request }).is_err() {
            self.open().remove(&ticket);
            return Err(StoreError::Unavailable("too much waits for it already".to_owned()));
        }
        answer.await.map_err(|_| StoreError::Unavailable("it was closed".to_owned()))
    }

    fn answer(&self, Reply { ticket, answer, .. }: Reply) {
        // Whoever asked may have gone.
        let _ = self.open().remove(&ticket).map(|sender| sender.send(answer));
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the store that the configuration names; `shards` get their rooms' replies by the receivers returned.
///
/// # Errors
/// If the database cannot be reached, or is not one of this server's.
pub(super) fn open(
    config: &Config,
    metrics: &Arc<Metrics>,
    shards: usize,
    questions: Arc<Questions>,
) -> Result<(Arc<Store>, Vec<UnboundedReceiver<Reply>>), StoreError> {
    let (senders, receivers): (Vec<UnboundedSender<Reply>>, Vec<_>) =
        (0..shards).map(|_| unbounded_channel()).unzip();
    let replies = move |reply: Reply| {
        if reply.to == DOORS {
            return questions.answer(reply);
        }
        // A shard that has ended needs no reply.
        let _ = senders.get(reply.to.shard.0 as usize).map(|sender| sender.send(reply));
    };
    let store = Store::open(&config.store, metrics.clone(), Box::new(replies))?;
    Ok((Arc::new(store), receivers))
}

/// Hands the store what the shard's rooms ask of it.
pub(super) fn post(shard: &mut Shard, store: &Store) -> Vec<Reply> {
    let mut refused = Vec::new();
    while let Some(letter) = shard.poll_store() {
        if let Err(Letter { from: to, ticket, request }) = store.send(letter)
            && let Some(answer) =
                request.failed(StoreError::Unavailable("too much waits for it already".to_owned()))
        {
            refused.push(Reply { to, ticket, answer });
        }
    }
    refused
}
