//! One WebRTC peer: the only file that names the library's peer type.
//!
//! The engine (crate `rtc`) does DTLS, SCTP and data channels. ICE it is only made to believe in: it sees one
//! constant address at each end and an exchange in memory that connects them ([`super::ice::activate`]), while the
//! real paths, checks and restarts are [`super::ice::IceLite`]'s. So a path change or an ICE restart never touches
//! DTLS or SCTP (SFU5), and none of the engine's ICE timers matters.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rtc::{
    crypto::SignatureScheme,
    data_channel::{RTCDataChannelId, RTCDataChannelInit},
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        certificate::{CertificateParams, RTCCertificate},
        configuration::{
            RTCConfigurationBuilder,
            setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        },
        event::{RTCDataChannelEvent, RTCPeerConnectionEvent},
        message::{RTCMessage, TaggedRTCMessage},
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCDtlsRole, RTCIceCandidate},
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
};
use switchyard_signaling::limits;

use super::{
    ice::{self, Credentials},
    sdp::Offer,
};

/// Addresses reserved for documentation (RFC 5737): nothing is ever sent to them.
const HERE: ([u8; 4], u16) = ([192, 0, 2, 1], 9);
const THERE: ([u8; 4], u16) = ([192, 0, 2, 2], 9);

/// Bytes that the engine may hold of what a peer has sent and the application has not taken.
const RECEIVE_BUFFER: u32 = 256 * 1024;

/// Channels of a client's own making that are passed over; one that makes more is lost, for each costs memory.
const FOREIGN_CHANNELS: usize = 8;

/// Without data under way the engine's timers have nothing to do but to ask for the next tick.
const IDLE_TICK: Duration = Duration::from_secs(5);
/// A peer is idle after so long without a datagram: delayed SACKs have been sent (RFC 9260 §6.2: 200 ms).
const IDLE_AFTER: Duration = Duration::from_millis(500);

/// The server's DTLS certificate, one for all peers of a process.
#[derive(Clone, Debug)]
pub struct Identity(Arc<RTCCertificate>);

/// Why a peer could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The engine refused.
    #[error("the engine refused: {0}")]
    Engine(#[from] Error),
    /// The engine's ICE agent could not be connected.
    #[error(transparent)]
    Activation(#[from] ice::ActivationError),
    /// The engine has passed over the offer's media section, as it does with what it cannot make sense of.
    #[error("the offer's media section is not understood")]
    NoSection,
    /// The engine has panicked.
    #[error("the engine has panicked")]
    Panicked,
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(String),
}

impl Identity {
    /// Makes a self-signed ECDSA P-256 certificate.
    pub fn generate() -> Result<Self, PeerError> {
        let error = |error: &dyn std::fmt::Display| PeerError::Certificate(error.to_string());
        let provider = rtc::crypto::default_provider().map_err(|e| error(&e))?;
        let params = CertificateParams::new(vec!["switchyard".to_owned()]).map_err(|e| error(&e))?;
        let certificate =
            RTCCertificate::generate(provider.crypto(), SignatureScheme::EcdsaP256Sha256, params)
                .map_err(|e| error(&e))?;
        Ok(Self(Arc::new(certificate)))
    }
}

/// One of the two channels of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Id 0, ordered.
    Reliable,
    /// Id 1, unordered, never repeated.
    Lossy,
}

/// What has become of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// DTLS and SCTP are up, both channels can be written.
    Open,
    /// It is over, by the client's will or by failure.
    Closed,
}

/// A peer, without its paths.
///
/// Order of calls: [`handle_datagram`](Self::handle_datagram), [`send`](Self::send) or
/// [`handle_timeout`](Self::handle_timeout) as often as there is input, then the polls until `None`. Draining once
/// after many inputs lets the engine acknowledge them together and puts the packets side by side for GSO.
pub struct Peer {
    engine: RTCPeerConnection,
    reliable: RTCDataChannelId,
    lossy: RTCDataChannelId,
    answer: String,
    fingerprint: String,
    held_back: VecDeque<BytesMut>,
    last_input: Instant,
    /// Channels that the client made beyond the protocol's two.
    foreign_channels: usize,
    is_broken: bool,
    /// The owner knows that it is broken.
    is_reported: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer that answers the offer.
    pub fn new(
        offer: &Offer,
        local: &Credentials,
        identity: &Identity,
        now: Instant,
    ) -> Result<Self, PeerError> {
        // The engine parses what the client wrote; see `guarded`.
        catch_unwind(AssertUnwindSafe(|| Self::build(offer, local, identity, now)))
            .unwrap_or(Err(PeerError::Panicked))
    }

    fn build(
        offer: &Offer,
        local: &Credentials,
        identity: &Identity,
        now: Instant,
    ) -> Result<Self, PeerError> {
        let settings = SettingEngineBuilder::new()
            .with_lite(true)
            .with_answering_dtls_role(RTCDtlsRole::Server)
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .with_ice_timeouts(Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::ZERO))
            .with_ice_credentials(local.ufrag.clone(), local.pwd.clone())
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(limits::CHANNEL_MESSAGE_BYTES as u32))
            .with_sctp_max_receive_buffer_size(RECEIVE_BUFFER)
            .build();
        let configuration =
            RTCConfigurationBuilder::new().with_certificates(vec![(*identity.0).clone()]).build();
        let mut engine = RTCPeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_setting_engine(settings)
            .build(now)?;
        // Labels stay empty: the engine copies them for every message.
        let ordered = RTCDataChannelInit { negotiated: Some(0), ..Default::default() };
        let unordered = RTCDataChannelInit {
            negotiated: Some(1),
            ordered: false,
            max_retransmits: Some(0),
            ..Default::default()
        };
        let reliable = engine.create_data_channel("", Some(ordered))?.id();
        let lossy = engine.create_data_channel("", Some(unordered))?.id();
        engine.set_remote_description(now, RTCSessionDescription::offer(offer.for_engine.clone())?)?;
        let answer = engine.create_answer(None)?;
        if !answer.sdp.lines().any(|line| line.starts_with("a=ice-ufrag:")) {
            return Err(PeerError::NoSection);
        }
        engine.set_local_description(now, answer.clone())?;
        let host = CandidateHostConfig {
            base_config: CandidateConfig {
                network: "udp".to_owned(),
                address: SocketAddr::from(HERE).ip().to_string(),
                port: HERE.1,
                component: 1,
                ..Default::default()
            },
            ..Default::default()
        };
        let host = host.new_candidate_host()?;
        engine.add_local_candidate(RTCIceCandidate::from(&host).to_json()?)?;
        let mut peer = Self {
            engine,
            reliable,
            lossy,
            answer: answer.sdp,
            fingerprint: offer.fingerprint.clone(),
            held_back: VecDeque::new(),
            last_input: now,
            foreign_channels: 0,
            is_broken: false,
            is_reported: false,
        };
        ice::activate(local, &offer.credentials, HERE.into(), |message| peer.exchange(message, now))?;
        Ok(peer)
    }

    /// The engine's answer; its ICE parts are the caller's to replace.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Whether the offer comes from the peer that this one was made for.
    pub fn is_same_client(&self, offer: &Offer) -> bool {
        self.fingerprint == offer.fingerprint
    }

    /// Takes a DTLS datagram.
    pub fn handle_datagram(&mut self, datagram: BytesMut, now: Instant) -> Result<(), PeerError> {
        self.last_input = now;
        self.guarded(|engine| engine.handle_read(incoming(datagram, now)))?.map_err(PeerError::from)
    }

    /// Queues a message on a channel. The caller keeps to [`room`](Self::room), for the engine does not.
    pub fn send(&mut self, channel: Channel, message: BytesMut, now: Instant) -> Result<(), PeerError> {
        let id = self.id(channel);
        let send = |engine: &mut RTCPeerConnection| {
            engine.data_channel(id).ok_or(Error::ErrDataChannelClosed)?.send(now, message)
        };
        self.guarded(send)?.map_err(PeerError::from)
    }

    /// Bytes that the channel's queue in the engine still takes.
    pub fn room(&mut self, channel: Channel) -> usize {
        let id = self.id(channel);
        let outstanding =
            self.engine.data_channel(id).map_or(usize::MAX, |channel| channel.outstanding_bytes());
        limits::PIPE_BYTES.saturating_sub(outstanding)
    }

    /// Lets the engine do what is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        self.guarded(|engine| engine.handle_timeout(now))?.map_err(PeerError::from)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let due = self.guarded(RTCPeerConnection::poll_timeout).ok()??;
        // The engine's ICE agent wants to be woken five times a second for nothing.
        let idle = now.saturating_duration_since(self.last_input) >= IDLE_AFTER
            && self.room(Channel::Reliable) == limits::PIPE_BYTES
            && self.room(Channel::Lossy) == limits::PIPE_BYTES;
        Some(if idle { due.max(now + IDLE_TICK) } else { due })
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<BytesMut> {
        if let Some(datagram) = self.held_back.pop_front() {
            return Some(datagram);
        }
        loop {
            let datagram = self.guarded(RTCPeerConnection::poll_write).ok()??.message;
            if !is_stun(&datagram) {
                return Some(datagram);
            }
        }
    }

    /// The next message of the client.
    pub fn poll_message(&mut self) -> Option<(Channel, Bytes)> {
        loop {
            let TaggedRTCMessage { message, .. } = self.guarded(RTCPeerConnection::poll_read).ok()??;
            if let RTCMessage::DataChannelMessage(id, message) = message {
                if id == self.reliable {
                    return Some((Channel::Reliable, message.data.freeze()));
                } else if id == self.lossy {
                    return Some((Channel::Lossy, message.data.freeze()));
                }
                // A channel of the client's own making carries nothing that is understood here.
            }
        }
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        loop {
            let Ok(event) = self.guarded(RTCPeerConnection::poll_event) else {
                return (!std::mem::replace(&mut self.is_reported, true)).then_some(PeerEvent::Closed);
            };
            match event? {
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                    if id == self.reliable {
                        return Some(PeerEvent::Open);
                    } else if id != self.lossy {
                        self.foreign_channels += 1;
                        if self.foreign_channels > FOREIGN_CHANNELS {
                            return Some(PeerEvent::Closed);
                        }
                    }
                }
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(id))
                    if id == self.reliable || id == self.lossy =>
                {
                    return Some(PeerEvent::Closed);
                }
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(
                    RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed,
                ) => return Some(PeerEvent::Closed),
                _ => {}
            }
        }
    }

    /// Ends it; the polls yield what tells the client so.
    pub fn close(&mut self) {
        if let Ok(Err(error)) = self.guarded(Protocol::close) {
            tracing::debug!(%error, "closing a peer");
        }
    }

    /// Calls the engine. What a client sends must not end the server through a defect of a library: an engine that
    /// panics is never called again, and its peer is lost.
    fn guarded<T>(&mut self, call: impl FnOnce(&mut RTCPeerConnection) -> T) -> Result<T, PeerError> {
        if self.is_broken {
            return Err(PeerError::Panicked);
        }
        let engine = &mut self.engine;
        catch_unwind(AssertUnwindSafe(|| call(engine))).map_err(|_| {
            self.is_broken = true;
            tracing::error!("the WebRTC engine panicked; the peer is lost");
            PeerError::Panicked
        })
    }

    fn id(&self, channel: Channel) -> RTCDataChannelId {
        match channel {
            Channel::Reliable => self.reliable,
            Channel::Lossy => self.lossy,
        }
    }

    /// Hands the engine a STUN message and returns those that it sends in return.
    fn exchange(&mut self, message: &[u8], now: Instant) -> Vec<Vec<u8>> {
        if let Err(error) = self.engine.handle_read(incoming(message.into(), now)) {
            tracing::debug!(%error, "the engine refused a connectivity check");
        }
        let mut checks = Vec::new();
        while let Some(datagram) = self.engine.poll_write() {
            if is_stun(&datagram.message) {
                checks.push(datagram.message.to_vec());
            } else {
                self.held_back.push_back(datagram.message);
            }
        }
        checks
    }
}

fn incoming(message: BytesMut, now: Instant) -> TaggedBytesMut {
    let transport = TransportContext {
        local_addr: HERE.into(),
        peer_addr: THERE.into(),
        ecn: None,
        transport_protocol: TransportProtocol::UDP,
    };
    TaggedBytesMut { now, transport, message }
}

fn is_stun(datagram: &[u8]) -> bool {
    super::demux::classify(datagram) == super::demux::Kind::Stun
}
