//! What any SFU on this engine has to pay: one thread, one UDP socket in batches, ICE, DTLS, SCTP and data channels.
//! A message goes to the same channel of everyone else in the sender's group, and peers are drained after the whole
//! input batch. There are no rooms, sessions, permissions, lanes, frames or metrics.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ring::rand::{SecureRandom as _, SystemRandom};
use switchyard::engine::{
    demux::{self, Kind},
    ice::{Credentials, IceLite, Verdict},
    path::Path,
    peer::{Channel, Identity, Peer},
    sdp::{self, HostCandidate},
    transmit::TransmitQueue,
};
use switchyard_signaling::limits;
use tokio::sync::Notify;

use super::{Answer, Offer, Up, hear, say};
use crate::udp::{ReceiveBuffer, Udp};

const RECEIVES: usize = 4;
const IDLE: Duration = Duration::from_secs(1);

pub(super) fn run() -> anyhow::Result<()> {
    let (questions, asked) = mpsc::channel::<Option<Offer>>();
    let wake = std::sync::Arc::new(Notify::new());
    let waker = wake.clone();
    std::thread::spawn(move || {
        loop {
            let question = hear().ok().flatten();
            let is_last = question.is_none();
            let sent = questions.send(question);
            waker.notify_one();
            if is_last || sent.is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let udp = Udp::bind()?;
        let mut engine = Engine::new(udp.local)?;
        let mut receive = ReceiveBuffer::new();
        say(&Up { port: udp.local.port() })?;
        loop {
            let due = engine.due().unwrap_or_else(|| Instant::now() + IDLE);
            let readable =
                poll_fn(|cx| if udp.poll_readable(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending });
            tokio::select! {
                () = readable => {}
                () = wake.notified() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            let now = Instant::now();
            while let Ok(question) = asked.try_recv() {
                let Some(offer) = question else { return Ok(()) };
                say(&engine.answer(&offer, now)?)?;
            }
            for _ in 0..RECEIVES {
                if udp.receive(&mut receive, |from, datagram| engine.handle(from, datagram, now)) == 0 {
                    break;
                }
            }
            engine.handle_timeout(now);
            engine.forward(now);
            engine.drain(now);
            for transmit in engine.transmits.iter() {
                if let Path::Udp(to) = transmit.way.path {
                    let _ = udp.send(to, transmit.segment, transmit.contents);
                }
            }
            engine.transmits.clear();
        }
    })
}

struct Member {
    peer: Peer,
    ice: IceLite,
    group: usize,
    address: Option<SocketAddr>,
    is_dirty: bool,
    due: Option<Instant>,
}

struct Engine {
    local: SocketAddr,
    identity: Identity,
    members: Vec<Member>,
    groups: HashMap<usize, Vec<usize>>,
    by_ufrag: HashMap<String, usize>,
    by_address: HashMap<SocketAddr, usize>,
    dirty: Vec<usize>,
    messages: Vec<(usize, Channel, Bytes)>,
    transmits: TransmitQueue,
    /// The earliest of what the members have to do.
    next: Option<Instant>,
}

impl Engine {
    fn new(local: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            local,
            identity: Identity::generate()?,
            members: Vec::new(),
            groups: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_address: HashMap::new(),
            dirty: Vec::new(),
            messages: Vec::new(),
            transmits: TransmitQueue::default(),
            next: None,
        })
    }

    fn answer(&mut self, offer: &Offer, now: Instant) -> anyhow::Result<Answer> {
        let parsed = sdp::Offer::parse(&offer.sdp, limits::CHANNEL_MESSAGE_BYTES)?;
        let system = SystemRandom::new();
        let mut random = || {
            let mut bytes = [0; 8];
            system.fill(&mut bytes).expect("the system has random numbers");
            u64::from_ne_bytes(bytes)
        };
        let local = Credentials::generate(0, &mut random);
        let peer = Peer::new(&parsed, &local, &self.identity, now)?;
        let host =
            HostCandidate { address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.local.port())), tcp: false };
        let sdp = sdp::answer(peer.answer(), &local, &[host]);
        let index = self.members.len();
        self.by_ufrag.insert(local.ufrag.clone(), index);
        self.groups.entry(offer.group).or_default().push(index);
        self.members.push(Member {
            peer,
            ice: IceLite::new(&local, &parsed.credentials),
            group: offer.group,
            address: None,
            is_dirty: false,
            due: None,
        });
        self.mark(index);
        Ok(Answer { sdp })
    }

    fn due(&self) -> Option<Instant> {
        self.next
    }

    fn mark(&mut self, index: usize) {
        let member = &mut self.members[index];
        if !member.is_dirty {
            member.is_dirty = true;
            self.dirty.push(index);
        }
    }

    fn handle(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        match demux::classify(datagram) {
            Kind::Stun => {
                let Some(&index) = demux::ufrag_of(datagram).and_then(|ufrag| self.by_ufrag.get(ufrag))
                else {
                    return;
                };
                let member = &mut self.members[index];
                let path = Path::Udp(from);
                if let Verdict::Accepted(accepted) = member.ice.handle(now, path, from, datagram) {
                    self.transmits.push(path, None, &accepted.response);
                    member.address = Some(from);
                    self.by_address.insert(from, index);
                }
            }
            Kind::Dtls => {
                if let Some(&index) = self.by_address.get(&from) {
                    let _ = self.members[index].peer.handle_datagram(BytesMut::from(datagram), now);
                    self.mark(index);
                }
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if member.due.is_some_and(|due| due <= now) {
                let _ = member.peer.handle_timeout(now);
                self.mark(index);
            }
        }
    }

    fn forward(&mut self, now: Instant) {
        for &index in &self.dirty {
            let peer = &mut self.members[index].peer;
            while peer.poll_event().is_some() {}
            while let Some((channel, message)) = peer.poll_message() {
                self.messages.push((index, channel, message));
            }
        }
        let mut messages = std::mem::take(&mut self.messages);
        for (sender, channel, message) in messages.drain(..) {
            let group = self.groups[&self.members[sender].group].clone();
            for index in group {
                if index != sender {
                    let _ = self.members[index].peer.send(channel, BytesMut::from(&message[..]), now);
                    self.mark(index);
                }
            }
        }
        self.messages = messages;
    }

    fn drain(&mut self, now: Instant) {
        for index in self.dirty.drain(..) {
            let member = &mut self.members[index];
            member.is_dirty = false;
            while let Some(datagram) = member.peer.poll_transmit() {
                if let Some(address) = member.address {
                    self.transmits.push(Path::Udp(address), None, &datagram);
                }
            }
            member.due = member.peer.poll_timeout(now);
        }
        self.next = self.members.iter().filter_map(|member| member.due).min();
    }
}
