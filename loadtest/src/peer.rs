//! A browser's peer connection: a full ICE agent, DTLS, SCTP and the protocol's two negotiated data channels. This is the
//! only file that names the WebRTC library.
//!
//! It has one local address and, for a browser that climbs, further ones ([`Peer::add_candidate`]) that stand for its ways
//! by TCP and over relays. Which pair is taken is the library's decision, by their priorities.
//!
//! No sockets and no clock: whoever drives it carries its datagrams and gives it the time. The other end is the
//! server's `src/engine/`; what the channels carry is [`crate::browser`]'s business.
//!
//! After any `handle_*` or `send`, poll `poll_event`, `poll_message` and `poll_datagram` until each gives nothing, and
//! call `handle_timeout` at `poll_timeout`. Not polling messages closes the receive window, as in a browser whose
//! page does not read.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rtc::{
    crypto::{CryptoError, RTCCryptoProvider},
    data_channel::{RTCDataChannelId, RTCDataChannelInit},
    ice::{
        attributes::{control::AttrControlling, priority::PriorityAttr, use_candidate::UseCandidateAttr},
        mdns::MulticastDnsMode,
    },
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        event::{RTCDataChannelEvent, RTCPeerConnectionEvent},
        message::RTCMessage,
        sdp::RTCSessionDescription,
        state::{RTCIceConnectionState, RTCPeerConnectionState},
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate, RTCIceCandidateInit},
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
    stun::{
        attributes::ATTR_USERNAME,
        fingerprint::FINGERPRINT,
        integrity::MessageIntegrity,
        message::{BINDING_REQUEST, Getter, Message, Setter, TransactionId},
        textattrs::Username,
    },
};
use switchyard_signaling::limits;

use crate::netsim::Datagram;

/// Why a peer connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The WebRTC library refused.
    #[error("webrtc: {0}")]
    Library(#[from] rtc::shared::error::Error),
    /// There is no source of cryptography.
    #[error("cryptography: {0}")]
    Crypto(#[from] CryptoError),
    /// The answer lacks what a check is signed with.
    #[error("the answer has no ice-ufrag or no ice-pwd")]
    NoCredentials,
}

/// One of the two data channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Id 0: ordered, retransmitted.
    Reliable,
    /// Id 1: unordered, never retransmitted.
    Lossy,
}

/// How far a peer connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// ICE has selected a pair.
    IceConnected,
    /// DTLS is up.
    DtlsConnected,
    /// A data channel may be used.
    Open(Channel),
    /// It will not come back: failed, or closed by the other end.
    Failed,
}

/// A browser's peer connection.
pub struct Peer {
    pc: RTCPeerConnection,
    crypto: Arc<dyn RTCCryptoProvider>,
    reliable: RTCDataChannelId,
    lossy: RTCDataChannelId,
    /// The address that ICE knows; it never changes.
    ice_local: SocketAddr,
    /// The address that datagrams leave from.
    wire_local: SocketAddr,
    /// Where checks go and how they are signed, once the answer is known.
    remote: Option<Remote>,
    connected: bool,
    failed: bool,
    /// Addresses that stand for ways other than the direct one.
    others: Vec<SocketAddr>,
    /// The next connectivity check, until connected.
    next_check: Instant,
    latest: Instant,
    /// The next unsolicited nominating check after an address change, and how many are left.
    announce: Option<(Instant, u8)>,
    own_checks: Vec<Datagram>,
}

struct Remote {
    ufrag: String,
    pwd: String,
    /// The selected pair, local and remote, seen on the datagrams that leave.
    selected: Option<(SocketAddr, SocketAddr)>,
    tie_breaker: u64,
}

/// While connecting, the library would check, nominate and begin DTLS only when its timer fires, 200 ms apart. A browser
/// goes on as soon as it can: so the library's own interval is short, and this one and arriving datagrams pace it.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// Checks after which a pair has failed: more than are sent before anybody gives up.
const CHECKS: u16 = 1_000;

/// A browser that finds its address changed checks its pair at once and again until an answer comes.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(200);
const ANNOUNCEMENTS: u8 = 10;

/// How long a check by TCP, and one over a relay, waits for a better one before it is taken.
const TCP_WAIT: Duration = Duration::from_millis(500);
const RELAY_WAIT: Duration = Duration::from_secs(2);

/// What stands behind a further local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A TCP connection to the server.
    Tcp,
    /// An allocation of a relay, whose address it is.
    Relay,
}

impl Peer {
    /// A peer connection with one host candidate, and its offer.
    pub fn new(now: Instant, local: SocketAddr) -> Result<(Self, String), PeerError> {
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            .with_ice_connection_attempts(Some(Duration::from_millis(1)), Some(CHECKS))
            .with_srflx_acceptance_min_wait(Some(TCP_WAIT))
            .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(limits::CHANNEL_MESSAGE_BYTES as u32))
            .build();
        let mut pc = RTCPeerConnectionBuilder::new().with_setting_engine(settings).build(now)?;
        let reliable = pc.create_data_channel("reliable", Some(channel_init(Channel::Reliable)))?.id();
        let lossy = pc.create_data_channel("lossy", Some(channel_init(Channel::Lossy)))?.id();
        let candidate = CandidateHostConfig {
            base_config: CandidateConfig {
                network: "udp".to_owned(),
                address: local.ip().to_string(),
                port: local.port(),
                component: 1,
                ..CandidateConfig::default()
            },
            ..CandidateHostConfig::default()
        }
        .new_candidate_host()?;
        pc.add_local_candidate(RTCIceCandidate::from(&candidate).to_json()?)?;
        let offer = pc.create_offer(None)?;
        pc.set_local_description(now, offer.clone())?;
        let peer = Self {
            pc,
            crypto: rtc::crypto::default_provider()?,
            reliable,
            lossy,
            ice_local: local,
            wire_local: local,
            remote: None,
            connected: false,
            failed: false,
            others: Vec::new(),
            next_check: now,
            latest: now,
            announce: None,
            own_checks: Vec::new(),
        };
        let sdp = peer.pc.local_description().map_or(offer.sdp, |description| description.sdp);
        Ok((peer, sdp))
    }

    /// The server's answer.
    pub fn handle_answer(&mut self, now: Instant, sdp: &str) -> Result<(), PeerError> {
        let attribute =
            |name: &str| sdp.lines().find_map(|line| line.trim_end().strip_prefix(name)).map(str::to_owned);
        let (Some(ufrag), Some(pwd)) = (attribute("a=ice-ufrag:"), attribute("a=ice-pwd:")) else {
            return Err(PeerError::NoCredentials);
        };
        self.pc.set_remote_description(now, RTCSessionDescription::answer(sdp.to_owned())?)?;
        self.remote = Some(Remote { ufrag, pwd, selected: None, tie_breaker: 0 });
        Ok(())
    }

    /// A further local address, the better the greater `preference`. What leaves from it has it as the sender in
    /// [`poll_datagram`](Self::poll_datagram).
    pub fn add_candidate(
        &mut self,
        address: SocketAddr,
        behind: Behind,
        preference: u8,
    ) -> Result<(), PeerError> {
        let (ip, port) = (address.ip(), address.port());
        // To the library a TCP connection is an address like any other, of the kind that is taken after host candidates.
        let (kind, type_preference) = match behind {
            Behind::Tcp => ("srflx", 100),
            Behind::Relay => ("relay", 0),
        };
        let priority = (type_preference << 24) | (u32::from(preference) << 8) | 255;
        let candidate =
            format!("candidate:{priority} 1 udp {priority} {ip} {port} typ {kind} raddr {ip} rport {port}");
        self.others.push(address);
        self.pc.add_local_candidate(RTCIceCandidateInit { candidate, ..RTCIceCandidateInit::default() })?;
        Ok(())
    }

    /// The local address of the pair in use, once there is one.
    pub fn selected(&self) -> Option<SocketAddr> {
        let (local, _) = self.remote.as_ref()?.selected?;
        Some(local)
    }

    /// A datagram has arrived.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        self.handle_datagram_at(now, self.ice_local, from, payload);
    }

    /// A datagram has arrived at one of the local addresses.
    pub fn handle_datagram_at(&mut self, now: Instant, at: SocketAddr, from: SocketAddr, payload: &[u8]) {
        self.latest = now;
        if is_stun(payload) {
            // It may be what the next step waits for.
            self.next_check = now;
        }
        let transport = TransportContext {
            local_addr: at,
            peer_addr: from,
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        // What does not belong to this connection is the network's business: it is dropped, as a browser does.
        let _ = self.pc.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(payload) });
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.latest = now;
        let due = self.pc.poll_timeout().is_some_and(|at| at <= now);
        if due && (self.connected || self.next_check <= now) {
            self.next_check = now + CHECK_EVERY;
            self.drive(now);
        }
        if let Some((at, left)) = self.announce
            && at <= now
        {
            self.announce = (left > 1).then(|| (now + ANNOUNCE_EVERY, left - 1));
            self.send_own_check();
        }
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let own = self.announce.map(|(at, _)| at);
        let library = self.pc.poll_timeout();
        let library = if self.connected { library } else { library.map(|at| at.max(self.next_check)) };
        [library, own].into_iter().flatten().min()
    }

    /// The next datagram to send.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        if let Some(check) = self.own_checks.pop() {
            return Some(check);
        }
        let out = self.pc.poll_write()?;
        let (at, to) = (out.transport.local_addr, out.transport.peer_addr);
        let payload = self.nominating(&out.message, (at, to)).unwrap_or_else(|| out.message.freeze());
        let from = if self.others.contains(&at) { at } else { self.wire_local };
        Some(Datagram { from, to, payload })
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        if std::mem::take(&mut self.failed) {
            return Some(PeerEvent::Failed);
        }
        while let Some(event) = self.pc.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnIceConnectionStateChangeEvent(RTCIceConnectionState::Connected)
                    if !self.connected =>
                {
                    self.connected = true;
                    // The library has made its ClientHello, and gives it out when driven.
                    self.drive(self.latest);
                    return Some(PeerEvent::IceConnected);
                }
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(RTCPeerConnectionState::Connected) => {
                    return Some(PeerEvent::DtlsConnected);
                }
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(
                    RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed,
                ) => return Some(PeerEvent::Failed),
                RTCPeerConnectionEvent::OnDataChannel(event) => match event {
                    RTCDataChannelEvent::OnOpen(id) => return Some(PeerEvent::Open(self.channel(id))),
                    RTCDataChannelEvent::OnClose(_) => return Some(PeerEvent::Failed),
                    _ => {}
                },
                _ => {}
            }
        }
        None
    }

    /// The next message that a data channel has received.
    pub fn poll_message(&mut self) -> Option<(Channel, Bytes)> {
        while let Some(tagged) = self.pc.poll_read() {
            if let RTCMessage::DataChannelMessage(id, message) = tagged.message {
                return Some((self.channel(id), message.data.freeze()));
            }
        }
        None
    }

    /// Sends a message on a data channel.
    pub fn send(&mut self, now: Instant, channel: Channel, message: &[u8]) -> Result<(), PeerError> {
        let id = self.id(channel);
        if let Some(mut data_channel) = self.pc.data_channel(id) {
            data_channel.send(now, BytesMut::from(message))?;
        }
        Ok(())
    }

    /// Bytes given to `send` that the other end has not acknowledged.
    pub fn outstanding_bytes(&mut self, channel: Channel) -> usize {
        let id = self.id(channel);
        self.pc.data_channel(id).map_or(0, |data_channel| data_channel.outstanding_bytes())
    }

    /// From now on datagrams leave from another address, and ICE is not told: what a NAT that rebinds, or a change
    /// of network beneath a browser, looks like to the server.
    pub fn change_address(&mut self, now: Instant, local: SocketAddr) {
        self.wire_local = local;
        // What other ways there are, their connections notice by themselves.
        if self.connected && self.selected().is_none_or(|at| !self.others.contains(&at)) {
            self.announce = Some((now, ANNOUNCEMENTS));
        }
    }

    /// The address that datagrams leave from.
    pub fn local_address(&self) -> SocketAddr {
        self.wire_local
    }

    /// Closes the connection; the datagrams that say so are left to poll.
    pub fn close(&mut self) {
        self.announce = None;
        // A connection that cannot say goodbye is closed all the same.
        let _ = self.pc.close();
    }

    fn drive(&mut self, now: Instant) {
        if self.pc.handle_timeout(now).is_err() {
            self.failed = true;
        }
    }

    /// A check as Chromium sends it: it puts USE-CANDIDATE into every check of the pair it has selected, where the
    /// library does so once. The transaction stays the library's own, so that it knows the answer.
    fn nominating(&mut self, packet: &[u8], pair: (SocketAddr, SocketAddr)) -> Option<Bytes> {
        let remote = self.remote.as_mut()?;
        if !is_stun(packet) {
            remote.selected = Some(pair);
            return None;
        }
        let mut check = Message { raw: packet.to_vec(), ..Message::default() };
        check.decode().ok()?;
        if check.typ != BINDING_REQUEST {
            return None;
        }
        let mut controlling = AttrControlling::default();
        if controlling.get_from(&check).is_ok() {
            remote.tie_breaker = controlling.0;
        }
        if remote.selected != Some(pair) {
            return None;
        }
        self.own_check(check.transaction_id)
    }

    fn send_own_check(&mut self) {
        let Some((_, to)) = self.remote.as_ref().and_then(|remote| remote.selected) else {
            return;
        };
        if let Some(payload) = self.own_check(TransactionId::new()) {
            self.own_checks.push(Datagram { from: self.wire_local, to, payload });
        }
    }

    fn own_check(&self, transaction: TransactionId) -> Option<Bytes> {
        let remote = self.remote.as_ref()?;
        let local_ufrag = self
            .pc
            .local_description()?
            .sdp
            .lines()
            .find_map(|line| line.trim_end().strip_prefix("a=ice-ufrag:").map(str::to_owned))?;
        let attributes: [Box<dyn Setter + '_>; 8] = [
            Box::new(BINDING_REQUEST),
            Box::new(transaction),
            Box::new(Username::new(ATTR_USERNAME, format!("{}:{local_ufrag}", remote.ufrag))),
            Box::<UseCandidateAttr>::default(),
            Box::new(AttrControlling(remote.tie_breaker)),
            Box::new(PriorityAttr(HOST_PRIORITY)),
            Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
                remote.pwd.clone(),
                self.crypto.crypto(),
            )),
            Box::new(FINGERPRINT),
        ];
        let mut check = Message::new();
        check.build(&attributes).ok()?;
        Some(Bytes::from(check.raw))
    }

    fn channel(&self, id: RTCDataChannelId) -> Channel {
        if id == self.lossy { Channel::Lossy } else { Channel::Reliable }
    }

    fn id(&self, channel: Channel) -> RTCDataChannelId {
        match channel {
            Channel::Reliable => self.reliable,
            Channel::Lossy => self.lossy,
        }
    }
}

/// RFC 8445 §5.1.2.1: type preference 126, local preference 65,535, component 1.
const HOST_PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;

pub(crate) fn channel_init(channel: Channel) -> RTCDataChannelInit {
    match channel {
        Channel::Reliable => RTCDataChannelInit { negotiated: Some(0), ..RTCDataChannelInit::default() },
        Channel::Lossy => RTCDataChannelInit {
            negotiated: Some(1),
            ordered: false,
            max_retransmits: Some(0),
            ..RTCDataChannelInit::default()
        },
    }
}

/// RFC 7983: STUN packets begin with 0 to 3.
pub(crate) fn is_stun(packet: &[u8]) -> bool {
    packet.first().is_some_and(|&first| first < 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        answerer::Answerer,
        netsim::{HostId, LinkConfig, Network},
    };

    const MS: Duration = Duration::from_millis(1);

    struct Pair {
        now: Instant,
        network: Network,
        browser: HostId,
        peer: Peer,
        server: Answerer,
        events: Vec<(Duration, PeerEvent)>,
        at_browser: Vec<(Channel, Bytes)>,
        at_server: Vec<(Channel, Bytes)>,
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    impl Pair {
        fn new(link: LinkConfig, seed: u64) -> Self {
            let now = Instant::now();
            let (client, server) = (address("10.0.0.1:5000"), address("10.0.0.2:7882"));
            let mut network = Network::new(seed);
            let browser = network.add_host(link.clone(), link);
            network.bind(browser, client);
            let host = network.add_host(LinkConfig::default(), LinkConfig::default());
            network.bind(host, server);
            let (mut peer, offer) = Peer::new(now, client).unwrap();
            let (server, answer) = Answerer::new(now, server, &offer);
            peer.handle_answer(now, &answer).unwrap();
            let (events, at_browser, at_server) = (Vec::new(), Vec::new(), Vec::new());
            Self { now, network, browser, peer, server, events, at_browser, at_server }
        }

        fn run(&mut self, span: Duration) {
            let (start, end) = (self.now, self.now + span);
            loop {
                while let Some(event) = self.peer.poll_event() {
                    self.events.push((self.now - start, event));
                    if event == PeerEvent::Open(Channel::Reliable) {
                        self.peer.send(self.now, Channel::Reliable, b"at once").unwrap();
                    }
                }
                self.at_browser.extend(std::iter::from_fn(|| self.peer.poll_message()));
                self.server.drain();
                self.at_server.append(&mut self.server.messages);
                while let Some(datagram) = self.peer.poll_datagram() {
                    self.network.send(self.now, datagram);
                }
                while let Some(datagram) = self.server.poll_datagram() {
                    self.network.send(self.now, datagram);
                }
                let mut moved = false;
                while let Some((host, datagram)) = self.network.poll(self.now) {
                    moved = true;
                    if host == self.browser {
                        self.peer.handle_datagram(self.now, datagram.from, &datagram.payload);
                    } else {
                        self.server.handle_datagram(self.now, &datagram);
                    }
                }
                if moved {
                    continue;
                }
                let due = [self.peer.poll_timeout(), self.server.poll_timeout(), self.network.poll_timeout()];
                let next = due.into_iter().flatten().min().unwrap_or(end).max(self.now + MS / 100);
                if next >= end {
                    self.now = end;
                    return;
                }
                self.now = next;
                if self.peer.poll_timeout().is_some_and(|at| at <= next) {
                    self.peer.handle_timeout(next);
                }
                if self.server.poll_timeout().is_some_and(|at| at <= next) {
                    self.server.handle_timeout(next);
                }
            }
        }

        fn opened(&self, channel: Channel) -> bool {
            self.events.iter().any(|(_, event)| *event == PeerEvent::Open(channel))
        }
    }

    #[test]
    fn both_channels_open_and_carry_messages_both_ways() {
        let mut pair = Pair::new(LinkConfig { delay: 20 * MS, ..LinkConfig::default() }, 1);
        pair.run(3000 * MS);
        assert!(pair.opened(Channel::Reliable) && pair.opened(Channel::Lossy), "{:?}", pair.events);
        for channel in [Channel::Reliable, Channel::Lossy] {
            pair.peer.send(pair.now, channel, b"from the browser").unwrap();
            pair.server.send(pair.now, channel, b"from the server");
            pair.run(100 * MS);
            assert_eq!(pair.at_server.pop(), Some((channel, Bytes::from_static(b"from the browser"))));
            assert_eq!(pair.at_browser.pop(), Some((channel, Bytes::from_static(b"from the server"))));
        }
    }

    #[test]
    fn connecting_takes_round_trips_and_no_timers() {
        let mut pair = Pair::new(LinkConfig { delay: 20 * MS, ..LinkConfig::default() }, 1);
        pair.run(1000 * MS);
        let at = |wanted| pair.events.iter().find(|(_, event)| *event == wanted).unwrap().0;
        // A check and its nomination; DTLS with its cookie; SCTP.
        assert!(at(PeerEvent::IceConnected) <= 90 * MS, "{:?}", pair.events);
        assert!(at(PeerEvent::DtlsConnected) <= 210 * MS, "{:?}", pair.events);
        assert!(at(PeerEvent::Open(Channel::Reliable)) <= 290 * MS, "{:?}", pair.events);
    }

    #[test]
    fn a_lossy_network_is_overcome() {
        let link = LinkConfig {
            delay: 20 * MS,
            jitter: (10 * MS).into(),
            loss: 0.1.into(),
            ..LinkConfig::default()
        };
        let mut pair = Pair::new(link, 7);
        pair.run(15_000 * MS);
        assert!(pair.opened(Channel::Reliable), "{:?}", pair.events);
        for number in 0..200u32 {
            pair.peer.send(pair.now, Channel::Reliable, &number.to_be_bytes()).unwrap();
        }
        pair.run(10_000 * MS);
        let numbers: Vec<u32> = pair
            .at_server
            .iter()
            .skip(1)
            .map(|(_, m)| u32::from_be_bytes(m[..].try_into().unwrap()))
            .collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_address_is_announced_by_a_nominating_check_and_traffic_follows() {
        let mut pair = Pair::new(LinkConfig { delay: 20 * MS, ..LinkConfig::default() }, 1);
        pair.run(3000 * MS);
        let (old, new) = (pair.peer.local_address(), address("10.9.9.9:6000"));
        pair.network.readdress(pair.browser, old, new);
        pair.peer.change_address(pair.now, new);
        pair.run(200 * MS);
        assert_eq!(pair.server.path(), Some(new));
        pair.server.send(pair.now, Channel::Reliable, b"found you");
        pair.run(200 * MS);
        assert_eq!(pair.at_browser.pop(), Some((Channel::Reliable, Bytes::from_static(b"found you"))));
    }

    #[test]
    fn a_page_that_does_not_read_closes_the_receive_window() {
        let mut pair = Pair::new(LinkConfig { delay: MS, ..LinkConfig::default() }, 1);
        pair.run(3000 * MS);
        // Neither end polls messages of the browser here: only datagrams move.
        for _ in 0..600 {
            pair.server.send(pair.now, Channel::Reliable, &[7; 16 * 1024]);
        }
        for _ in 0..3_000 {
            pair.now += MS;
            while let Some(datagram) = pair.server.poll_datagram() {
                pair.peer.handle_datagram(pair.now, datagram.from, &datagram.payload);
            }
            while let Some(datagram) = pair.peer.poll_datagram() {
                pair.server.handle_datagram(pair.now, &datagram);
            }
            pair.peer.handle_timeout(pair.now);
            pair.server.handle_timeout(pair.now);
        }
        let held = pair.server.outstanding_bytes();
        assert!(held > 2 * 1024 * 1024, "the server could send all but {held} bytes");
        pair.run(30_000 * MS);
        assert_eq!(pair.at_browser.len(), 600, "and all arrives once the page reads");
    }
}
