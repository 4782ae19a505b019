//! For tests: a server as small as it can be, without sockets. [`Answerer`] is the server's end of a peer connection:
//! ICE-lite, one constant remote address shown to the library, and a path that follows the last nominating check.
//! [`Session`] is the server's half of the protocol for one client. They authenticate and refuse nothing.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use rtc::{
    data_channel::RTCDataChannelId,
    ice::mdns::MulticastDnsMode,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        message::RTCMessage,
        sdp::RTCSessionDescription,
        transport::{CandidateConfig, CandidateHostConfig, RTCDtlsRole, RTCIceCandidate},
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
    stun::{attributes::ATTR_USE_CANDIDATE, message::Message as Stun},
};

use switchyard_signaling::{
    Code, Features,
    assembly::Assembly,
    event::Origin,
    frame::{self, Frame, Frames, Kind, LossyHeader, Reliable, Target},
    lane::{Arrival, Message, Polled, Receiver, Sender},
    limits::Limits,
    message::{ClientText, Description, Follow, Log, Refusal, ServerControl, ServerText, to_json},
    record::ServerRecord,
};

use crate::{
    browser::{Incoming, Lane, Pipe},
    netsim::Datagram,
    peer::{Channel, channel_init, is_stun},
};

pub(crate) struct Answerer {
    pc: RTCPeerConnection,
    channels: [RTCDataChannelId; 2],
    local: SocketAddr,
    path: Option<SocketAddr>,
    pub(crate) messages: Vec<(Channel, Bytes)>,
}

impl Answerer {
    pub(crate) fn new(now: Instant, local: SocketAddr, offer: &str) -> (Self, String) {
        let settings = SettingEngineBuilder::new()
            .with_lite(true)
            .with_answering_dtls_role(RTCDtlsRole::Server)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(64 * 1024))
            .build();
        let mut pc = RTCPeerConnectionBuilder::new().with_setting_engine(settings).build(now).unwrap();
        let channels = [Channel::Reliable, Channel::Lossy]
            .map(|channel| pc.create_data_channel("", Some(channel_init(channel))).unwrap().id());
        pc.set_remote_description(now, RTCSessionDescription::offer(offer.to_owned()).unwrap()).unwrap();
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
        .new_candidate_host()
        .unwrap();
        pc.add_local_candidate(RTCIceCandidate::from(&candidate).to_json().unwrap()).unwrap();
        let answer = pc.create_answer(None).unwrap();
        pc.set_local_description(now, answer).unwrap();
        let sdp = pc.local_description().unwrap().sdp;
        (Self { pc, channels, local, path: None, messages: Vec::new() }, sdp)
    }

    /// Where the server believes the browser to be.
    pub(crate) fn path(&self) -> Option<SocketAddr> {
        self.path
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &Datagram) {
        if is_stun(&datagram.payload) {
            let mut message = Stun { raw: datagram.payload.to_vec(), ..Stun::default() };
            if message.decode().is_ok() && message.contains(ATTR_USE_CANDIDATE) || self.path.is_none() {
                self.path = Some(datagram.from);
            }
        }
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: SHOWN.parse().unwrap(),
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        let message = BytesMut::from(&datagram.payload[..]);
        let _ = self.pc.handle_read(TaggedBytesMut { now, transport, message });
        // The library makes a negotiated channel ready when the event of the association is polled. A message that
        // comes in before that, in the same batch of datagrams, would be lost without a word.
        self.drain();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.pc.handle_timeout(now).unwrap();
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        self.pc.poll_timeout()
    }

    pub(crate) fn poll_datagram(&mut self) -> Option<Datagram> {
        let payload = self.pc.poll_write()?.message.freeze();
        Some(Datagram { from: self.local, to: self.path.unwrap_or(self.local), payload })
    }

    /// Takes events and messages out of the library.
    pub(crate) fn drain(&mut self) {
        while self.pc.poll_event().is_some() {}
        while let Some(tagged) = self.pc.poll_read() {
            if let RTCMessage::DataChannelMessage(id, message) = tagged.message {
                let channel = if id == self.channels[0] { Channel::Reliable } else { Channel::Lossy };
                self.messages.push((channel, message.data.freeze()));
            }
        }
    }

    pub(crate) fn send(&mut self, now: Instant, channel: Channel, message: &[u8]) {
        let id = self.channels[usize::from(channel == Channel::Lossy)];
        self.pc.data_channel(id).unwrap().send(now, BytesMut::from(message)).unwrap();
    }

    pub(crate) fn outstanding_bytes(&mut self) -> usize {
        self.channels.iter().map(|&id| self.pc.data_channel(id).unwrap().outstanding_bytes()).sum()
    }
}

/// The library selects a pair once; it sees the browser at one address whatever the path.
const SHOWN: &str = "198.51.100.1:1";

/// The server's half for one client: its pipes and lane, nothing refused.
pub(crate) struct Session {
    pub(crate) answerer: Option<Answerer>,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) assembly: Assembly,
    pub(crate) attached: Option<Pipe>,
    pub(crate) generation: u32,
    pub(crate) texts: Vec<String>,
    pub(crate) urgent: [BytesMut; 2],
    pub(crate) lossy: Vec<Bytes>,
    pub(crate) joined: bool,
    /// Names the session; another one than the client resumes is not this one.
    pub(crate) id: u32,
    /// Where there is a log: the origin for the client.
    pub(crate) origin: Option<Origin>,
    /// The client asks to follow it from here.
    pub(crate) asks: Option<Follow>,
    /// LOG messages that have come.
    pub(crate) records: Vec<Bytes>,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            id: 0,
            origin: None,
            asks: None,
            records: Vec::new(),
            answerer: None,
            sender: Sender::new(1 << 20),
            receiver: Receiver::default(),
            assembly: Assembly::new(1 << 18, 1 << 22),
            attached: None,
            generation: 0,
            texts: Vec::new(),
            urgent: [BytesMut::new(), BytesMut::new()],
            lossy: Vec::new(),
            joined: false,
        }
    }

    pub(crate) fn answer(&mut self, now: Instant, address: SocketAddr, offer: &Description) {
        let (answerer, sdp) = Answerer::new(now, address, &offer.sdp);
        self.answerer = Some(answerer);
        self.texts.push(to_json(&ServerText::Answer(Description { pc: offer.pc, sdp })));
    }

    pub(crate) fn take_text(&mut self, now: Instant, text: &str, member: u32, address: SocketAddr) {
        match ClientText::parse(text).unwrap() {
            ClientText::Hello { resume, .. } => {
                let resumed = resume.as_ref().is_some_and(|resume| resume.session == self.name());
                if resume.is_some() && !resumed {
                    let refusal = Refusal::new(None, Code::UnknownSession, "gone");
                    self.texts.push(to_json(&ServerText::Error(refusal)));
                }
                let (limits, ping_interval_ms) = (Limits::default(), 10_000);
                self.texts.push(to_json(&ServerText::Welcome {
                    v: 1,
                    resumed,
                    limits,
                    ping_interval_ms,
                    ice: None,
                    features: None,
                    ack: None,
                }));
            }
            ClientText::Join { id, room, offer, follow, .. } => {
                if !self.joined {
                    self.joined = true;
                    self.attached = Some(Pipe::Socket);
                    self.generation = 1;
                    let (session, ticket) = (self.name(), "ticket".to_owned());
                    let features = Features::default();
                    self.texts.push(to_json(&ServerText::Session { session, ticket, ice: None, features }));
                }
                let log = self.origin.filter(|_| follow.is_some()).map(|origin| Log { origin });
                self.asks = follow;
                self.sender.push(1, Arc::new(joined(id, room, member, log))).unwrap();
                if let Some(offer) = offer {
                    self.answer(now, address, &offer);
                }
            }
            ClientText::Offer(offer) => self.answer(now, address, &offer),
            ClientText::Candidate { .. }
            | ClientText::Ping { .. }
            | ClientText::IceServers {}
            | ClientText::Attempt(_)
            | ClientText::Quality(_)
            | ClientText::Keep { .. }
            | ClientText::Bye => {}
        }
    }

    fn name(&self) -> String {
        format!("session {}", self.id)
    }

    /// Sends records of the log.
    pub(crate) fn tell(&mut self, now: Instant, records: &[ServerRecord]) {
        let mut payload = BytesMut::new();
        records.iter().for_each(|record| record.put(&mut payload));
        let (kind, target, payload) = (Kind::Log, Target::Room, payload.freeze());
        let message = Message { kind, text: false, sender: 0, stream: 0, target, payload, at: now };
        self.sender.push(1, Arc::new(message)).unwrap();
    }

    /// Passes a message on to this client.
    pub(crate) fn deliver(&mut self, now: Instant, sender: u32, message: &Incoming) {
        let Incoming { stream, text, target, payload, .. } = message.clone();
        if message.lane == Lane::Lossy {
            let mut frame = BytesMut::new();
            let header = LossyHeader { text, room: 1, sender, stream, seq: 1, target };
            frame::put_lossy(&mut frame, &header, &payload);
            self.lossy.push(frame.freeze());
        } else {
            let kind = Kind::Data;
            let message = Message { kind, text, sender, stream, target, payload, at: now };
            self.sender.push(1, Arc::new(message)).unwrap();
        }
    }

    pub(crate) fn take_frames(&mut self, now: Instant, pipe: Pipe, message: Bytes) -> Vec<Incoming> {
        let mut incoming = Vec::new();
        for frame in Frames::new(message) {
            match frame.unwrap() {
                Frame::Reliable { lane_seq, ack, body: Reliable::Chunk(header, payload) } => {
                    assert!(self.sender.handle_ack(ack));
                    match self.receiver.handle(lane_seq, payload.len(), now) {
                        Arrival::Next => {}
                        Arrival::Duplicate => continue,
                        Arrival::Ahead => {
                            assert_ne!(self.attached, Some(pipe), "lane gap");
                            continue;
                        }
                    }
                    let Some(whole) = self.assembly.handle(header, payload).unwrap() else { continue };
                    if whole.kind == Kind::Log {
                        self.records.push(whole.payload);
                    } else if whole.kind == Kind::Data {
                        incoming.push(Incoming {
                            room: whole.room,
                            sender: 0,
                            stream: whole.stream,
                            lane: Lane::Reliable,
                            target: whole.target,
                            text: whole.text,
                            payload: whole.payload,
                        });
                    }
                }
                Frame::Lossy(header, payload) => incoming.push(Incoming {
                    room: header.room,
                    sender: 0,
                    stream: header.stream,
                    lane: Lane::Lossy,
                    target: header.target,
                    text: header.text,
                    payload,
                }),
                Frame::Ack(ack) => assert!(self.sender.handle_ack(ack)),
                Frame::Ping(nonce) => frame::put_pong(&mut self.urgent[pipe as usize], nonce),
                Frame::Pong(_) => {}
                Frame::Attach { generation, ack } => {
                    if generation <= self.generation {
                        // It was overtaken on its way by a later one on the other pipe.
                        let refusal = Refusal::new(None, Code::StaleAttach, "stale");
                        self.texts.push(to_json(&ServerText::Error(refusal)));
                        continue;
                    }
                    self.generation = generation;
                    self.attached = Some(pipe);
                    let own = self.receiver.ack();
                    frame::put_attached(&mut self.urgent[pipe as usize], generation, own);
                    assert!(self.sender.attach(ack));
                }
                other => panic!("{other:?}"),
            }
        }
        incoming
    }

    pub(crate) fn fill(&mut self, now: Instant, pipe: Pipe, most: usize) -> Option<Bytes> {
        let mut message = std::mem::take(&mut self.urgent[pipe as usize]);
        if self.attached == Some(pipe) {
            let ack = self.receiver.ack();
            if self.receiver.poll_timeout().is_some_and(|at| at <= now) {
                frame::put_ack(&mut message, ack);
            }
            let before = message.len();
            while self.sender.poll(ack, most - message.len(), &mut message) == Polled::Frame {}
            if message.len() > before || self.receiver.poll_timeout().is_some_and(|at| at <= now) {
                self.receiver.acknowledged();
            }
        }
        (!message.is_empty()).then(|| message.freeze())
    }
}

fn joined(id: u32, room: String, member: u32, log: Option<Log>) -> Message {
    let joined = ServerControl::Joined {
        id,
        room,
        handle: 1,
        member,
        user: format!("user {member}"),
        name: format!("user {member}"),
        role: "editor".to_owned(),
        permissions: Vec::new(),
        topics: Vec::new(),
        members: Vec::new(),
        log,
    };
    let (kind, target, at) = (Kind::Control, Target::Room, Instant::now());
    Message { kind, text: true, sender: 0, stream: 0, target, payload: to_json(&joined).into(), at }
}
