//! The samples of [RFC 5769](https://www.rfc-editor.org/rfc/rfc5769) and of
//! [RFC 8489 appendix B](https://www.rfc-editor.org/rfc/rfc8489#appendix-B), and messages that lie.

use super::*;

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\
    \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
    \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
    \x80\x28\x00\x04\xe5\x7a\x3b\xcf";
const RESPONSE_V4: &[u8] =
    b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
    \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
    \x80\x28\x00\x04\xc0\x7d\x4c\x96";
const RESPONSE_V6: &[u8] =
    b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\
    \xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
    \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
    \x80\x28\x00\x04\xc8\xfb\x0b\x4c";
/// RFC 5769 section 2.4.
const LONG_TERM: &[u8] = b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
    \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\x00\x14\x00\x0bexample.org\x00\
    \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";
/// RFC 8489 appendix B.1.
const LONG_TERM_SHA256: &[u8] =
    b"\x00\x01\x00\x90\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x1e\x00\x20\x4a\x3c\xf3\x8f\xef\x69\x92\xbd\xa9\x52\xc6\x78\x04\x17\xda\x0f\
    \x24\x81\x94\x15\x56\x9e\x60\xb2\x05\xc4\x6e\x41\x40\x7f\x17\x04\
    \x00\x15\x00\x29obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA\x00\x00\x00\
    \x00\x14\x00\x0bexample.org\x00\x00\x1d\x00\x04\x00\x02\x00\x00\
    \x00\x1c\x00\x20\xb5\xc7\xbf\x00\x5b\x6c\x52\xa2\x1c\x51\xc5\xe8\x92\xf8\x19\x24\
    \x13\x62\x96\xcb\x92\x7c\x43\x14\x93\x09\x27\x8c\xc6\x51\x8e\x65";

const USERNAME: &str = "マトリックス";
const TRANSACTION: Transaction = *b"twelve bytes";

fn long_term(algorithm: PasswordAlgorithm) -> Key {
    Key::long_term(algorithm, USERNAME.as_bytes(), b"example.org", b"TheMatrIX")
}

#[test]
fn the_sample_request_is_read_and_verified() {
    let message = Message::parse(REQUEST).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, method::BINDING));
    assert_eq!(message.username, Some(&b"evtj:h6vY"[..]));
    assert!(message.verify(&Key::short_term(PASSWORD)));
    assert!(!message.verify(&Key::short_term(b"another password")));
    assert_eq!(message.verify_fingerprint(), Some(true));
    assert_eq!(message.unknown(), [0x0024], "PRIORITY belongs to ICE");
}

#[test]
fn the_sample_responses_are_read_and_verified() {
    for (sample, address) in
        [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let message = Message::parse(sample).unwrap();
        assert_eq!((message.class, message.mapped), (Class::Success, Some(address.parse().unwrap())));
        assert!(message.verify(&Key::short_term(PASSWORD)));
        assert_eq!(message.verify_fingerprint(), Some(true));
    }
}

#[test]
fn the_sample_with_a_long_term_credential_is_read_and_verified() {
    let message = Message::parse(LONG_TERM).unwrap();
    assert_eq!(message.username, Some(USERNAME.as_bytes()));
    assert_eq!(message.realm, Some(&b"example.org"[..]));
    assert_eq!(message.nonce, Some(&b"f//499k954d6OL34oL9FSTvy64sA"[..]));
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
    assert!(message.verify(&long_term(PasswordAlgorithm::Md5)));
    assert!(!message.verify(&long_term(PasswordAlgorithm::Sha256)));
}

#[test]
fn the_sample_with_sha_256_is_read_and_verified() {
    let message = Message::parse(LONG_TERM_SHA256).unwrap();
    assert_eq!(message.unknown(), [attribute::USERHASH]);
    assert_eq!(message.password_algorithm, Some(Some(PasswordAlgorithm::Sha256)));
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.verify(&long_term(PasswordAlgorithm::Sha256)));
    assert!(!message.verify(&long_term(PasswordAlgorithm::Md5)));
}

#[test]
fn any_changed_bit_of_a_sample_is_noticed() {
    let short = Key::short_term(PASSWORD);
    for (sample, key) in [
        (REQUEST, &short),
        (RESPONSE_V4, &short),
        (RESPONSE_V6, &short),
        (LONG_TERM, &long_term(PasswordAlgorithm::Md5)),
        (LONG_TERM_SHA256, &long_term(PasswordAlgorithm::Sha256)),
    ] {
        for bit in 0..sample.len() * 8 {
            let mut changed = sample.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let passes = Message::parse(&changed)
                .is_ok_and(|message| message.verify(key) && message.verify_fingerprint() != Some(false));
            // A fingerprint that is changed into another attribute after the integrity is one that is not there.
            let is_fingerprints_type = Message::parse(sample)
                .unwrap()
                .fingerprint_at
                .is_some_and(|at| (at..at + 2).contains(&(bit / 8)));
            assert!(!passes || is_fingerprints_type, "bit {bit}");
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let key = long_term(PasswordAlgorithm::Sha256);
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        let bytes = Builder::new(Class::Request, method::CHANNEL_BIND, &TRANSACTION)
            .address(attribute::XOR_PEER_ADDRESS, "192.0.2.7:1".parse().unwrap())
            .address(attribute::XOR_PEER_ADDRESS, "[2001:db8::7]:65535".parse().unwrap())
            .attribute(attribute::CHANNEL_NUMBER, &[0x40, 0x01, 0, 0])
            .attribute(attribute::DATA, b"12345")
            .sign(integrity, &key)
            .finish(true);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class, message.method), (Class::Request, method::CHANNEL_BIND));
        let peers: Vec<_> = message.peers().map(|peer| peer.to_string()).collect();
        assert_eq!(peers, ["192.0.2.7:1", "[2001:db8::7]:65535"]);
        assert_eq!((message.channel, message.data), (Some(0x4001), Some(&b"12345"[..])));
        assert_eq!(message.integrity(), Some(integrity));
        assert!(message.verify(&key));
        assert_eq!(message.verify_fingerprint(), Some(true));
    }
}

#[test]
fn a_data_indication_is_the_one_that_the_builder_writes() {
    for peer in ["192.0.2.7:9", "[2001:db8::7]:9"] {
        for payload in [&b""[..], b"1", b"1234", b"12345"] {
            let peer = peer.parse().unwrap();
            let mut header = [0; MAX_DATA_HEADER];
            let length = data_indication(&mut header, &TRANSACTION, peer, payload.len()).unwrap();
            let mut bytes = header[..length].to_vec();
            bytes.extend_from_slice(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let built = Builder::new(Class::Indication, method::DATA, &TRANSACTION)
                .address(attribute::XOR_PEER_ADDRESS, peer)
                .attribute(attribute::DATA, payload)
                .finish(false);
            assert_eq!(bytes, built);
        }
    }
}

#[test]
fn what_follows_the_integrity_is_not_believed() {
    let key = Key::short_term(b"a password");
    let mut bytes = Builder::new(Class::Request, method::CREATE_PERMISSION, &TRANSACTION)
        .sign(Integrity::Sha1, &key)
        .attribute(attribute::XOR_PEER_ADDRESS, &[0, 1, 0, 0, 0, 0, 0, 0])
        .attribute(attribute::USERNAME, b"forged")
        .bytes;
    let total = bytes.len();
    write_length(&mut bytes, total);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.verify(&key));
    assert!(message.username.is_none() && message.peer.is_none() && message.peers().next().is_none());
}

#[test]
fn lengths_that_lie_are_refused() {
    for length in [0, 1, 4, 0x57, 0x54, 0x5c, 0xffff_u16] {
        let mut bytes = REQUEST.to_vec();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        assert_eq!(Message::parse(&bytes).unwrap_err(), Malformed::Header, "{length:#x}");
    }
    let mut bytes = REQUEST.to_vec();
    bytes[22..24].copy_from_slice(&0x59_u16.to_be_bytes());
    assert_eq!(Message::parse(&bytes).unwrap_err(), Malformed::Attribute);
}

#[test]
fn a_value_of_the_wrong_form_counts_as_missing_and_is_told() {
    let bytes = Builder::new(Class::Request, method::REFRESH, &TRANSACTION)
        .attribute(attribute::LIFETIME, &[0, 0, 1])
        .finish(false);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.has_bad_value && message.lifetime.is_none());
}
