//! The file for coturn, read by Debian's coturn.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use switchyard_turn_config::{
    coturn::turnserver_conf,
    credentials::{Credential, Keyring},
    settings::{Secret, Turn},
    stun::{Builder, Class, Integrity, Key, Message, PasswordAlgorithm, attribute, method},
};

use crate::world::{REALM, SECRET, settings};

#[test]
fn every_setting_that_coturn_has_too_is_in_its_file() {
    let mut turn = settings();
    turn.credentials.previous_secret = Some(Secret::new("the one before"));
    turn.allow = vec!["10.1.0.0/16".parse().unwrap()];
    turn.deny = vec!["9.9.9.9".parse().unwrap()];
    turn.listen.bind = vec!["10.0.0.1".parse().unwrap()];
    turn.listen.tls_certificate = Some("/etc/turn/cert.pem".into());
    turn.listen.tls_key = Some("/etc/turn/key.pem".into());
    let file = turnserver_conf(&turn);
    for line in [
        "listening-ip=10.0.0.1",
        "listening-port=3478",
        "tls-listening-port=5349",
        "cert=/etc/turn/cert.pem",
        "pkey=/etc/turn/key.pem",
        "relay-ip=10.0.0.1",
        "relay-ip=2001:db8::1",
        "external-ip=192.0.2.1/10.0.0.1",
        "min-port=49152",
        "max-port=65535",
        "use-auth-secret",
        "static-auth-secret=a secret that is shared with nobody",
        "static-auth-secret=the one before",
        "realm=example.org",
        "stale-nonce=3600",
        "user-quota=12",
        "total-quota=10000",
        "max-bps=2500000",
        "max-allocate-lifetime=3600",
        "channel-lifetime=600",
        "permission-lifetime=300",
        "allowed-peer-ip=10.1.0.0-10.1.255.255",
        "denied-peer-ip=10.0.0.0-10.255.255.255",
        "denied-peer-ip=169.254.0.0-169.254.255.255",
        "denied-peer-ip=9.9.9.9-9.9.9.9",
        "denied-peer-ip=fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "no-multicast-peers",
        "no-cli",
    ] {
        assert!(file.lines().any(|written| written == line), "{line} is not in\n{file}");
    }
    (turn.listen.udp_enabled, turn.listen.tls_enabled, turn.quotas.bytes_per_second) = (false, false, 0);
    let file = turnserver_conf(&turn);
    assert!(file.contains("\nno-udp\n") && file.contains("\nno-tls\n") && !file.contains("max-bps"));
}

/// One exchange with coturn. A request is repeated, as clients do: coturn may not be there yet, or the machine be busy.
fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        // Refused as long as nobody listens.
        let _ = socket.send(request);
        match socket.recv(&mut buffer) {
            // An answer to a request before may come late.
            Ok(length) if buffer[8..20] == request[8..20] => return buffer[..length].to_vec(),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("coturn does not answer");
}

#[test]
fn coturn_takes_the_file_and_the_credentials_and_refuses_what_it_should() {
    let free_port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut turn = Turn { realm: REALM.to_owned(), ..Turn::default() };
    turn.credentials.secret = Some(Secret::new("another secret of twenty and more"));
    turn.credentials.previous_secret = Some(Secret::new(SECRET));
    turn.listen.bind = vec![Ipv4Addr::LOCALHOST.into()];
    turn.listen.udp_port = free_port();
    turn.listen.tcp_port = turn.listen.udp_port;
    turn.relay.bind_v4 = Some(Ipv4Addr::LOCALHOST);
    turn.listen.tls_enabled = false;
    turn.allow = vec!["10.7.0.0/16".parse().unwrap()];

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("turnserver.conf");
    fs::write(&path, turnserver_conf(&turn)).unwrap();
    let mut process = Command::new("turnserver")
        .arg("-c")
        .arg(&path)
        .args(["--log-file=stdout", "--simple-log"])
        .arg(format!("--pidfile={}", folder.path().join("pid").display()))
        .arg(format!("--userdb={}", folder.path().join("db").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("turnserver, from Debian's package coturn");
    let outcome = std::panic::catch_unwind(|| exchange(turn.listen.udp_port));
    let _ = process.kill();
    let _ = process.wait();
    let mut log = String::new();
    for pipe in [
        process.stdout.take().map(|p| Box::new(p) as Box<dyn std::io::Read>),
        process.stderr.take().map(|p| Box::new(p) as _),
    ] {
        let _ = pipe.unwrap().read_to_string(&mut log);
    }
    if let Err(cause) = outcome {
        eprintln!("{log}");
        std::panic::resume_unwind(cause);
    }
    for complaint in ["Bad configuration", "CONFIG ERROR", "Unknown argument", "unrecognized option", "Wrong"]
    {
        assert!(!log.contains(complaint), "{log}");
    }
}

fn exchange(port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let transport = |builder: Builder| builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let request = transport(Builder::new(Class::Request, method::ALLOCATE, &[1; 12])).finish(true);
    let challenge = ask(&socket, &request);
    let challenge = Message::parse(&challenge).unwrap();
    assert_eq!((challenge.error, challenge.realm), (Some(401), Some(REALM.as_bytes())));

    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let keyring = Keyring::new(&Secret::new(SECRET), None, unix, Duration::ZERO);
    let Credential { username, password } = keyring.issue("alice", unix, Duration::from_secs(60));
    let key =
        Key::long_term(PasswordAlgorithm::Md5, username.as_bytes(), REALM.as_bytes(), password.as_bytes());
    let signed = |builder: Builder| {
        builder
            .attribute(attribute::USERNAME, username.as_bytes())
            .attribute(attribute::REALM, REALM.as_bytes())
            .attribute(attribute::NONCE, challenge.nonce.unwrap())
            .sign(Integrity::Sha1, &key)
            .finish(true)
    };
    let request = signed(transport(Builder::new(Class::Request, method::ALLOCATE, &[2; 12])));
    let answer = ask(&socket, &request);
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.error, None, "the previous secret is good");
    assert!(answer.verify(&key) && answer.relayed.unwrap().port() >= 49152);

    for (number, (peer, code)) in (3..).zip([
        ("127.0.0.1:9", Some(403)),
        ("10.0.0.1:9", Some(403)),
        ("10.7.1.2:9", None),
        ("8.8.8.8:9", None),
    ]) {
        let request = signed(
            Builder::new(Class::Request, method::CREATE_PERMISSION, &[number; 12])
                .address(attribute::XOR_PEER_ADDRESS, peer.parse().unwrap()),
        );
        let answer = ask(&socket, &request);
        assert_eq!(Message::parse(&answer).unwrap().error, code, "{peer}");
    }
}
