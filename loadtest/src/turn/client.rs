//! One allocation on a TURN server: allocating, permissions, channels and refreshing are the library's; this frames them
//! for streams and puts what happens into words.
//!
//! No sockets and no clock. After any call, take everything from [`Relayed::poll_transmit`] and [`Relayed::poll_event`], and
//! call [`Relayed::handle_timeout`] at [`Relayed::poll_timeout`].

use std::{net::SocketAddr, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use ring::hmac;
use rtc::{
    crypto,
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
};
use rtc_turn::client::{Client, ClientConfig, Event};

use super::framing::{next_message, put_message};

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
    /// A datagram from a peer.
    Data(SocketAddr, Bytes),
    /// It cannot be had or used, for this reason.
    Failed(String),
}

/// See the module.
pub struct Relayed {
    client: Client,
    server: SocketAddr,
    local: SocketAddr,
    carrier: Carrier,
    stream: BytesMut,
    address: Option<SocketAddr>,
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
        Ok(Self { client, server, local, carrier, stream: BytesMut::new(), address: None, failed: None })
    }

    /// A datagram from the server, or the next piece of its stream.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.carrier == Carrier::Datagrams {
            return self.handle_message(now, BytesMut::from(bytes));
        }
        self.stream.extend_from_slice(bytes);
        loop {
            match next_message(&mut self.stream) {
                Ok(Some(message)) => self.handle_message(now, BytesMut::from(&message[..])),
                Ok(None) => return,
                Err(error) => return self.fail(error.to_string()),
            }
        }
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
        let message = self.client.poll_write()?.message;
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

    fn handle_message(&mut self, now: Instant, message: BytesMut) {
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: self.server,
            transport_protocol: transport(self.carrier),
            ecn: None,
        };
        // A message that is not understood is dropped, as a datagram that did not come.
        let _ = self.client.handle_read(TaggedBytesMut { now, transport, message });
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
