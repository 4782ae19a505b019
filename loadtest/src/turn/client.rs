//! One allocation on a TURN server: allocating, permissions, channels and refreshing are the library's; this frames them
//! for streams and puts what happens into words.
//!
//! No sockets and no clock. After any call, take everything from [`Relayed::poll_transmit`] and [`Relayed::poll_event`], and
//! call [`Relayed::handle_timeout`] at [`Relayed::poll_timeout`].

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use ring::hmac;
use rtc::{
    crypto,
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
};
use rtc_turn::client::{Client, ClientConfig, Event};

use super::{
    framing::{next_message, put_message},
    wrapping::{attribute, is_data},
};

/// How the server is reached. What an allocation relays is always UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Datagrams.
    Datagrams,
    /// A TCP or TLS stream.
    Stream,
}

/// Long-term credentials (RFC 8489 §9.2).
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// Its password.
    pub password: String,
}

/// What happens to an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayEvent {
    /// It has this relayed address.
    Allocated(SocketAddr),
    /// The peer may send to it, and it to the peer.
    Permitted(SocketAddr),
    /// The channel of this number has been bound, the one that was asked for last.
    Bound(u16),
    /// A datagram from a peer.
    Data(SocketAddr, Bytes),
    /// It cannot be had or used, for this reason.
    Failed(String),
}

/// A request for a channel, which the library does not tell the outcome of.
#[derive(Clone, Copy, Debug)]
struct ChannelBind {
    transaction: [u8; 12],
    number: u16,
}

/// Message types and attributes (RFC 8656 §17, §18).
const CHANNEL_BIND: [u8; 2] = [0x00, 0x09];
const CHANNEL_BIND_SUCCESS: [u8; 2] = [0x01, 0x09];
const CHANNEL_BIND_ERROR: [u8; 2] = [0x01, 0x19];
const CHANNEL_NUMBER: u16 = 0x000c;
const ERROR_CODE: u16 = 0x0009;

/// See the module.
pub struct Relayed {
    client: Client,
    server: SocketAddr,
    local: SocketAddr,
    carrier: Carrier,
    stream: BytesMut,
    /// Taken from the library, and not from here.
    transmits: VecDeque<BytesMut>,
    address: Option<SocketAddr>,
    asked: Option<ChannelBind>,
    bound: Option<u16>,
    failed: Option<String>,
}

impl Credentials {
    /// Short-lived ones, made with the secret that is shared with the server (the TURN REST API): the name is when they
    /// expire and the user, the password a keyed hash of that.
    pub fn from_secret(secret: &str, user: &str, expires_unix: u64) -> Self {
        let username = format!("{expires_unix}:{user}");
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let password = BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Self { username, password }
    }
}

impl Relayed {
    /// Asks for an allocation.
    pub fn new(
        now: Instant,
        server: SocketAddr,
        carrier: Carrier,
        credentials: Credentials,
    ) -> Result<Self, String> {
        // The library tells paths apart by it; here there is one only.
        let local = SocketAddr::new(server.ip(), 0);
        let config = ClientConfig {
            turn_serv_addr: server.to_string(),
            local_addr: local,
            transport_protocol: transport(carrier),
            username: credentials.username,
            password: credentials.password,
            software: "switchyard-loadtest".to_owned(),
            ..ClientConfig::default()
        };
        let provider = crypto::default_provider().map_err(|error| error.to_string())?;
        let mut client = Client::new(config, provider).map_err(|error| error.to_string())?;
        client.allocate(now).map_err(|error| error.to_string())?;
        let (stream, transmits) = (BytesMut::new(), VecDeque::new());
        let (address, asked, bound, failed) = (None, None, None, None);
        Ok(Self { client, server, local, carrier, stream, transmits, address, asked, bound, failed })
    }

    /// A datagram from the server, or the next piece of its stream.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.carrier == Carrier::Datagrams {
            return self.handle_message(now, bytes);
        }
        self.stream.extend_from_slice(bytes);
        loop {
            match next_message(&mut self.stream) {
                Ok(Some(message)) => self.handle_message(now, &message),
                Ok(None) => return,
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    /// One message from the server, without the padding that it has in a stream.
    pub fn handle_message(&mut self, now: Instant, message: &[u8]) {
        self.look_for_channel(message);
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: self.server,
            transport_protocol: transport(self.carrier),
            ecn: None,
        };
        let message = BytesMut::from(message);
        // A message that is not understood is dropped, as a datagram that did not come.
        let _ = self.client.handle_read(TaggedBytesMut { now, transport, message });
    }

    /// Lets a peer send to this allocation, and this allocation to the peer.
    pub fn permit(&mut self, now: Instant, peer: SocketAddr) {
        let Some(mut relay) = self.address.and_then(|address| self.client.relay(address).ok()) else {
            return self.fail("there is no allocation to permit anything".to_owned());
        };
        if let Err(error) = relay.create_permission(now, peer) {
            self.fail(error.to_string());
        }
    }

    /// Binds a channel to a peer that is permitted, or refreshes it if it is more than five minutes old. To be called once
    /// a minute for a channel that [`send`](Self::send) does not use.
    pub fn bind(&mut self, now: Instant, peer: SocketAddr) {
        // The library asks for a channel when something is sent, which itself is not to go.
        if let Err(why) = self.send(now, peer, &[]) {
            self.fail(why);
        }
        while let Some(transmit) = self.client.poll_write() {
            if !is_data(&transmit.message) {
                self.transmits.push_back(transmit.message);
            }
        }
    }

    /// Sends a datagram to a peer: as a Send indication, or as channel data once the channel that this asks for is there.
    pub fn send(&mut self, now: Instant, peer: SocketAddr, payload: &[u8]) -> Result<(), String> {
        let address = self.address.ok_or("there is no allocation")?;
        let mut relay = self.client.relay(address).map_err(|error| error.to_string())?;
        relay.send_to(now, payload, peer).map_err(|error| error.to_string())
    }

    /// Gives the allocation back.
    pub fn close(&mut self, now: Instant) {
        if let Some(mut relay) = self.address.and_then(|address| self.client.relay(address).ok()) {
            // A server that does not hear it lets the allocation expire.
            let _ = relay.close(now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.client.handle_timeout(now) {
            self.fail(error.to_string());
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    /// The next datagram for the server, or the next bytes for its stream.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        let next = self.transmits.pop_front();
        let message = next.or_else(|| Some(self.client.poll_write()?.message))?;
        if message.starts_with(&CHANNEL_BIND)
            && let Some(transaction) = message.get(8..).and_then(|rest| rest.first_chunk())
            && let Some(number) = attribute(&message, CHANNEL_NUMBER).and_then(|value| value.first_chunk())
        {
            let (transaction, number) = (*transaction, u16::from_be_bytes(*number));
            self.asked = Some(ChannelBind { transaction, number });
        }
        if self.carrier == Carrier::Datagrams {
            return Some(message.freeze());
        }
        let mut framed = BytesMut::with_capacity(message.len() + 3);
        put_message(&mut framed, &message);
        Some(framed.freeze())
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        if let Some(why) = self.failed.take() {
            return Some(RelayEvent::Failed(why));
        }
        if let Some(number) = self.bound.take() {
            return Some(RelayEvent::Bound(number));
        }
        while let Some(event) = self.client.poll_event() {
            return Some(match event {
                Event::AllocateResponse(_, address) => {
                    self.address = Some(address);
                    RelayEvent::Allocated(address)
                }
                Event::CreatePermissionResponse(_, peer) => RelayEvent::Permitted(peer),
                Event::DataIndicationOrChannelData(_, peer, data) => RelayEvent::Data(peer, data.freeze()),
                Event::AllocateError(_, error) => RelayEvent::Failed(format!("allocating: {error}")),
                Event::CreatePermissionError(_, error) => {
                    RelayEvent::Failed(format!("asking for a permission: {error}"))
                }
                Event::TransactionTimeout(_) => {
                    RelayEvent::Failed("the server does not answer a request".to_owned())
                }
                // Bindings are not asked for; what comes with a later version is not this client's.
                _ => continue,
            });
        }
        None
    }

    /// The answer to the request for a channel.
    fn look_for_channel(&mut self, message: &[u8]) {
        let (Some(kind), Some(asked)) = (message.first_chunk(), self.asked) else { return };
        if message.get(8..20) != Some(&asked.transaction) {
            return;
        }
        match *kind {
            CHANNEL_BIND_SUCCESS => self.bound = Some(asked.number),
            CHANNEL_BIND_ERROR => {
                let code = attribute(message, ERROR_CODE).and_then(|value| value.get(2..4));
                let code = code.map_or(0, |code| u32::from(code[0]) * 100 + u32::from(code[1]));
                self.fail(format!("asking for a channel: error {code}"));
            }
            _ => {}
        }
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }
}

fn transport(carrier: Carrier) -> TransportProtocol {
    match carrier {
        Carrier::Datagrams => TransportProtocol::UDP,
        Carrier::Stream => TransportProtocol::TCP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_rest_convention() {
        // openssl: printf '1700000000:alice' | openssl dgst -sha1 -hmac secret -binary | base64
        let credentials = Credentials::from_secret("secret", "alice", 1_700_000_000);
        assert_eq!(credentials.username, "1700000000:alice");
        assert_eq!(credentials.password, "d8soP47RbdIKLDUOpnJPVQyq5Ts=");
    }
}
