//! Those who talk to an arm: all in this process, on one thread, so that whatever they cost is not the arm's.
//!
//! - [`browser`]: the load test's simulated browser, with all of the protocol, for Switchyard;
//! - [`bare`]: its peer connection alone, for the bare engine;
//! - [`raw`]: sockets that count bytes, for the floor;
//! - [`crowd`]: many members of rooms that write to their logs, of Switchyard and of the floor.

mod bare;
mod browser;
mod crowd;
mod raw;
mod socket;

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use anyhow::bail;

use self::socket::Socket;
pub(crate) use self::{
    bare::Bare,
    browser::Browser,
    crowd::{Crowd, Shape, visit},
    raw::{Datagrams, Stream},
};
use crate::udp::ReceiveBuffer;

/// How messages are to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Reliable,
    Lossy,
}

/// Messages handed over back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    pub(crate) lane: Lane,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// How many.
    pub(crate) count: usize,
}

/// One client. Whatever it does it does in [`turn`](Self::turn), which never waits.
pub(crate) trait Client {
    /// Reads, does what is due, and writes; registers for being woken.
    fn turn(&mut self, cx: &mut Context<'_>, receive: &mut ReceiveBuffer) -> anyhow::Result<()>;
    /// When the next turn is due at the latest.
    fn due(&self) -> Option<Instant>;
    /// Whether it may send and will receive.
    fn is_ready(&self) -> bool;
    /// Hands a burst over, to go out with the next turn.
    fn send(&mut self, burst: Burst) -> anyhow::Result<()>;
    /// What it has received so far, in units of its own.
    fn received(&self) -> u64;
    /// The units that it receives of a burst of somebody else.
    fn expects(&self, burst: Burst) -> u64;
}

/// Clients that are driven together.
pub(crate) struct Swarm {
    pub(crate) clients: Vec<Box<dyn Client>>,
    receive: ReceiveBuffer,
}

impl Swarm {
    pub(crate) fn new() -> Self {
        Self { clients: Vec::new(), receive: ReceiveBuffer::new() }
    }

    /// Lets them all work until `done`, or for `limit`; returns whether it was done.
    pub(crate) async fn drive(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&[Box<dyn Client>]) -> bool,
    ) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        let mut sleep = Box::pin(tokio::time::sleep_until(end.into()));
        poll_fn(|cx| {
            loop {
                if let Err(error) = self.turn(cx) {
                    return Poll::Ready(Err(error));
                }
                if done(&self.clients) {
                    return Poll::Ready(Ok(true));
                }
                let now = Instant::now();
                if now >= end {
                    return Poll::Ready(Ok(false));
                }
                let due = self.clients.iter().filter_map(|client| client.due()).min();
                let due = due.map_or(end, |due| due.min(end));
                if due > now {
                    sleep.as_mut().reset(due.into());
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// Lets them do what they have to do now.
    pub(crate) fn glance(&mut self) -> anyhow::Result<()> {
        self.turn(&mut Context::from_waker(Waker::noop()))
    }

    /// Waits until all are ready.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let all = |clients: &[Box<dyn Client>]| clients.iter().all(|client| client.is_ready());
        if !self.drive(Duration::from_secs(30), all).await? {
            let ready = self.clients.iter().filter(|client| client.is_ready()).count();
            bail!("only {ready} of {} clients are ready", self.clients.len());
        }
        Ok(())
    }

    /// Units received by all.
    pub(crate) fn received(clients: &[Box<dyn Client>]) -> u64 {
        clients.iter().map(|client| client.received()).sum()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> anyhow::Result<()> {
        let Self { clients, receive } = self;
        clients.iter_mut().try_for_each(|client| client.turn(cx, receive))
    }
}

/// The contents of a message: its number, then nothing of interest.
fn payload(number: u32, size: usize) -> Vec<u8> {
    let mut payload = vec![0x5a; size.max(4)];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The number in a message.
fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |number| u32::from_be_bytes(*number))
}
