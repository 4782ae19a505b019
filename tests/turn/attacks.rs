//! What is tried against the relay on the wire: reaching what is behind it, using what was seen on the network, and frames
//! that lie.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket},
    time::Duration,
};

use switchyard_turn_config::stun::{Builder, Class, attribute, method};

use crate::{
    alone,
    bystander::Bystander,
    client::{Client, connect, is_closed_within},
    relay::{Relay, credential},
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Who is attacked meanwhile is somebody else, from another network.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 0, 1));
const CHANNEL: u16 = 0x4001;
const SOON: Duration = Duration::from_secs(5);
/// Nothing comes: what would have come is on the same machine, and before something that has come.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Somebody on an address of this machine whom nobody from outside may reach.
struct Listener {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Listener {
    fn on(ip: IpAddr) -> Option<Self> {
        // Not on one that has just gone, or that needs a scope.
        let socket = UdpSocket::bind((ip, 0)).ok()?;
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Some(Self { socket, address })
    }

    /// Hears what is said to it now, and has heard nothing before.
    fn expect_silence(&self) {
        let marker = b"from the test itself";
        UdpSocket::bind((self.address.ip(), 0)).unwrap().send_to(marker, self.address).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("the listener hears");
        assert_eq!(buffer[..length], *marker, "{} has heard {from}", self.address);
    }
}

/// Addresses that a datagram would reach one of these by.
fn ways_to(listener: &Listener) -> Vec<SocketAddr> {
    let SocketAddr::V4(v4) = listener.address else { return vec![listener.address] };
    let mut ways = vec![listener.address, SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())];
    if v4.ip().is_loopback() {
        ways.push((Ipv4Addr::UNSPECIFIED, v4.port()).into());
        ways.push((Ipv6Addr::UNSPECIFIED, v4.port()).into());
    }
    ways
}

#[test]
fn no_address_of_the_machine_or_its_network_is_reached() {
    let _alone = alone();
    let relay = Relay::start(&[HERE, HERE_V6], |_| {});
    let machine = if_addrs::get_if_addrs().unwrap().into_iter().map(|interface| interface.ip());
    let machine: BTreeSet<IpAddr> = machine.chain([Ipv4Addr::new(127, 0, 0, 7).into()]).collect();
    let listeners: Vec<_> = machine.into_iter().filter_map(Listener::on).collect();
    assert!(listeners.iter().any(|listener| listener.address.ip() == HERE), "the machine has a loopback");
    let foreign = [
        "169.254.169.254:80",
        "10.0.0.1:53",
        "172.16.0.1:53",
        "172.31.255.255:53",
        "192.168.0.1:53",
        "100.64.0.1:53",
        "224.0.0.1:5353",
        "239.255.255.250:1900",
        "255.255.255.255:9",
        "[::ffff:169.254.169.254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[fe80::1]:53",
        "[fd00::1]:53",
        "[ff02::1]:5353",
    ];
    let doors = [relay.udp(HERE), relay.tcp(HERE), relay.tls(HERE), relay.udp(HERE_V6)];
    let foreign = foreign.map(|address| address.parse().unwrap());
    let peers: Vec<SocketAddr> = listeners.iter().flat_map(ways_to).chain(foreign).chain(doors).collect();

    let mut client = Client::over_udp(HERE, relay.udp(HERE), "mallory");
    let answer = client.try_allocate(true);
    let own = answer.message().relayed.unwrap();
    let mut friend = Client::over_udp(HERE, relay.udp(HERE), "a friend");
    let relayed = friend.allocate();
    for peer in &peers {
        let value = client.masked(*peer);
        assert_eq!(client.bind(CHANNEL, &value), 403, "a channel to {peer}");
        // A permission is for an address with all its ports; of those that relay, the ports of allocations may be reached.
        let is_relaying = [HERE, HERE_V6].contains(&peer.ip().to_canonical());
        let value = client.masked(*peer);
        let expected = if is_relaying { 200 } else { 403 };
        assert_eq!(client.permit(&value), expected, "a permission for {peer}");
        let value = client.masked(*peer);
        client.send(&value, b"GET /latest/meta-data/").unwrap();
        client.send_by(CHANNEL, b"GET /latest/meta-data/").unwrap();
    }
    // What was sent before has been handled when this is answered.
    client.bind_to(CHANNEL, relayed);
    listeners.iter().for_each(Listener::expect_silence);
    assert_eq!(client.hear(AT_ONCE), None, "nobody answers");

    // Who is to be reached is.
    friend.bind_to(CHANNEL, own);
    client.send_by(CHANNEL, b"hello").unwrap();
    assert_eq!(friend.hear(SOON).unwrap()[4..], *b"hello");
}

#[test]
fn what_was_seen_on_the_network_is_of_no_use_to_others() {
    let _alone = alone();
    let relay = Relay::start(&[HERE], |_| {});
    let mut alice = Client::over_udp(HERE, relay.udp(HERE), "alice");
    alice.allocate();
    let seen = [
        alice.request(method::REFRESH, |builder| builder.attribute(attribute::LIFETIME, &[0; 4])),
        alice.request(method::ALLOCATE, |builder| {
            builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        }),
    ];
    let others = [
        Client::over_udp(HERE, relay.udp(HERE), "mallory"),
        Client::over_udp(ELSEWHERE, relay.udp(HERE), "mallory"),
        Client::over_tcp(HERE, relay.tcp(HERE), "mallory"),
    ];
    for mut mallory in others {
        for request in &seen {
            assert_eq!(mallory.answer(request).code(), 438, "the nonce is another's");
        }
        // The nonce of her own is as good as its signature.
        let answer = mallory.try_allocate(false);
        assert_eq!(answer.code(), 200);
        assert_eq!(mallory.refresh(0), 200);
    }
    assert_eq!(alice.refresh(600), 200, "the allocation is still there");
}

#[test]
fn who_has_no_credential_of_this_realm_gets_nothing() {
    let _alone = alone();
    let relay = Relay::start(&[HERE], |_| {});
    type Change = fn(&mut Client);
    let changes: [(&str, u16, Change); 5] = [
        ("another realm", 401, |client| "example.com".clone_into(&mut client.realm)),
        ("another secret", 401, |client| {
            client.credential = credential("mallory", "another secret of twenty")
        }),
        ("another's name", 401, |client| client.credential.username = credential("alice", "x").username),
        ("a nonce of its own making", 438, |client| client.nonce = b"obMatJos2gAAAAAAAAAAAAAAAAAAA".to_vec()),
        ("a nonce that was changed", 438, |client| *client.nonce.last_mut().unwrap() ^= 1),
    ];
    for (what, code, change) in changes {
        for is_stream in [false, true] {
            let mut client = match is_stream {
                false => Client::over_udp(HERE, relay.udp(HERE), "mallory"),
                true => Client::over_tcp(HERE, relay.tcp(HERE), "mallory"),
            };
            let allocate =
                |builder: Builder| builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            let request = client.request(method::ALLOCATE, allocate);
            let challenge = client.answer(&request);
            assert_eq!(challenge.code(), 401);
            client.nonce = challenge.message().nonce.unwrap().to_vec();
            change(&mut client);
            let request = client.request(method::ALLOCATE, allocate);
            assert_eq!(client.answer(&request).code(), code, "{what}");
        }
    }
    for transport in ["udp", "tcp"] {
        assert_eq!(
            relay.counted(&format!("switchyard_turn_allocations_total{{transport=\"{transport}\"}}")),
            0
        );
    }
}

/// A Binding request with this much that nobody knows and nobody has to.
fn binding(filler: usize) -> Vec<u8> {
    let builder = Builder::new(Class::Request, method::BINDING, &[7; 12]);
    builder.attribute(0xc001, &vec![0; filler]).finish(false)
}

#[test]
fn frames_that_lie_end_their_connection_and_nobody_elses() {
    let _alone = alone();
    let relay = Relay::start(&[HERE], |_| {});
    let bystander = Bystander::over_tcp(ELSEWHERE, relay.tcp(HERE));
    let header = |length: u16| [&[0, 1][..], &length.to_be_bytes(), &binding(0)[4..20]].concat();
    let ends: [(&str, Vec<u8>); 8] = [
        ("a STUN message that is longer than any", header(0xfffc)),
        ("channel data that is longer than any", [binding(0), vec![0x40, 1, 0xff, 0xff]].concat()),
        ("channel data to begin with", vec![0x40, 1, 0, 4, 1, 2, 3, 4]),
        ("another cookie", [&header(0)[..4], &[0; 16]].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("neither", vec![0xff; 64]),
        ("nonsense behind a message", [binding(0), vec![0x80; 64]].concat()),
    ];
    for (what, bytes) in &ends {
        let mut stream = connect(HERE, relay.tcp(HERE)).unwrap();
        // It may be closed already while this is written.
        let _ = stream.write_all(bytes);
        assert!(is_closed_within(&mut stream, SOON), "{what}");
    }
    for cut in [1, 3, 4, 19, 20, 27] {
        let mut stream = connect(HERE, relay.tcp(HERE)).unwrap();
        stream.write_all(&binding(4)[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(is_closed_within(&mut stream, SOON), "a message that ends after {cut} bytes");
    }
    // A message may be as long as its length says. That is no request, but it does not end the connection.
    let mut client = Client::over_tcp(HERE, relay.tcp(HERE), "mallory");
    client.say(&binding(60_000)).unwrap();
    client.say(&header(3)).unwrap();
    client.say(&[0; 4]).unwrap();
    assert_eq!(client.try_allocate(false).code(), 200);
    drop(client);
    // All have gone but the bystander's two.
    let streams = "switchyard_turn_streams{transport=\"tcp\"}";
    assert_eq!(relay.counted_at_last(streams, 2), 2);
    assert_eq!(bystander.stop().lost, 0);
}
