//! The relay's thread on real sockets, with a shard that the test plays.

use std::time::Duration;

use bytes::BytesMut;
use switchyard_loadtest::turn::client::{Carrier, Credentials, RelayEvent, Relayed};
use switchyard_turn_config::settings::Secret;
use tokio::{net::UdpSocket as AsyncUdp, time::timeout};

use super::*;
use crate::{
    engine::{
        Command,
        path::Path,
        transmit::{Transmit, Way},
    },
    metrics::Metrics,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SFU_PORT: u16 = 7882;

/// A relay on loopback, with one shard.
struct World {
    relay: Relay,
    settings: Turn,
    shard: mpsc::Receiver<Input>,
    metrics: Arc<Metrics>,
}

fn config() -> Config {
    let mut config = Config::default();
    config.rtc.bind = vec![Ipv4Addr::LOCALHOST.into()];
    let listen = &mut config.turn.listen;
    listen.bind = config.rtc.bind.clone();
    (listen.udp_port, listen.tcp_port, listen.tls_enabled) = (0, 0, false);
    config
}

fn sfu() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), SFU_PORT)
}

impl World {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let bound = Bound::bind(&config(), &metrics, mpsc::channel(1).0).unwrap().unwrap();
        let settings = bound.settings().clone();
        let (input, shard) = mpsc::channel(16);
        let sfu = Sfu { addresses: vec![sfu()], ports: vec![vec![SFU_PORT]], inputs: vec![input] };
        let relay = bound.start(sfu, &metrics).unwrap();
        Self { relay, settings, shard, metrics }
    }

    async fn input(&mut self) -> Input {
        let input = timeout(PATIENCE, self.shard.recv()).await.expect("nothing came to the shard");
        input.expect("the relay has ended")
    }
}

/// A client with an allocation.
struct Client {
    socket: AsyncUdp,
    relayed: Relayed,
}

impl Client {
    async fn allocate(world: &World) -> (Self, SocketAddr) {
        let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), world.settings.listen.udp_port);
        let socket = AsyncUdp::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        let secret = world.settings.credentials.secret.as_ref().unwrap().as_str();
        let unix = super::super::unix_ms() / 1000;
        let credentials = Credentials::from_secret(secret, "ada", unix + 600);
        let relayed = Relayed::new(Instant::now(), server, Carrier::Datagrams, credentials).unwrap();
        let mut client = Self { socket, relayed };
        let RelayEvent::Allocated(address) = client.event().await else { panic!("no allocation") };
        (client, address)
    }

    async fn event(&mut self) -> RelayEvent {
        let until = async {
            loop {
                self.flush().await;
                if let Some(event) = self.relayed.poll_event() {
                    return event;
                }
                let mut bytes = [0; 2048];
                let read = self.socket.recv(&mut bytes).await.unwrap();
                self.relayed.handle_bytes(Instant::now(), &bytes[..read]);
            }
        };
        timeout(PATIENCE, until).await.expect("nothing came to the client")
    }

    /// The next datagram from a peer. That a channel stands may be told before.
    async fn data(&mut self) -> (SocketAddr, Vec<u8>) {
        loop {
            match self.event().await {
                RelayEvent::Data(from, bytes) => return (from, bytes.to_vec()),
                RelayEvent::Permitted(_) | RelayEvent::Bound(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn flush(&mut self) {
        while let Some(bytes) = self.relayed.poll_transmit() {
            self.socket.send(&bytes).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_behind_an_allocation_reaches_the_sfu_and_back_in_memory() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocate(&world).await;
    client.relayed.permit(Instant::now(), sfu());
    assert_eq!(client.event().await, RelayEvent::Permitted(sfu()));
    client.relayed.send(Instant::now(), sfu(), b"up").unwrap();
    client.flush().await;
    let Input::Relayed(datagrams) = world.input().await else { panic!("no datagrams") };
    let [datagram] = &datagrams[..] else { panic!("{datagrams:?}") };
    assert_eq!((datagram.source, datagram.local_ip), (relayed, Some(sfu().ip())));
    assert_eq!(&datagram.contents[..], b"up");
    let Path::Relay(allocation) = datagram.path else { panic!("{:?}", datagram.path) };

    // Two that are equally long and one that is shorter, as a shard lays them side by side.
    let mut datagrams = Datagrams::default();
    let way = Way { path: datagram.path, local_ip: datagram.local_ip };
    datagrams.push(allocation, sfu(), &Transmit { way, segment: 4, contents: b"onetwo3" });
    world.relay.mailbox.send_datagrams(datagrams.take().unwrap()).unwrap();
    for expected in ["onet", "wo3"] {
        assert_eq!(client.data().await, (sfu(), expected.as_bytes().to_vec()));
    }

    client.relayed.close(Instant::now());
    client.flush().await;
    let Input::Command(Command::PathClosed(closed)) = world.input().await else { panic!("not told") };
    assert_eq!(closed, Path::Relay(allocation));
    let metrics = world.metrics.clone();
    tokio::task::spawn_blocking(move || world.relay.stop()).await.unwrap();
    let text = metrics.render();
    for line in [
        "switchyard_turn_relayed_packets_total{direction=\"to_sfu\"} 1",
        "switchyard_turn_relayed_packets_total{direction=\"to_clients\"} 2",
        "switchyard_turn_sockets 0",
        "switchyard_turn_allocations{transport=\"udp\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

#[test]
fn what_the_configuration_leaves_open_is_filled_in() {
    let mut config = config();
    let turn = settled(&config).unwrap();
    assert_eq!(turn.relay.bind_v4, Some(Ipv4Addr::LOCALHOST));
    assert_eq!(turn.relay.advertised().0, Some(Ipv4Addr::LOCALHOST));
    let secret = turn.credentials.secret.unwrap();
    assert!(secret.as_str().len() == 64 && settled(&config).unwrap().credentials.secret != Some(secret));
    // Behind a 1:1 NAT the relay is told as the SFU is.
    config.rtc.advertise_addresses = vec!["203.0.113.5".parse().unwrap()];
    let turn = settled(&config).unwrap();
    assert_eq!(turn.relay.bind_v4, Some(Ipv4Addr::LOCALHOST));
    assert_eq!(turn.relay.advertised().0, Some("203.0.113.5".parse().unwrap()));
    // What is set stays.
    config.turn.relay.bind_v4 = Some("127.0.0.2".parse().unwrap());
    config.turn.credentials.secret = Some(Secret::new("x"));
    let turn = settled(&config).unwrap();
    assert_eq!(turn.relay.advertised().0, config.turn.relay.bind_v4);
    assert_eq!(turn.credentials.secret, config.turn.credentials.secret);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_what_to_do() {
    let mut config = config();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    config.turn.listen.udp_port = taken.local_addr().unwrap().port();
    let error = Bound::bind(&config, &Arc::new(Metrics::new()), mpsc::channel(1).0).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("turn.listen.udp_port") && error.contains("turn.mode: off"), "{error}");
}

#[tokio::test]
async fn no_relay_is_bound_where_another_one_is_named_or_none() {
    for mode in [Mode::External, Mode::Off] {
        let mut config = config();
        config.turn.mode = mode;
        assert!(Bound::bind(&config, &Arc::new(Metrics::new()), mpsc::channel(1).0).unwrap().is_none());
    }
}

#[test]
fn datagrams_are_counted_as_they_were_cut() {
    let mut datagrams = Datagrams::default();
    let way = Way { path: Path::Relay(crate::engine::path::AllocationId(1)), local_ip: None };
    let contents = BytesMut::zeroed(25);
    datagrams.push(
        crate::engine::path::AllocationId(1),
        sfu(),
        &Transmit { way, segment: 10, contents: &contents },
    );
    let poll = Poll::new().unwrap();
    let (mailbox, inbox) = mailbox(poll.registry(), BELL_TOKEN).unwrap();
    drop(inbox);
    assert_eq!(mailbox.send_datagrams(datagrams), Err(3));
}
