//! What a datagram is and whose it is, told from its bytes alone.
//!
//! [`classify`] goes by the first byte ([RFC 7983](https://www.rfc-editor.org/rfc/rfc7983)); [`ufrag_of`] finds
//! the local ufrag in a Binding request, for a datagram from an address that no peer is known by. Neither
//! verifies, allocates or keeps anything: authentication is [`super::ice`]'s.
//!
//! The ufrags of this server carry the number of the shard that made them, so that whoever accepts a datagram
//! or a TCP connection can hand it to the right shard without a table:
//!
//! ```text
//! ufrag = 3 characters (the shard, 16 bits) + 10 characters (60 random bits)
//! ```
//!
//! in the alphabet of `ice-char` ([RFC 8839](https://www.rfc-editor.org/rfc/rfc8839#section-5.4)), six bits each.

use super::stun;

/// What a datagram is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A connectivity check or its answer.
    Stun,
    /// A DTLS record: handshake or data channels.
    Dtls,
    /// RTP or RTCP, encrypted.
    Rtp,
    /// A TURN ChannelData message.
    TurnChannel,
    /// Nothing this server speaks.
    Unknown,
}

/// Tells what a datagram is by its first byte.
#[must_use]
pub fn classify(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) => Kind::Stun,
        Some(20..=63) => Kind::Dtls,
        Some(64..=79) => Kind::TurnChannel,
        Some(128..=191) => Kind::Rtp,
        _ => Kind::Unknown,
    }
}

/// The ufrag of this server's side in a STUN Binding request: the part of `USERNAME` before the colon.
#[must_use]
pub fn ufrag_of(datagram: &[u8]) -> Option<&str> {
    let username = stun::username_of_request(datagram)?;
    let colon = username.iter().position(|&byte| byte == b':')?;
    let ufrag = &username[..colon];
    let is_ufrag =
        (4..=256).contains(&ufrag.len()) && ufrag.iter().all(|&byte| ice_char_value(byte).is_some());
    is_ufrag.then(|| str::from_utf8(ufrag).ok()).flatten()
}

const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SHARD_CHARS: u32 = 3;
/// What one random number of 64 bits is good for.
const RANDOM_CHARS: u32 = 10;
const UFRAG_LEN: usize = (SHARD_CHARS + RANDOM_CHARS) as usize;

/// Makes a ufrag that names `shard`. The random numbers must not be guessable.
#[must_use]
pub fn generate_ufrag(shard: u16, random: &mut impl FnMut() -> u64) -> String {
    let mut ufrag = String::with_capacity(UFRAG_LEN);
    push_chars(&mut ufrag, u64::from(shard), SHARD_CHARS);
    push_chars(&mut ufrag, random(), RANDOM_CHARS);
    ufrag
}

/// Makes a password of 30 characters, 180 random bits. The random numbers must not be guessable.
#[must_use]
pub fn generate_pwd(random: &mut impl FnMut() -> u64) -> String {
    let mut pwd = String::with_capacity(3 * RANDOM_CHARS as usize);
    for _ in 0..3 {
        push_chars(&mut pwd, random(), RANDOM_CHARS);
    }
    pwd
}

/// The shard that made a ufrag, or `None` if it is none of ours.
#[must_use]
pub fn shard_of_ufrag(ufrag: &str) -> Option<u16> {
    if ufrag.len() != UFRAG_LEN {
        return None;
    }
    let shard = ufrag
        .bytes()
        .take(SHARD_CHARS as usize)
        .try_fold(0_u32, |number, byte| Some(number << 6 | u32::from(ice_char_value(byte)?)))?;
    u16::try_from(shard).ok()
}

/// Appends the lowest `count` groups of six bits, highest first.
fn push_chars(text: &mut String, bits: u64, count: u32) {
    for index in (0..count).rev() {
        text.push(char::from(ICE_CHARS[(bits >> (6 * index) & 0x3f) as usize]));
    }
}

fn ice_char_value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use switchyard_turn_config::stun::samples;

    use super::*;

    #[test]
    fn the_first_byte_tells_the_kind() {
        let kind = |byte| classify(&[byte, 0, 0, 0]);
        for byte in 0..=255 {
            let expected = match byte {
                0..=3 => Kind::Stun,
                20..=63 => Kind::Dtls,
                64..=79 => Kind::TurnChannel,
                128..=191 => Kind::Rtp,
                _ => Kind::Unknown,
            };
            assert_eq!(kind(byte), expected);
        }
        assert_eq!(classify(&[]), Kind::Unknown);
    }

    #[test]
    fn the_ufrag_of_a_request_is_the_part_before_the_colon() {
        assert_eq!(ufrag_of(samples::REQUEST), Some("evtj"));
        assert_eq!(ufrag_of(samples::RESPONSE_V4), None, "a response has no username");
        for cut in 0..samples::REQUEST.len() {
            assert_eq!(ufrag_of(&samples::REQUEST[..cut]), None);
        }
    }

    #[test]
    fn a_ufrag_with_other_characters_is_no_ufrag() {
        let request = |username: &[u8]| {
            let check = stun::binding(stun::Class::Request, &[0; 12]);
            stun::Key::short_term("pwd").seal(check.attribute(stun::attribute::USERNAME, username))
        };
        assert_eq!(ufrag_of(&request(b"a+/Z:x")), Some("a+/Z"));
        for username in [&b"abc:x"[..], b"abcd", b"ab d:x", b"ab\xffd:x", b":x", b""] {
            assert_eq!(ufrag_of(&request(username)), None, "{username:?}");
        }
    }

    #[test]
    fn every_shard_is_read_back_from_its_ufrag() {
        let mut number = 7_u64;
        let mut random = || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number
        };
        for shard in 0..=u16::MAX {
            let ufrag = generate_ufrag(shard, &mut random);
            assert_eq!(ufrag.len(), UFRAG_LEN);
            assert_eq!(shard_of_ufrag(&ufrag), Some(shard));
        }
        assert_ne!(generate_ufrag(1, &mut random), generate_ufrag(1, &mut random));
        let pwd = generate_pwd(&mut random);
        assert!(pwd.len() >= 24 && pwd.bytes().all(|byte| ice_char_value(byte).is_some()));
    }

    #[test]
    fn a_foreign_ufrag_names_no_shard() {
        // "///" is a number beyond 16 bits; the others have not the form.
        for ufrag in ["", "AAA", "///abcdefghij", "AA:abcdefghij", "AAAabcdefghijk"] {
            assert_eq!(shard_of_ufrag(ufrag), None, "{ufrag}");
        }
    }
}
