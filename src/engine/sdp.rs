//! The few things about a session description (RFC 8866) that Switchyard decides itself: ICE is its own, so the
//! engine is shown descriptions without it, and the client is shown ours. Everything else is the engine's.

use std::net::SocketAddr;

use super::ice::Credentials;

/// An offer that cannot be used, and why; the code is `bad_offer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// RFC 8839 §5.4.
    #[error("the offer has no a=ice-ufrag and a=ice-pwd of allowed length")]
    NoCredentials,
    /// Only data channels are spoken here.
    #[error("the offer must have one media section, for data channels")]
    Sections,
    /// RFC 8842.
    #[error("the offer has no a=fingerprint")]
    NoFingerprint,
    /// RFC 8841 §6.
    #[error("the offer's a=max-message-size is too small; at least {0} are needed")]
    MessageSize(usize),
}

/// What is read from an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The client's ICE credentials.
    pub credentials: Credentials,
    /// The client's certificate, as written.
    pub fingerprint: String,
    /// The offer without its candidates: the engine must neither look up names nor send anything on its own.
    pub for_engine: String,
}

impl Offer {
    /// Reads an offer for data channels whose messages may have `message_bytes`.
    pub fn parse(sdp: &str, message_bytes: usize) -> Result<Self, OfferError> {
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (ufrag, pwd) = value("a=ice-ufrag:").zip(value("a=ice-pwd:")).ok_or(OfferError::NoCredentials)?;
        if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&pwd.len()) {
            return Err(OfferError::NoCredentials);
        }
        let mut sections = sdp.lines().filter(|line| line.starts_with("m="));
        if !sections.next().is_some_and(|section| section.starts_with("m=application"))
            || sections.next().is_some()
        {
            return Err(OfferError::Sections);
        }
        if let Some(size) = value("a=max-message-size:").and_then(|size| size.parse::<u64>().ok())
            && size != 0
            && size < message_bytes as u64
        {
            return Err(OfferError::MessageSize(message_bytes));
        }
        let kept = sdp.lines().filter(|line| !is_about_candidates(line));
        Ok(Self {
            credentials: Credentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() },
            fingerprint: value("a=fingerprint:").ok_or(OfferError::NoFingerprint)?.to_owned(),
            for_engine: kept
                .fold(String::with_capacity(sdp.len()), |sdp, line| sdp + line.trim_end() + "\r\n"),
        })
    }
}

/// Where a shard can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCandidate {
    /// Address as clients see it.
    pub address: SocketAddr,
    /// ICE-TCP, passive (RFC 6544), instead of UDP.
    pub tcp: bool,
}

/// The engine's answer with our credentials and candidates in place of its own, and the end of candidates.
pub fn answer(from_engine: &str, local: &Credentials, candidates: &[HostCandidate]) -> String {
    let mut sdp = String::with_capacity(from_engine.len() + 96 * candidates.len());
    for line in from_engine.lines().filter(|line| !is_about_candidates(line)) {
        if line.starts_with("a=ice-ufrag:") {
            sdp += &format!("a=ice-ufrag:{}", local.ufrag);
        } else if line.starts_with("a=ice-pwd:") {
            sdp += &format!("a=ice-pwd:{}", local.pwd);
        } else {
            sdp += line.trim_end();
        }
        sdp += "\r\n";
    }
    for (index, candidate) in candidates.iter().enumerate() {
        sdp += &format!("a=candidate:{}\r\n", candidate_attribute(index, *candidate));
    }
    sdp + "a=end-of-candidates\r\n"
}

/// RFC 8839 §5.1, RFC 6544 §4.5.
fn candidate_attribute(index: usize, HostCandidate { address, tcp }: HostCandidate) -> String {
    // RFC 8445 §5.1.2.1: type preference of host candidates 126; TCP below every UDP candidate.
    let (type_preference, local_preference) = if tcp { (90, 8191) } else { (126, 65535) };
    let local_preference = local_preference - index as u32;
    let priority = (type_preference << 24) + (local_preference << 8) + 255;
    let (ip, port) = (address.ip(), address.port());
    if tcp {
        format!("{} 1 tcp {priority} {ip} {port} typ host tcptype passive", index + 1)
    } else {
        format!("{} 1 udp {priority} {ip} {port} typ host", index + 1)
    }
}

fn is_about_candidates(line: &str) -> bool {
    line.starts_with("a=candidate:")
        || line.starts_with("a=end-of-candidates")
        || line.starts_with("a=remote-candidates:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
        a=candidate:1 1 udp 1 6f1f.local 5000 typ host\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
        a=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

    #[test]
    fn an_offer_loses_its_candidates_on_the_way_to_the_engine() {
        let offer = Offer::parse(OFFER, 20_480).unwrap();
        assert_eq!(offer.credentials.ufrag, "abcd");
        assert!(!offer.for_engine.contains("candidate") && offer.for_engine.contains("a=mid:0\r\n"));
    }

    #[test]
    fn an_offer_that_cannot_be_used_is_refused() {
        let refused = |from: &str, to: &str| Offer::parse(&OFFER.replace(from, to), 20_480).unwrap_err();
        assert_eq!(refused("a=ice-ufrag:abcd\r\n", ""), OfferError::NoCredentials);
        assert_eq!(refused("0123456789012345678901", "short"), OfferError::NoCredentials);
        assert_eq!(refused("a=fingerprint", "a=nothing"), OfferError::NoFingerprint);
        assert_eq!(refused("m=application", "m=audio"), OfferError::Sections);
        assert_eq!(refused("a=mid:0", "m=application 9 x y"), OfferError::Sections);
        assert_eq!(refused("262144", "1000"), OfferError::MessageSize(20_480));
    }

    #[test]
    fn an_answer_has_our_credentials_and_candidates_and_ends_them() {
        let local = Credentials { ufrag: "0001abcd".into(), pwd: "p".repeat(24) };
        let candidates = [
            HostCandidate { address: "192.0.2.1:7882".parse().unwrap(), tcp: false },
            HostCandidate { address: "[2001:db8::1]:7881".parse().unwrap(), tcp: true },
        ];
        let sdp = answer(OFFER, &local, &candidates);
        assert!(sdp.contains("a=ice-ufrag:0001abcd\r\n") && !sdp.contains("6f1f.local"));
        assert!(sdp.contains("a=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host\r\n"));
        assert!(sdp.contains("2001:db8::1 7881 typ host tcptype passive\r\n"));
        assert!(sdp.ends_with("a=end-of-candidates\r\n"));
    }
}
