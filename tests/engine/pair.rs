//! A client and a server peer of the real engine, and what lies between them in this server: our ICE-lite agent
//! and the guard before DTLS. Time is virtual; the engine draws its own random numbers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::data_channel::RTCDataChannelId;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::{RTCIceConnectionState, RTCPeerConnectionState};
use rtc::peer_connection::transport::{CandidateConfig, CandidateHostConfig, RTCDtlsRole, RTCIceCandidate};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use switchyard::engine::demux::{self, Kind};
use switchyard::engine::dtls_guard::{Admission, DtlsGuard, Refusal};
use switchyard::engine::ice::{self, ActivationError, Credentials, IceLite, Verdict};
use switchyard::engine::path::Path;

/// The engine's own address and the one it believes the client to have. Neither is ever on a wire.
const ENGINE: &str = "192.0.2.1:1";
const CLIENT_AS_SHOWN: &str = "192.0.2.2:1";
/// The server's address as the client sees it.
const SERVER: &str = "198.51.100.1:7882";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a peer has said.
#[derive(Default, Debug)]
pub(crate) struct Heard {
    pub(crate) ice: Vec<RTCIceConnectionState>,
    pub(crate) connection: Vec<RTCPeerConnectionState>,
    pub(crate) opened: Vec<RTCDataChannelId>,
    pub(crate) messages: Vec<Vec<u8>>,
}

fn listen(pc: &mut RTCPeerConnection, heard: &mut Heard) {
    while let Some(event) = pc.poll_event() {
        match event {
            RTCPeerConnectionEvent::OnIceConnectionStateChangeEvent(state) => heard.ice.push(state),
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => heard.connection.push(state),
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => heard.opened.push(id),
            _ => {}
        }
    }
    while let Some(message) = pc.poll_read() {
        if let RTCMessage::DataChannelMessage(_, message) = message.message {
            heard.messages.push(message.data.to_vec());
        }
    }
}

fn with_host_candidate(mut pc: RTCPeerConnection, at: SocketAddr) -> RTCPeerConnection {
    let candidate = CandidateHostConfig {
        base_config: CandidateConfig {
            network: "udp".to_owned(),
            address: at.ip().to_string(),
            port: at.port(),
            component: 1,
            ..Default::default()
        },
        ..Default::default()
    };
    let candidate = RTCIceCandidate::from(&candidate.new_candidate_host().unwrap()).to_json().unwrap();
    pc.add_local_candidate(candidate).unwrap();
    pc
}

/// The credentials in a description.
pub(crate) fn credentials(description: &RTCSessionDescription) -> Credentials {
    let value = |name: &str| {
        let line = description.sdp.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    Credentials { ufrag: value("a=ice-ufrag:"), pwd: value("a=ice-pwd:") }
}

/// The server's half: the engine, and our doors before it.
pub(crate) struct Server {
    pub(crate) pc: RTCPeerConnection,
    pub(crate) ice: IceLite,
    pub(crate) guard: DtlsGuard,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) heard: Heard,
    /// Datagrams for the client.
    pub(crate) out: VecDeque<Vec<u8>>,
}

impl Server {
    fn feed_engine(&mut self, now: Instant, datagram: &[u8]) {
        let transport = TransportContext {
            local_addr: address(ENGINE),
            peer_addr: address(CLIENT_AS_SHOWN),
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        self.pc.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(datagram) }).unwrap();
    }

    pub(crate) fn activate(
        &mut self,
        now: Instant,
        engine: &Credentials,
        client: &Credentials,
    ) -> Result<(), ActivationError> {
        ice::activate(engine, client, address(ENGINE), |message| {
            self.feed_engine(now, message);
            let mut stun = Vec::new();
            while let Some(written) = self.pc.poll_write() {
                assert_eq!(written.transport.peer_addr, address(CLIENT_AS_SHOWN), "the address is constant");
                match demux::classify(&written.message) {
                    Kind::Stun => stun.push(written.message.to_vec()),
                    _ => self.out.push_back(written.message.to_vec()),
                }
            }
            stun
        })
    }

    /// A datagram of the client.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        match demux::classify(datagram) {
            Kind::Stun => {
                if let Verdict::Accepted(accepted) = self.ice.handle(now, Path::Udp(from), from, datagram) {
                    self.out.push_back(accepted.response);
                }
            }
            Kind::Dtls => match self.guard.admit(datagram) {
                Ok(Admission::AsIs) => self.feed_engine(now, datagram),
                Ok(Admission::Rewritten(datagram)) => self.feed_engine(now, &datagram),
                Ok(Admission::Held) => {}
                Err(refusal) => self.refusals.push(refusal),
            },
            _ => {}
        }
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(written) = self.pc.poll_write() {
            assert_ne!(
                demux::classify(&written.message),
                Kind::Stun,
                "the engine keeps its checks to itself"
            );
            self.out.push_back(written.message.to_vec());
        }
        listen(&mut self.pc, &mut self.heard);
        if self.heard.connection.contains(&RTCPeerConnectionState::Connected) {
            self.guard.handshake_complete();
        }
    }
}

/// Whom datagrams are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Server,
    Client,
}

/// Two peers that have exchanged descriptions.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) client: RTCPeerConnection,
    pub(crate) client_heard: Heard,
    pub(crate) client_at: SocketAddr,
    /// The client is of the same engine and needs the same protection.
    pub(crate) client_guard: DtlsGuard,
    pub(crate) channel: RTCDataChannelId,
    pub(crate) server: Server,
    pub(crate) engine_credentials: Credentials,
    pub(crate) client_credentials: Credentials,
}

impl Pair {
    /// The server is the DTLS side that waits if `server_waits`, as it is for browsers.
    pub(crate) fn new(server_waits: bool) -> Self {
        let now = Instant::now();
        let client_at = address("203.0.113.5:40000");
        let settings =
            SettingEngineBuilder::new().with_multicast_dns_mode(MulticastDnsMode::Disabled).build();
        let client = RTCPeerConnectionBuilder::new().with_setting_engine(settings).build(now).unwrap();
        let mut client = with_host_candidate(client, client_at);
        let channel = client.create_data_channel("data", None).unwrap().id();

        let ours = Credentials::generate(3, &mut || 0x0123_4567_89ab_cdef);
        let role = if server_waits { RTCDtlsRole::Server } else { RTCDtlsRole::Client };
        let settings = SettingEngineBuilder::new()
            .with_lite(true)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_credentials(ours.ufrag.clone(), ours.pwd.clone())
            .with_ice_timeouts(Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::ZERO))
            .with_answering_dtls_role(role)
            .build();
        let server = RTCPeerConnectionBuilder::new().with_setting_engine(settings).build(now).unwrap();
        let server = with_host_candidate(server, address(ENGINE));

        let unset = Credentials { ufrag: String::new(), pwd: String::new() };
        let mut pair = Self {
            now,
            client,
            client_heard: Heard::default(),
            client_guard: DtlsGuard::new(),
            client_at,
            channel,
            server: Server {
                pc: server,
                ice: IceLite::new(&ours, &unset),
                guard: DtlsGuard::new(),
                refusals: Vec::new(),
                heard: Heard::default(),
                out: VecDeque::new(),
            },
            engine_credentials: ours.clone(),
            client_credentials: unset,
        };
        let offer = pair.client.create_offer(None).unwrap();
        pair.negotiate(&offer);
        pair.server.ice = IceLite::new(&ours, &credentials(&offer));
        pair
    }

    /// Offer and answer; the client is told the server's real address.
    pub(crate) fn negotiate(&mut self, offer: &RTCSessionDescription) {
        self.client.set_local_description(self.now, offer.clone()).unwrap();
        self.server.pc.set_remote_description(self.now, offer.clone()).unwrap();
        let answer = self.server.pc.create_answer(None).unwrap();
        self.server.pc.set_local_description(self.now, answer.clone()).unwrap();
        self.engine_credentials = credentials(&answer);
        self.client_credentials = credentials(offer);
        let [engine, server] = [ENGINE, SERVER].map(|text| text.replace(':', " "));
        let answer = RTCSessionDescription::answer(answer.sdp.replace(&engine, &server)).unwrap();
        self.client.set_remote_description(self.now, answer).unwrap();
    }

    pub(crate) fn activate(&mut self) -> Result<(), ActivationError> {
        let result = self.server.activate(self.now, &self.engine_credentials, &self.client_credentials);
        self.server.drain();
        result
    }

    /// What the client wants to send now.
    pub(crate) fn client_writes(&mut self) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        while let Some(datagram) = self.client.poll_write() {
            written.push(datagram.message.to_vec());
        }
        listen(&mut self.client, &mut self.client_heard);
        written
    }

    pub(crate) fn client_receives(&mut self, datagram: &[u8]) {
        let transport = TransportContext {
            local_addr: address("203.0.113.5:40000"),
            peer_addr: address(SERVER),
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        let is_dtls = demux::classify(datagram) == Kind::Dtls;
        let admission = if is_dtls { self.client_guard.admit(datagram).unwrap() } else { Admission::AsIs };
        let message = match admission {
            Admission::AsIs => BytesMut::from(datagram),
            Admission::Rewritten(datagram) => BytesMut::from(datagram.as_slice()),
            Admission::Held => return,
        };
        self.client.handle_read(TaggedBytesMut { now: self.now, transport, message }).unwrap();
        listen(&mut self.client, &mut self.client_heard);
        if self.client_heard.connection.contains(&RTCPeerConnectionState::Connected) {
            self.client_guard.handshake_complete();
        }
    }

    /// Lets the peers talk for `span`; `network` decides what arrives of the datagrams for a side.
    pub(crate) fn run(&mut self, span: Duration, mut network: impl FnMut(To, Vec<Vec<u8>>) -> Vec<Vec<u8>>) {
        let end = self.now + span;
        while self.now < end {
            loop {
                let to_server = self.client_writes();
                let to_client: Vec<_> = self.server.out.drain(..).collect();
                if to_server.is_empty() && to_client.is_empty() {
                    break;
                }
                for datagram in network(To::Server, to_server) {
                    self.server.receive(self.now, self.client_at, &datagram);
                }
                for datagram in network(To::Client, to_client) {
                    self.client_receives(&datagram);
                }
            }
            self.now += Duration::from_millis(10);
            self.client.handle_timeout(self.now).unwrap();
            self.server.pc.handle_timeout(self.now).unwrap();
            self.server.drain();
        }
    }
}

/// A repeatable source of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}
