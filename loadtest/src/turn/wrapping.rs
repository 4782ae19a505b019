//! What a datagram is wrapped in between a client and its TURN server: channel data or an indication (RFC 8656 §11, §12).
//!
//! Written and read here and not by the library, because each datagram of a load goes this way, and to have two at once:
//! what the server wraps is understood by code that did not write it.

use std::net::SocketAddr;

/// A STUN header: type, length, cookie, transaction.
const STUN_HEADER: usize = 20;
/// An attribute's: type, length.
const ATTRIBUTE_HEADER: usize = 4;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;

/// How datagrams of one client to one peer, and back, are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// Not at all: between the relay and a peer.
    Bare,
    /// In channel data, with this number.
    Channel(u16),
    /// In Send and Data indications, which name the peer.
    Indication(SocketAddr),
}

impl Wrapping {
    /// Appends a wrapped payload of `size` bytes that `fill` writes. `number` makes a transaction of it.
    pub fn put(&self, message: &mut Vec<u8>, number: u64, size: usize, fill: impl FnOnce(&mut [u8])) {
        match self {
            Self::Bare => {}
            Self::Channel(number) => {
                message.extend_from_slice(&number.to_be_bytes());
                message.extend_from_slice(&length(size));
            }
            Self::Indication(peer) => {
                let mut transaction = [0x5a; 12];
                transaction[4..].copy_from_slice(&number.to_be_bytes());
                let (address, used) = xor_address(*peer, &transaction);
                let data = ATTRIBUTE_HEADER + size.next_multiple_of(4);
                message.extend_from_slice(&SEND_INDICATION);
                message.extend_from_slice(&length(ATTRIBUTE_HEADER + used + data));
                message.extend_from_slice(&COOKIE);
                message.extend_from_slice(&transaction);
                put_header(message, XOR_PEER_ADDRESS, used);
                message.extend_from_slice(&address[..used]);
                put_header(message, DATA, size);
            }
        }
        let start = message.len();
        message.resize(start + size, 0);
        fill(&mut message[start..]);
        if let Self::Indication(_) = self {
            message.resize(start + size.next_multiple_of(4), 0);
        }
    }

    /// The payload, if the message is wrapped in this way, comes from the peer, and is whole.
    pub fn payload<'a>(&self, message: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Bare => Some(message),
            Self::Channel(number) => {
                let rest = message.strip_prefix(&number.to_be_bytes())?;
                let (length, rest) = rest.split_first_chunk()?;
                rest.get(..usize::from(u16::from_be_bytes(*length)))
            }
            Self::Indication(peer) => {
                let transaction = message.strip_prefix(&DATA_INDICATION)?.get(6..18)?.first_chunk()?;
                let (address, used) = xor_address(*peer, transaction);
                let is_theirs = attribute(message, XOR_PEER_ADDRESS)? == &address[..used];
                attribute(message, DATA).filter(|_| is_theirs)
            }
        }
    }
}

/// Whether a message carries a datagram: channel data, or an indication.
pub fn is_data(message: &[u8]) -> bool {
    let kind = message.first_chunk();
    message.first().is_some_and(|first| first >> 6 == 1)
        || kind == Some(&SEND_INDICATION)
        || kind == Some(&DATA_INDICATION)
}

/// The value of a STUN message's first attribute of this type.
pub(super) fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(STUN_HEADER..)?;
    loop {
        let (&[high, low, long, short], after) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([long, short]));
        if u16::from_be_bytes([high, low]) == kind {
            return after.get(..length);
        }
        rest = after.get(length.next_multiple_of(4)..)?;
    }
}

fn put_header(message: &mut Vec<u8>, kind: u16, size: usize) {
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&length(size));
}

/// No datagram is longer.
fn length(size: usize) -> [u8; 2] {
    u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes()
}

/// An address as STUN hides it from translators (RFC 8489 §14.2), and how many of the bytes are used.
fn xor_address(address: SocketAddr, transaction: &[u8; 12]) -> ([u8; 20], usize) {
    let mask = COOKIE.iter().chain(transaction);
    let mut value = [0; 20];
    let port = address.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    value[2..4].copy_from_slice(&port.to_be_bytes());
    let used = match address {
        SocketAddr::V4(v4) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&v4.ip().octets());
            8
        }
        SocketAddr::V6(v6) => {
            value[1] = 2;
            value[4..].copy_from_slice(&v6.ip().octets());
            20
        }
    };
    value[4..used].iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
    (value, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 5769 §2.
    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    #[test]
    fn addresses_are_hidden_as_in_the_rfcs_samples() {
        let (value, used) = xor_address("192.0.2.1:32853".parse().unwrap(), &TRANSACTION);
        assert_eq!(value[..used], [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        let (value, used) = xor_address(v6, &TRANSACTION);
        let expected = [
            0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe,
            0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(value[..used], expected);
    }

    fn wrapped(wrapping: Wrapping, size: usize) -> Vec<u8> {
        let mut message = Vec::new();
        wrapping.put(&mut message, 7, size, |payload| payload.fill(9));
        // What goes as a Send indication comes as a Data indication.
        if let Wrapping::Indication(_) = wrapping {
            message[1] = DATA_INDICATION[1];
        }
        message
    }

    #[test]
    fn a_payload_comes_out_as_it_went_in() {
        for peer in ["192.0.2.1:5000", "[2001:db8::1]:5000"] {
            let indication = Wrapping::Indication(peer.parse().unwrap());
            for wrapping in [Wrapping::Bare, Wrapping::Channel(0x4001), indication] {
                for size in [0, 1, 4, 100, 1201] {
                    let message = wrapped(wrapping, size);
                    assert_eq!(wrapping.payload(&message), Some(&vec![9; size][..]), "{wrapping:?}");
                    assert_eq!(is_data(&message), wrapping != Wrapping::Bare, "{wrapping:?}");
                }
            }
        }
    }

    #[test]
    fn another_channel_another_peer_and_a_part_are_not_it() {
        let message = wrapped(Wrapping::Channel(0x4001), 10);
        assert_eq!(Wrapping::Channel(0x4002).payload(&message), None);
        let peer = Wrapping::Indication("192.0.2.1:5000".parse().unwrap());
        let message = wrapped(peer, 10);
        assert_eq!(Wrapping::Indication("192.0.2.1:5001".parse().unwrap()).payload(&message), None);
        assert_eq!(Wrapping::Channel(0x4001).payload(&message), None);
        for wrapping in [Wrapping::Channel(0x4001), peer] {
            let message = wrapped(wrapping, 12);
            for length in 0..message.len() {
                assert_eq!(wrapping.payload(&message[..length]), None, "{length} of {wrapping:?}");
            }
        }
    }
}
