//! What the samples of the RFCs mean to TURN, and messages that lie.

use super::{
    samples::{LONG_TERM, LONG_TERM_SHA256, PASSWORD, REQUEST, RESPONSE_V4, RESPONSE_V6},
    *,
};

const USERNAME: &str = "マトリックス";
const TRANSACTION: Transaction = *b"twelve bytes";

fn short_term(password: &str) -> Key {
    Key(password.as_bytes().into())
}

fn long_term(algorithm: PasswordAlgorithm) -> Key {
    Key::long_term(algorithm, USERNAME.as_bytes(), b"example.org", b"TheMatrIX")
}

#[test]
fn the_sample_request_is_read_and_verified() {
    let message = Message::parse(REQUEST).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, method::BINDING));
    assert_eq!(message.username, Some(&b"evtj:h6vY"[..]));
    assert!(message.verify(&short_term(PASSWORD)));
    assert!(!message.verify(&short_term("another password")));
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
        assert!(message.verify(&short_term(PASSWORD)));
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
    let short = short_term(PASSWORD);
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
    let key = short_term("a password");
    let bytes = Builder::new(Class::Request, method::CREATE_PERMISSION, &TRANSACTION)
        .sign(Integrity::Sha1, &key)
        .attribute(attribute::XOR_PEER_ADDRESS, &[0, 1, 0, 0, 0, 0, 0, 0])
        .attribute(attribute::USERNAME, b"forged")
        .finish(false);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.verify(&key));
    assert!(message.username.is_none() && message.peer.is_none() && message.peers().next().is_none());
}

#[test]
fn a_value_of_the_wrong_form_counts_as_missing_and_is_told() {
    let bytes = Builder::new(Class::Request, method::REFRESH, &TRANSACTION)
        .attribute(attribute::LIFETIME, &[0, 0, 1])
        .finish(false);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.has_bad_value && message.lifetime.is_none());
}
