//! STUN and TURN servers: a binding, or an allocation by UDP, TCP or TLS that is given back, and whether the relayed address
//! receives.

use std::{io, net::SocketAddr, time::Duration};

use switchyard_turn_config::stun::{
    Builder, Class, Integrity, Key, Message, PasswordAlgorithm, Transaction, attribute, method,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    LATE, Trouble, Verdict,
    ice::{AGAIN, udp_to},
    place::{Io, Trust, resolve, split},
    random, unreachable, words,
};

/// UDP, as `REQUESTED-TRANSPORT` has it.
const UDP: [u8; 4] = [17, 0, 0, 0];
const WORD: &[u8] = b"switchyard-doctor";
const GOODBYE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
    Tls,
}

/// A URL of RFC 7064 or RFC 7065.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    is_turn: bool,
    over: Over,
    host: String,
    port: u16,
}

impl Door {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (is_turn, over, usual) = match (scheme, query) {
            ("stun", "") => (false, Over::Udp, 3478),
            ("turn", "" | "transport=udp") => (true, Over::Udp, 3478),
            ("turn", "transport=tcp") => (true, Over::Tcp, 3478),
            ("turns", "" | "transport=tcp") => (true, Over::Tls, 5349),
            _ => return None,
        };
        let (host, port) = split(authority)?;
        Some(Self { is_turn, over, host: host.to_owned(), port: port.unwrap_or(usual) })
    }

    pub(super) fn test(&self) -> &'static str {
        match (self.is_turn, self.over) {
            (false, _) => "stun",
            (true, Over::Udp) => "turn-udp",
            (true, Over::Tcp) => "turn-tcp",
            (true, Over::Tls) => "turn-tls",
        }
    }

    /// A binding of a STUN server, an allocation of a TURN server.
    pub(super) async fn reach(
        &self,
        trust: &Trust,
        credentials: Option<(&str, &str)>,
    ) -> Result<(Option<Relay>, String), Trouble> {
        let addresses = resolve(&self.host, self.port).await?;
        let address = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(&addresses[0]);
        let (mut line, certificate) = self.connect(trust, *address).await?;
        if !self.is_turn {
            let transaction: Transaction = random();
            let request = Builder::new(Class::Request, method::BINDING, &transaction).finish(true);
            let answer = line
                .exchange(&request, &transaction)
                .await
                .map_err(|error| unreachable(&error, &self.advice()))?;
            let mapped = Message::parse(&answer).ok().and_then(|message| message.mapped);
            let mapped = mapped
                .ok_or_else(|| Trouble::failed("answers, and not by an address: this is no STUN server"))?;
            return Ok((None, format!("sees {}", mapped.ip())));
        }
        let credentials = credentials.ok_or_else(|| Trouble::failed("no credential came with this URL"))?;
        let relay = Relay::allocate(line, credentials).await?;
        let words = [format!("relays at {}", relay.address), certificate];
        Ok((
            Some(relay),
            words.iter().filter(|words| !words.is_empty()).cloned().collect::<Vec<_>>().join("; "),
        ))
    }

    async fn connect(&self, trust: &Trust, address: SocketAddr) -> Result<(Line, String), Trouble> {
        let failed = |error: io::Error| unreachable(&error, &self.advice());
        if self.over == Over::Udp {
            return Ok((Line::Datagrams(udp_to(address).await.map_err(failed)?), String::new()));
        }
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        if self.over == Over::Tcp {
            return Ok((Line::Stream(Box::new(stream)), String::new()));
        }
        let (stream, certificate) = trust.tls(&self.host, stream, "turn.listen.tls_certificate").await?;
        Ok((Line::Stream(Box::new(stream)), certificate))
    }

    fn advice(&self) -> String {
        let (protocol, setting) = match self.over {
            Over::Udp => ("UDP", "turn.listen.udp_port"),
            Over::Tcp => ("TCP", "turn.listen.tcp_port"),
            Over::Tls => ("TCP", "turn.listen.tls_port"),
        };
        format!(
            "open {protocol} port {} ({setting}) to clients, or tell them another address (turn.host, turn.relay.advertise_v4)",
            self.port
        )
    }

    /// What did not answer in time is told what to change as well.
    pub(super) fn advise(&self, trouble: Trouble) -> Trouble {
        trouble.if_late(&self.advice())
    }
}

/// What did not come in time.
pub(super) fn advise_relay(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Failed(words) if words.starts_with(LATE) => Trouble::failed(
            "nothing comes in there: open the relay's UDP ports to everybody (turn.relay.min_port to turn.relay.max_port), \
             or tell the address outside (turn.relay.advertise_v4, turn.relay.advertise_v6)",
        ),
        other => other,
    }
}

/// The way to a server.
enum Line {
    Datagrams(UdpSocket),
    Stream(Box<dyn Io>),
}

impl Line {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.send(message).await.map(|_| ()),
            Self::Stream(stream) => stream.write_all(message).await,
        }
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; 1500];
        match self {
            Self::Datagrams(socket) => {
                let length = socket.recv(&mut message).await?;
                message.truncate(length);
            }
            Self::Stream(stream) => {
                message.truncate(20);
                stream.read_exact(&mut message).await?;
                message.resize(20 + usize::from(u16::from_be_bytes([message[2], message[3]])), 0);
                stream.read_exact(&mut message[20..]).await?;
            }
        }
        Ok(message)
    }

    /// Sends a request and waits for its answer. To be given up by the caller.
    async fn exchange(&mut self, request: &[u8], transaction: &Transaction) -> io::Result<Vec<u8>> {
        loop {
            self.send(request).await?;
            loop {
                let received = match self {
                    // A datagram is sent again; a part of a message in a stream must not be given up.
                    Self::Datagrams(_) => match timeout(AGAIN, self.receive()).await {
                        Ok(received) => received?,
                        Err(_) => break,
                    },
                    Self::Stream(_) => self.receive().await?,
                };
                let is_it = |message: &Message<'_>| {
                    message.transaction == *transaction
                        && matches!(message.class, Class::Success | Class::Error)
                };
                if Message::parse(&received).is_ok_and(|message| is_it(&message)) {
                    return Ok(received);
                }
            }
        }
    }
}

/// An allocation.
pub(super) struct Relay {
    line: Line,
    signature: Signature,
    /// Where it relays.
    pub(super) address: SocketAddr,
    /// Where the server sees us.
    mapped: SocketAddr,
}

/// What requests are signed with.
struct Signature {
    username: Vec<u8>,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: Key,
}

impl Signature {
    fn seal(&self, request: Builder) -> Vec<u8> {
        request
            .attribute(attribute::USERNAME, &self.username)
            .attribute(attribute::REALM, &self.realm)
            .attribute(attribute::NONCE, &self.nonce)
            .sign(Integrity::Sha1, &self.key)
            .finish(false)
    }
}

impl Relay {
    async fn allocate(mut line: Line, (username, password): (&str, &str)) -> Result<Self, Trouble> {
        let broken = |error: io::Error| {
            Trouble::Failed(format!(
                "{}: this is no TURN server, or its firewall ends the connection",
                words(&error)
            ))
        };
        let transaction: Transaction = random();
        let asks = |transaction: &Transaction| {
            Builder::new(Class::Request, method::ALLOCATE, transaction)
                .attribute(attribute::REQUESTED_TRANSPORT, &UDP)
        };
        let answer = line.exchange(&asks(&transaction).finish(false), &transaction).await.map_err(broken)?;
        let challenge =
            Message::parse(&answer).ok().and_then(|message| Some((message.realm?, message.nonce?)));
        let (realm, nonce) =
            challenge.ok_or_else(|| Trouble::failed("asks for no credentials: this is no TURN server"))?;
        let key = Key::long_term(PasswordAlgorithm::Md5, username.as_bytes(), realm, password.as_bytes());
        let signature =
            Signature { username: username.into(), realm: realm.into(), nonce: nonce.into(), key };
        let transaction: Transaction = random();
        let answer =
            line.exchange(&signature.seal(asks(&transaction)), &transaction).await.map_err(broken)?;
        let message = Message::parse(&answer).map_err(|error| Trouble::Failed(error.to_string()))?;
        match (message.error, message.relayed, message.mapped) {
            (None, Some(address), Some(mapped)) => Ok(Self { line, signature, address, mapped }),
            (Some(code), ..) => Err(refused(code)),
            _ => Err(Trouble::failed(
                "grants an allocation without an address: this is a defect of the server",
            )),
        }
    }

    /// Whether a datagram to the relayed address comes through to us.
    pub(super) async fn receives(&mut self) -> Verdict {
        let socket = udp_to(self.address)
            .await
            .map_err(|error| unreachable(&error, "this machine cannot send there"))?;
        let transaction: Transaction = random();
        let request = Builder::new(Class::Request, method::CREATE_PERMISSION, &transaction)
            .address(attribute::XOR_PEER_ADDRESS, SocketAddr::new(self.mapped.ip(), 9));
        let request = self.signature.seal(request);
        let answer = self
            .line
            .exchange(&request, &transaction)
            .await
            .map_err(|error| Trouble::Failed(words(&error)))?;
        match Message::parse(&answer).ok().and_then(|message| message.error) {
            None => {}
            Some(403) => {
                return Err(Trouble::Skipped(format!(
                    "the relay does not send to {} (turn.allow, turn.deny); from another network this can be tested",
                    self.mapped.ip()
                )));
            }
            Some(code) => return Err(refused(code)),
        }
        let line = &mut self.line;
        let coming = async {
            while Message::parse(&line.receive().await?).ok().and_then(|message| message.data) != Some(WORD) {
            }
            io::Result::Ok(())
        };
        let sending = async {
            loop {
                socket.send(WORD).await?;
                sleep(AGAIN).await;
            }
        };
        let came = tokio::select! { came = coming => came, failed = sending => failed };
        came.map(|()| "receives from outside".to_owned()).map_err(|error| Trouble::Failed(words(&error)))
    }

    /// Gives the allocation back.
    pub(super) async fn close(mut self) {
        let transaction: Transaction = random();
        let request = Builder::new(Class::Request, method::REFRESH, &transaction)
            .attribute(attribute::LIFETIME, &[0; 4]);
        let request = self.signature.seal(request);
        let _ = timeout(GOODBYE, self.line.exchange(&request, &transaction)).await;
    }
}

fn refused(code: u16) -> Trouble {
    let advice = match code {
        401 | 441 => "the credentials: compare turn.credentials.secret and the clocks of both servers",
        403 => "this address (turn.deny)",
        437 | 438 => "it has no such allocation: is there a load balancer before it that divides one client?",
        486 => "the user's quota is used up (turn.quotas)",
        508 => "it has no free port (turn.relay.min_port, turn.relay.max_port, turn.quotas)",
        _ => "see the server's log",
    };
    Trouble::Failed(format!("the TURN server refuses with {code}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_stun_and_turn_are_read() {
        let read = |url| Door::parse(url).map(|door| (door.test(), door.host.clone(), door.port));
        for (url, test, host, port) in [
            ("stun:a.example", "stun", "a.example", 3478),
            ("turn:a.example:80?transport=udp", "turn-udp", "a.example", 80),
            ("turn:[2001:db8::1]?transport=tcp", "turn-tcp", "2001:db8::1", 3478),
            ("turns:a.example?transport=tcp", "turn-tls", "a.example", 5349),
        ] {
            assert_eq!(read(url), Some((test, host.to_owned(), port)), "{url}");
        }
        for url in ["", "stun:", "http://a", "turns:a?transport=udp", "turn:a:x"] {
            assert_eq!(read(url), None, "{url}");
        }
    }
}
