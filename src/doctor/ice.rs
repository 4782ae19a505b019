//! The server's own ports: each candidate of an answer is sent a connectivity check, as a browser would. The server answers no
//! other datagram, so this needs a session.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ring::hmac;
use switchyard_turn_config::stun::{
    attribute,
    method::BINDING,
    wire::{Attributes, Builder, Class, Header, Transaction, is_signed},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Trouble, Verdict, is_private, random, unreachable};

const UFRAG: &str = "doctor";
const PWD: &str = "nobody-answers-this-offer";
/// A datagram that is not answered is sent again.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// An offer of a data channel that is never opened.
pub(super) fn offer() -> String {
    let fingerprint = random::<32>().map(|byte| format!("{byte:02X}")).join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
         a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PWD}\r\na=fingerprint:sha-256 {fingerprint}\r\n\
         a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"
    )
}

/// A place where the server says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) tcp: bool,
}

/// What of an answer counts here.
#[derive(Debug)]
pub(super) struct Answer {
    ufrag: String,
    pwd: String,
    pub(super) candidates: Vec<Candidate>,
}

impl Answer {
    pub(super) fn parse(sdp: &str) -> Option<Self> {
        let value =
            |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        let candidates = sdp.lines().filter_map(|line| Candidate::parse(line.strip_prefix("a=candidate:")?));
        Some(Self {
            ufrag: value("a=ice-ufrag:")?,
            pwd: value("a=ice-pwd:")?,
            candidates: candidates.collect(),
        })
    }

    /// Sends a check and waits for the answer.
    pub(super) async fn check(&self, candidate: &Candidate) -> Verdict {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.pwd.as_bytes());
        let transaction: Transaction = random();
        let request = Builder::new(Class::Request, BINDING, &transaction)
            .attribute(attribute::USERNAME, format!("{}:{UFRAG}", self.ufrag).as_bytes())
            .attribute(attribute::PRIORITY, &1_u32.to_be_bytes())
            .attribute(attribute::ICE_CONTROLLING, &random::<8>())
            .sign_with(&key)
            .finish(true);
        let is_answer = |message: &[u8]| is_answer(message, &transaction, &key);
        let exchanged = if candidate.tcp {
            by_tcp(candidate.address, &request, is_answer).await
        } else {
            by_udp(candidate.address, &request, is_answer).await
        };
        exchanged.map(|()| String::new()).map_err(|error| unreachable(&error, &candidate.advice()))
    }
}

impl Candidate {
    /// RFC 8839 §5.1, RFC 6544 §4.5.
    fn parse(attribute: &str) -> Option<Self> {
        let mut words = attribute.split_whitespace();
        let tcp = match words.nth(2)? {
            "udp" => false,
            "tcp" => true,
            _ => return None,
        };
        let ip: IpAddr = words.nth(1)?.parse().ok()?;
        Some(Self { address: SocketAddr::new(ip, words.next()?.parse().ok()?), tcp })
    }

    fn advice(self) -> String {
        let (protocol, setting) = if self.tcp { ("TCP", "rtc.tcp_port") } else { ("UDP", "rtc.udp_port") };
        format!(
            "open {protocol} port {} ({setting}) to clients, or tell them the address that they reach (rtc.advertise_addresses)",
            self.address.port()
        )
    }

    /// What the check means; `is_served` if another candidate of this protocol works.
    pub(super) fn judge(self, result: Verdict, is_served: bool) -> Verdict {
        let ip = self.address.ip();
        if !is_private(&ip) {
            return result.map_err(|trouble| self.advise(trouble));
        }
        let told = format!(
            "{ip} is private, and clients are told it: name the public one in rtc.advertise_addresses"
        );
        match result {
            Ok(_) => Err(Trouble::Warning(told)),
            Err(Trouble::Failed(_)) if is_served => {
                Err(Trouble::Warning(format!("not reached from here; {told}")))
            }
            Err(trouble) => Err(self.advise(trouble)),
        }
    }

    fn advise(self, trouble: Trouble) -> Trouble {
        trouble.if_late(&self.advice())
    }
}

fn is_answer(message: &[u8], transaction: &Transaction, key: &hmac::Key) -> bool {
    let Ok(header) = Header::parse(message) else { return false };
    let signed = Attributes::of(message).flatten().find(|(_, kind, _)| *kind == attribute::MESSAGE_INTEGRITY);
    header.class == Class::Success
        && header.transaction == *transaction
        && signed.is_some_and(|(at, ..)| is_signed(message, at, key))
}

/// A socket that sends to an address.
pub(super) async fn udp_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

async fn by_udp(address: SocketAddr, request: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let socket = udp_to(address).await?;
    let mut buffer = [0; 1500];
    loop {
        socket.send(request).await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await
            && is_answer(&buffer[..received?])
        {
            return Ok(());
        }
    }
}

/// Framed by lengths (RFC 4571).
async fn by_tcp(address: SocketAddr, request: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    loop {
        let mut message = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut message).await?;
        if is_answer(&message) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_credentials_and_candidates() {
        let sdp = "v=0\r\na=ice-ufrag:0001abcd\r\na=ice-pwd:secret\r\na=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host\r\n\
            a=candidate:2 1 tcp 1518280447 2001:db8::1 7881 typ host tcptype passive\r\na=candidate:3 1 udp 1 x.local 9 typ host\r\n";
        let answer = Answer::parse(sdp).unwrap();
        let expected = [("192.0.2.1:7882", false), ("[2001:db8::1]:7881", true)];
        let expected = expected.map(|(address, tcp)| Candidate { address: address.parse().unwrap(), tcp });
        assert_eq!((answer.candidates.as_slice(), answer.ufrag.as_str()), (&expected[..], "0001abcd"));
        assert!(Answer::parse("v=0\r\n").is_none());
    }

    #[test]
    fn a_private_address_is_warned_of_and_is_no_failure_where_another_serves() {
        let judge = |address: &str, result: Verdict, is_served| {
            let candidate = Candidate { address: address.parse().unwrap(), tcp: false };
            candidate.judge(result, is_served)
        };
        let failed = || Err(Trouble::failed("no answer in 5 s"));
        assert!(judge("8.8.8.8:1", Ok(String::new()), true).is_ok());
        assert!(matches!(judge("10.0.0.7:1", Ok(String::new()), true), Err(Trouble::Warning(_))));
        assert!(matches!(judge("10.0.0.7:1", failed(), true), Err(Trouble::Warning(_))));
        assert!(matches!(judge("10.0.0.7:1", failed(), false), Err(Trouble::Failed(_))));
        let Err(Trouble::Failed(words)) = judge("8.8.8.8:1", failed(), true) else { panic!() };
        assert!(words.starts_with("no answer in 5 s: open UDP port 1 (rtc.udp_port)"), "{words}");
    }
}
