//! The TURN load against coturn, as Debian has it.

#![cfg(test)]

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use switchyard_loadtest::{
    target::Trust,
    turn::{
        client::Credentials,
        run::{Figures, Load, run},
        server::TurnServer,
    },
};
use tokio::sync::watch;

const SECRET: &str = "a secret of the test, on loopback";

/// A server of its own, ended when the test ends.
struct Coturn {
    process: Child,
    address: SocketAddr,
}

impl Coturn {
    fn start() -> Self {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("coturn-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let database = folder.join("turndb");
        let (port_text, secret) = (port.to_string(), format!("--static-auth-secret={SECRET}"));
        let mut process = Command::new("turnserver")
            .args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--listening-port", &port_text])
            .args([
                "--no-tls",
                "--no-dtls",
                "--no-cli",
                "--allow-loopback-peers",
                "--use-auth-secret",
                &secret,
            ])
            .args(["--realm=switchyard.test", "--log-file=stdout", "--simple-log", "--db"])
            .arg(&database)
            .arg(format!("--pidfile={}", folder.join("pid").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn: apt-get install coturn");
        // Its words are read so that it never waits for a reader.
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(drop));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "coturn does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, address }
    }

    async fn load(&self, transport: &str, credentials: Credentials) -> Load {
        let uri = format!("turn:{}?transport={transport}", self.address);
        Load {
            server: TurnServer::open(&uri, &Trust::System).await.unwrap(),
            credentials,
            pairs: 4,
            size: 100,
            rate: 200.0,
            burst: 2,
            duration: Duration::from_secs(1),
            patience: Duration::from_secs(10),
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn credentials(secret: &str) -> Credentials {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Credentials::from_secret(secret, "load", unix + 600)
}

async fn figures(load: &Load) -> Figures {
    run(load, watch::channel(false).1).await
}

#[tokio::test]
async fn every_datagram_through_coturn_arrives_over_udp_and_over_tcp() {
    let coturn = Coturn::start();
    for transport in ["udp", "tcp"] {
        let figures = figures(&coturn.load(transport, credentials(SECRET)).await).await;
        assert_eq!((figures.ready, figures.failures.len()), (4, 0), "{transport}: {figures:?}");
        assert_eq!((figures.sent, figures.received), (800, 800), "{transport}: {figures:?}");
        assert_eq!((figures.doubled, figures.altered), (0, 0));
        assert_eq!((figures.allocating.count(), figures.latency.count()), (8, 800));
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_told_in_its_words() {
    let coturn = Coturn::start();
    let figures = figures(&coturn.load("udp", credentials("another secret")).await).await;
    assert_eq!((figures.ready, figures.sent), (0, 0));
    let why = figures.failures.keys().next().unwrap();
    assert!(why.contains("401"), "{why}");
}

#[tokio::test]
async fn without_a_server_it_says_so() {
    let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let load = Load {
        server: TurnServer::open(&format!("turn:{address}?transport=tcp"), &Trust::System).await.unwrap(),
        credentials: credentials(SECRET),
        pairs: 1,
        size: 100,
        rate: 1.0,
        burst: 1,
        duration: Duration::from_secs(1),
        patience: Duration::from_secs(2),
    };
    let figures = figures(&load).await;
    assert!(figures.failures.keys().next().unwrap().starts_with("connecting: "), "{figures:?}");
}
