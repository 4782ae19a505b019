//! For tests: the server's end of a peer connection, as small as it can be. ICE-lite, one constant remote address
//! shown to the library, and a path that follows the last nominating check. It authenticates nothing.

use std::{net::SocketAddr, time::Instant};

use bytes::{Bytes, BytesMut};
use rtc::{
    data_channel::RTCDataChannelId,
    ice::mdns::MulticastDnsMode,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        message::RTCMessage,
        sdp::RTCSessionDescription,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate},
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
    stun::{attributes::ATTR_USE_CANDIDATE, message::Message},
};

use crate::{
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
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(64 * 1024))
            .build();
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_setting_engine(settings)
            .build(now)
            .unwrap();
        let channels = [Channel::Reliable, Channel::Lossy].map(|channel| {
            pc.create_data_channel("", Some(channel_init(channel)))
                .unwrap()
                .id()
        });
        pc.set_remote_description(now, RTCSessionDescription::offer(offer.to_owned()).unwrap())
            .unwrap();
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
        pc.add_local_candidate(RTCIceCandidate::from(&candidate).to_json().unwrap())
            .unwrap();
        let answer = pc.create_answer(None).unwrap();
        pc.set_local_description(now, answer).unwrap();
        let sdp = pc.local_description().unwrap().sdp;
        (
            Self {
                pc,
                channels,
                local,
                path: None,
                messages: Vec::new(),
            },
            sdp,
        )
    }

    /// Where the server believes the browser to be.
    pub(crate) fn path(&self) -> Option<SocketAddr> {
        self.path
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &Datagram) {
        if is_stun(&datagram.payload) {
            let mut message = Message {
                raw: datagram.payload.to_vec(),
                ..Message::default()
            };
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
        let _ = self.pc.handle_read(TaggedBytesMut {
            now,
            transport,
            message,
        });
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
        Some(Datagram {
            from: self.local,
            to: self.path.unwrap_or(self.local),
            payload,
        })
    }

    /// Takes events and messages out of the library.
    pub(crate) fn drain(&mut self) {
        while self.pc.poll_event().is_some() {}
        while let Some(tagged) = self.pc.poll_read() {
            if let RTCMessage::DataChannelMessage(id, message) = tagged.message {
                let channel = if id == self.channels[0] {
                    Channel::Reliable
                } else {
                    Channel::Lossy
                };
                self.messages.push((channel, message.data.freeze()));
            }
        }
    }

    pub(crate) fn send(&mut self, now: Instant, channel: Channel, message: &[u8]) {
        let id = self.channels[usize::from(channel == Channel::Lossy)];
        self.pc
            .data_channel(id)
            .unwrap()
            .send(now, BytesMut::from(message))
            .unwrap();
    }

    pub(crate) fn outstanding_bytes(&mut self) -> usize {
        self.channels
            .iter()
            .map(|&id| self.pc.data_channel(id).unwrap().outstanding_bytes())
            .sum()
    }
}

/// The library selects a pair once; it sees the browser at one address whatever the path.
const SHOWN: &str = "198.51.100.1:1";
