//! What other threads send to the TURN thread: a bounded queue, and a bell that is rung once for all that is in it.

use std::{
    io, mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use mio::{Registry, Token, Waker};

use super::Connected;
use crate::engine::{path::AllocationId, transmit::Transmit};

/// Letters that may wait; what is above is refused, as a full network does.
const LETTERS: usize = 4096;

/// What the TURN thread is told.
#[derive(Debug)]
pub(super) enum Letter {
    /// By a door: a client's connection.
    Connected(Connected),
    /// By a shard: datagrams for clients behind allocations.
    Datagrams(Datagrams),
    /// Finish.
    Stop,
}

/// What a shard has sent in one turn to clients behind allocations.
#[derive(Debug, Default)]
pub(in crate::io) struct Datagrams {
    /// One behind the other, as the runs say.
    pub(super) bytes: Vec<u8>,
    /// In order.
    pub(super) runs: Vec<Run>,
}

/// Datagrams from one address to one allocation, all equally long but the last, which may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// To whom.
    pub(super) allocation: AllocationId,
    /// Which of the SFU's addresses they come from.
    pub(super) from: SocketAddr,
    /// Bytes of all.
    pub(super) length: usize,
    /// Bytes of one.
    pub(super) segment: usize,
}

/// The writing end, for doors and shards.
#[derive(Clone, Debug)]
pub(in crate::io) struct Mailbox {
    letters: SyncSender<Letter>,
    bell: Arc<Bell>,
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Inbox {
    letters: Receiver<Letter>,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    waker: Waker,
    /// Rung, and not heard yet.
    is_rung: AtomicBool,
}

/// Both ends. A poll of the registry returns `token` when there is something to read.
pub(super) fn mailbox(registry: &Registry, token: Token) -> io::Result<(Mailbox, Inbox)> {
    let (sender, letters) = sync_channel(LETTERS);
    let bell = Arc::new(Bell { waker: Waker::new(registry, token)?, is_rung: AtomicBool::new(false) });
    Ok((Mailbox { letters: sender, bell: bell.clone() }, Inbox { letters, bell }))
}

impl Mailbox {
    /// Sends what a shard has for clients; `Err` says how many datagrams are lost.
    pub(in crate::io) fn send_datagrams(&self, datagrams: Datagrams) -> Result<(), u64> {
        let count = datagrams.count();
        if self.send(Letter::Datagrams(datagrams)) { Ok(()) } else { Err(count) }
    }

    /// Sends; `false` if the queue is full or the thread has ended, and then the letter is lost.
    pub(super) fn send(&self, letter: Letter) -> bool {
        let sent = self.letters.try_send(letter).is_ok();
        if !self.bell.is_rung.swap(true, Ordering::AcqRel) {
            // It fails when the counter of the bell overflows: then it has been rung.
            let _ = self.bell.waker.wake();
        }
        sent
    }
}

impl Datagrams {
    /// Adds what leaves a shard together.
    pub(in crate::io) fn push(
        &mut self,
        allocation: AllocationId,
        from: SocketAddr,
        transmit: &Transmit<'_>,
    ) {
        let Transmit { segment, contents, .. } = *transmit;
        self.bytes.extend_from_slice(contents);
        self.runs.push(Run { allocation, from, length: contents.len(), segment });
    }

    /// All of it, if there is any.
    pub(in crate::io) fn take(&mut self) -> Option<Self> {
        (!self.runs.is_empty()).then(|| mem::take(self))
    }

    fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.length.div_ceil(run.segment.max(1)) as u64).sum()
    }
}

impl Inbox {
    /// Takes the next letter.
    pub(super) fn take(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }

    /// The bell was heard. To be called before letters are taken, so that one that comes after the last rings again.
    pub(super) fn heard(&self) {
        self.bell.is_rung.store(false, Ordering::Release);
    }
}
