//! One end of a pair: an allocation, or a peer outside that has none.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn_udp::UdpSocketState;
use tokio::time::timeout_at;

use super::{
    client::{Credentials, RelayEvent, Relayed},
    server::TurnServer,
    wire::{Wire, segmentation},
    wrapping::{Wrapping, is_data},
};

/// The longest datagram, and a piece of a stream.
const BUFFER: usize = 64 * 1024;

/// What all ends of a thread share.
pub(super) struct Shared {
    kernel: UdpSocketState,
    buffer: RefCell<Vec<u8>>,
    /// Datagrams that have arrived, of all rounds.
    pub(super) arrived: Cell<u64>,
}

/// See the module.
pub(super) struct End {
    wire: Wire,
    relayed: Option<Relayed>,
    address: SocketAddr,
    peer: Option<SocketAddr>,
    /// Of data to and from the peer, once there is one.
    wrapping: Option<Wrapping>,
    sent: u64,
    is_allocated: bool,
    is_permitted: bool,
    /// Of whoever reads; it writes what a stream did not take, too.
    waker: Waker,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { kernel: segmentation()?, buffer: RefCell::new(vec![0; BUFFER]), arrived: Cell::new(0) })
    }
}

impl End {
    /// An allocation, and how long it took to have it.
    pub(super) async fn allocate(
        shared: &Shared,
        server: &TurnServer,
        credentials: Credentials,
    ) -> Result<(Self, Duration), String> {
        let began = Instant::now();
        let wire = Wire::towards(server).await.map_err(|error| format!("connecting: {error}"))?;
        let relayed = Relayed::new(began, server.address(), server.carrier(), credentials)?;
        let mut end = Self::new(wire, Some(relayed), server.address());
        end.until(shared, |end| end.is_allocated).await?;
        Ok((end, began.elapsed()))
    }

    /// A peer without an allocation, at this address.
    pub(super) fn outside(address: IpAddr) -> Result<Self, String> {
        let failed = |error| format!("a socket at {address}: {error}");
        let wire = Wire::at(address).map_err(failed)?;
        let address = wire.local().map_err(failed)?;
        Ok(Self::new(wire, None, address))
    }

    fn new(wire: Wire, relayed: Option<Relayed>, address: SocketAddr) -> Self {
        let (peer, wrapping, sent, waker) = (None, None, 0, Waker::noop().clone());
        let (is_allocated, is_permitted) = (false, false);
        Self { wire, relayed, address, peer, wrapping, sent, is_allocated, is_permitted, waker }
    }

    /// Where others send to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this peer is sent to, and heard: by a channel if there is to be one.
    pub(super) async fn meet(
        &mut self,
        shared: &Shared,
        peer: SocketAddr,
        by_channel: bool,
    ) -> Result<(), String> {
        self.peer = Some(peer);
        if self.relayed.is_none() {
            self.wrapping = Some(Wrapping::Bare);
        }
        let Some(relayed) = &mut self.relayed else {
            return self.wire.connect(peer).map_err(|error| format!("the relayed address {peer}: {error}"));
        };
        relayed.permit(Instant::now(), peer);
        self.until(shared, |end| end.is_permitted).await?;
        self.wrapping = Some(Wrapping::Indication(peer));
        if by_channel {
            self.keep_channel(Instant::now());
            self.until(shared, Self::has_channel).await?;
        }
        Ok(())
    }

    /// Sends `count` payloads of `size` bytes, which `fill` writes, back to back; `messages` is only its memory.
    pub(super) fn send(
        &mut self,
        shared: &Shared,
        messages: &mut Vec<u8>,
        (count, size): (u32, usize),
        mut fill: impl FnMut(&mut [u8]),
    ) -> Result<(), String> {
        let Some(wrapping) = self.wrapping else { return Ok(()) };
        messages.clear();
        let mut each = 0;
        for _ in 0..count {
            let start = messages.len();
            self.sent += 1;
            wrapping.put(messages, self.sent, size, &mut fill);
            if self.wire.is_stream() {
                messages.resize(messages.len().next_multiple_of(4), 0);
            }
            each = messages.len() - start;
        }
        let cx = &mut Context::from_waker(&self.waker);
        self.wire.send(cx, &shared.kernel, messages, each).map_err(|error| broken(&error))
    }

    /// Reads, and hands out payloads of the peer; ready if something has come.
    pub(super) fn poll(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]),
    ) -> Poll<Result<(), String>> {
        self.waker.clone_from(cx.waker());
        if let Poll::Ready(Err(error)) = self.wire.poll_flush(cx) {
            return Poll::Ready(Err(broken(&error)));
        }
        let (wrapping, relayed) = (self.wrapping, &mut self.relayed);
        let mut is_control = false;
        let buffer = &mut *shared.buffer.borrow_mut();
        let read = self.wire.poll_read(cx, buffer, |message| {
            let payload = wrapping.and_then(|wrapping| wrapping.payload(message));
            match (payload, &mut *relayed) {
                (Some(payload), _) => take(payload),
                // Data of somebody else, or wrapped in another way: it is counted as what it is.
                (None, _) if is_data(message) => take(message),
                (None, Some(relayed)) => {
                    is_control = true;
                    relayed.handle_message(Instant::now(), message);
                }
                (None, None) => {}
            }
        });
        let Poll::Ready(read) = read else { return Poll::Pending };
        if let Err(error) = read {
            return Poll::Ready(Err(broken(&error)));
        }
        Poll::Ready(if is_control { self.take_events(shared) } else { Ok(()) })
    }

    /// Repeats and refreshes what is due.
    pub(super) fn handle_timeout(&mut self, shared: &Shared, now: Instant) -> Result<(), String> {
        let Some(relayed) = &mut self.relayed else { return Ok(()) };
        if relayed.poll_timeout().is_none_or(|due| due > now) {
            return Ok(());
        }
        relayed.handle_timeout(now);
        self.take_events(shared)
    }

    /// Binds the channel, and again in time; to be called once a minute for an end that has one.
    pub(super) fn keep_channel(&mut self, now: Instant) {
        if let (Some(relayed), Some(peer)) = (&mut self.relayed, self.peer) {
            relayed.bind(now, peer);
        }
    }

    pub(super) fn has_channel(&self) -> bool {
        matches!(self.wrapping, Some(Wrapping::Channel(_)))
    }

    /// Gives the allocation back, without waiting for the answer.
    pub(super) fn leave(&mut self, shared: &Shared) {
        if let Some(relayed) = &mut self.relayed {
            relayed.close(Instant::now());
            // A server that does not hear it lets the allocation expire.
            let _ = self.take_events(shared);
        }
    }

    /// Exchanges with the server until something is so.
    async fn until(&mut self, shared: &Shared, is_done: impl Fn(&Self) -> bool) -> Result<(), String> {
        self.take_events(shared)?;
        while !is_done(self) {
            let due = self.relayed.as_mut().and_then(Relayed::poll_timeout);
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            let reading = poll_fn(|cx| self.poll(shared, cx, |_| ()));
            if let Ok(read) = timeout_at(due.into(), reading).await {
                read?;
            }
            self.handle_timeout(shared, Instant::now())?;
        }
        Ok(())
    }

    fn take_events(&mut self, shared: &Shared) -> Result<(), String> {
        let Some(relayed) = &mut self.relayed else { return Ok(()) };
        while let Some(event) = relayed.poll_event() {
            match event {
                RelayEvent::Allocated(address) => (self.is_allocated, self.address) = (true, address),
                RelayEvent::Permitted(_) => self.is_permitted = true,
                RelayEvent::Bound(number) => self.wrapping = Some(Wrapping::Channel(number)),
                // Data has gone another way.
                RelayEvent::Data(..) => {}
                RelayEvent::Failed(why) => return Err(why),
            }
        }
        let cx = &mut Context::from_waker(&self.waker);
        while let Some(bytes) = relayed.poll_transmit() {
            self.wire.send(cx, &shared.kernel, &bytes, bytes.len()).map_err(|error| broken(&error))?;
        }
        Ok(())
    }
}

fn broken(error: &io::Error) -> String {
    format!("the connection to the server: {error}")
}
