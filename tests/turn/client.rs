//! A TURN client on a real socket that says what a test tells it to, right or wrong; the bytes are the codec's.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use switchyard_turn_config::{
    credentials::Credential,
    framing,
    stun::{Builder, Class, Integrity, Key, Message, PasswordAlgorithm, Transaction, attribute, method},
};

use crate::relay::{REALM, SECRET, credential};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this a datagram that is not answered is repeated.
const REPEAT: Duration = Duration::from_millis(500);

pub(crate) struct Client {
    wire: Wire,
    /// Messages that have come and not been heard.
    come: VecDeque<Vec<u8>>,
    pub(crate) credential: Credential,
    pub(crate) realm: String,
    pub(crate) nonce: Vec<u8>,
    transactions: u64,
}

enum Wire {
    Datagrams(UdpSocket),
    Stream(TcpStream, Box<framing::Stream>),
}

/// The answer to a request.
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// 200, or that of the error.
    pub(crate) fn code(&self) -> u16 {
        let message = self.message();
        if message.class == Class::Success { 200 } else { message.error.unwrap() }
    }
}

impl Client {
    /// A client of this user, who has a good credential.
    pub(crate) fn over_udp(from: IpAddr, server: SocketAddr, user: &str) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(server).unwrap();
        Self::new(Wire::Datagrams(socket), user)
    }

    /// The same over TCP.
    pub(crate) fn over_tcp(from: IpAddr, server: SocketAddr, user: &str) -> Self {
        let stream = connect(from, server).unwrap();
        Self::new(Wire::Stream(stream, Box::new(framing::Stream::new(Instant::now()))), user)
    }

    fn new(wire: Wire, user: &str) -> Self {
        Self {
            wire,
            come: VecDeque::new(),
            credential: credential(user, SECRET),
            realm: REALM.to_owned(),
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    /// Sends these bytes.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Datagrams(socket) => socket.send(bytes).map(drop),
            Wire::Stream(stream, _) => stream.write_all(bytes),
        }
    }

    /// The next message, without the padding that a stream has; `None` if none comes in time, or the connection is closed.
    pub(crate) fn hear(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + patience;
        while self.come.is_empty() {
            let left = until.checked_duration_since(Instant::now())?;
            let mut buffer = [0; 65_536];
            let Self { wire, come, .. } = self;
            match wire {
                Wire::Datagrams(socket) => {
                    socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
                    let Ok(length) = socket.recv(&mut buffer) else { continue };
                    come.push_back(buffer[..length].to_vec());
                }
                Wire::Stream(stream, framing) => {
                    stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
                    match stream.read(&mut buffer) {
                        Ok(0) => return None,
                        Ok(read) => framing
                            .handle(Instant::now(), &buffer[..read], |message| {
                                come.push_back(message.to_vec())
                            })
                            .expect("a server that frames its messages"),
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                        Err(_) => {}
                    }
                }
            }
        }
        self.come.pop_front()
    }

    /// Of which the next request will be.
    pub(crate) fn next_transaction(&self) -> Transaction {
        let mut transaction = Transaction::default();
        transaction[..8].copy_from_slice(&(self.transactions + 1).to_be_bytes());
        transaction
    }

    /// A request, signed if there is a nonce to sign with.
    pub(crate) fn request(&mut self, method: u16, build: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
        let builder = build(Builder::new(Class::Request, method, &self.next_transaction()));
        self.transactions += 1;
        if self.nonce.is_empty() {
            return builder.finish(true);
        }
        let Credential { username, password } = &self.credential;
        let (username, realm) = (username.as_bytes(), self.realm.as_bytes());
        let key = Key::long_term(PasswordAlgorithm::Md5, username, realm, password.as_bytes());
        builder
            .attribute(attribute::USERNAME, username)
            .attribute(attribute::REALM, realm)
            .attribute(attribute::NONCE, &self.nonce)
            .sign(Integrity::Sha1, &key)
            .finish(true)
    }

    /// The answer to this request; what else comes is kept.
    pub(crate) fn answer(&mut self, request: &[u8]) -> Answer {
        let until = Instant::now() + PATIENCE;
        let mut others = VecDeque::new();
        let mut say_at = Some(Instant::now());
        while Instant::now() < until {
            if say_at.is_some_and(|at| at <= Instant::now()) {
                self.say(request).unwrap();
                // A stream repeats by itself.
                say_at = matches!(self.wire, Wire::Datagrams(_)).then(|| Instant::now() + REPEAT);
            }
            match self.hear(REPEAT) {
                Some(bytes) if bytes.get(8..20) == Some(&request[8..20]) => {
                    others.append(&mut self.come);
                    self.come = others;
                    return Answer(bytes);
                }
                other => others.extend(other),
            }
        }
        panic!("no answer in {PATIENCE:?} to {request:02x?}");
    }

    /// Asks as clients do: once more, with a nonce, if that is what the answer wants.
    pub(crate) fn ask(&mut self, method: u16, build: impl Fn(Builder) -> Builder) -> Answer {
        let was_unsigned = self.nonce.is_empty();
        let request = self.request(method, &build);
        let answer = self.answer(&request);
        match (answer.code(), answer.message().nonce) {
            (438, Some(nonce)) => self.nonce = nonce.to_vec(),
            (401, Some(nonce)) if was_unsigned => self.nonce = nonce.to_vec(),
            _ => return answer,
        }
        let request = self.request(method, &build);
        self.answer(&request)
    }

    /// Asks for an allocation of IPv4, and of IPv6 too if it `has_both`.
    pub(crate) fn try_allocate(&mut self, has_both: bool) -> Answer {
        self.ask(method::ALLOCATE, |builder| {
            let builder = builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            match has_both {
                true => builder.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                false => builder,
            }
        })
    }

    /// An allocation, and its relayed address.
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        let answer = self.try_allocate(false);
        assert_eq!(answer.code(), 200);
        answer.message().relayed.unwrap()
    }

    pub(crate) fn refresh(&mut self, seconds: u32) -> u16 {
        self.ask(method::REFRESH, |builder| builder.attribute(attribute::LIFETIME, &seconds.to_be_bytes()))
            .code()
    }

    /// Asks for a permission for an address, given as the value of the attribute.
    pub(crate) fn permit(&mut self, peer: &[u8]) -> u16 {
        self.ask(method::CREATE_PERMISSION, |builder| builder.attribute(attribute::XOR_PEER_ADDRESS, peer))
            .code()
    }

    /// Asks for a channel.
    pub(crate) fn bind(&mut self, number: u16, peer: &[u8]) -> u16 {
        let [high, low] = number.to_be_bytes();
        let build = |builder: Builder| {
            let builder = builder.attribute(attribute::CHANNEL_NUMBER, &[high, low, 0, 0]);
            builder.attribute(attribute::XOR_PEER_ADDRESS, peer)
        };
        self.ask(method::CHANNEL_BIND, build).code()
    }

    /// A channel to an address.
    pub(crate) fn bind_to(&mut self, number: u16, peer: SocketAddr) {
        let value = self.masked(peer);
        assert_eq!(self.bind(number, &value), 200, "a channel to {peer}");
    }

    /// Channel data.
    pub(crate) fn send_by(&mut self, number: u16, payload: &[u8]) -> io::Result<()> {
        let length = u16::try_from(payload.len()).unwrap();
        let mut bytes = [&number.to_be_bytes()[..], &length.to_be_bytes(), payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.say(&bytes)
    }

    /// A Send indication to an address, given as the value of the attribute.
    pub(crate) fn send(&mut self, peer: &[u8], payload: &[u8]) -> io::Result<()> {
        let bytes = Builder::new(Class::Indication, method::SEND, &self.next_transaction())
            .attribute(attribute::XOR_PEER_ADDRESS, peer)
            .attribute(attribute::DATA, payload)
            .finish(false);
        self.transactions += 1;
        self.say(&bytes)
    }

    /// An address as the next message has it: an IPv6 one stays that, whatever is mapped in it.
    pub(crate) fn masked(&self, peer: SocketAddr) -> Vec<u8> {
        masked(peer, &self.next_transaction())
    }
}

/// An address masked by hand: the codec writes one that is mapped into IPv6 as the IPv4 address that it is.
fn masked(peer: SocketAddr, transaction: &Transaction) -> Vec<u8> {
    let mask = [&[0x21, 0x12, 0xa4, 0x42], &transaction[..]].concat();
    let (family, octets) = match peer.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend(peer.port().to_be_bytes().iter().zip(&mask).map(|(byte, mask)| byte ^ mask));
    value.extend(octets.iter().zip(&mask).map(|(byte, mask)| byte ^ mask));
    value
}

/// A connection from this address.
pub(crate) fn connect(from: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&server.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Whether the server ends the connection in that time. What it says before is passed over.
pub(crate) fn is_closed_within(stream: &mut TcpStream, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
            _ => {}
        }
    }
    false
}
