//! The doors on real sockets, with the test in the TURN thread's place.

use std::{
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
};

use futures_util::future::select_all;
use mio::{Events, Poll, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsConnector, client,
    rustls::{ServerConnection, pki_types::ServerName},
};

use super::{
    super::mailbox::{Inbox, mailbox},
    *,
};
use crate::{
    config::{Config, Mode},
    io::proxy_protocol::tests::{header, of_client},
    tls::testing,
};

/// Longer than anything takes here that comes at all.
const LONG: Duration = Duration::from_secs(20);
/// A Binding request.
const BINDING: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Doors, and who takes what they let in.
struct House {
    doors: Doors,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    poll: Poll,
    inbox: Inbox,
    http: mpsc::Receiver<WireIo>,
}

fn house(patience: Patience, change: impl FnOnce(&mut Listen)) -> House {
    let poll = Poll::new().unwrap();
    let (turn, inbox) = mailbox(poll.registry(), Token(0)).unwrap();
    let (sender, http) = mpsc::channel(1);
    let mut config = Config { mode: Some(Mode::Development), ..Config::default() };
    let listen = &mut config.turn.listen;
    listen.bind = vec![Ipv4Addr::LOCALHOST.into()];
    (listen.tcp_port, listen.tls_port) = (0, 0);
    change(listen);
    let certificates = Arc::new(Certificates::open(&config, &[]).unwrap().unwrap());
    let metrics = Arc::new(Metrics::new());
    let within = Within { turn, http: sender, metrics: metrics.clone() };
    let doors = Doors::start(&config.turn.listen, Some(certificates.clone()), within, patience).unwrap();
    House { doors, certificates, metrics, poll, inbox, http }
}

impl House {
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.doors.tcp[0]).await.unwrap()
    }

    /// With these protocols offered.
    async fn tls(&self, protocols: &[&[u8]]) -> io::Result<client::TlsStream<TcpStream>> {
        self.tls_over(TcpStream::connect(self.doors.tls[0]).await?, protocols).await
    }

    async fn tls_over(
        &self,
        socket: TcpStream,
        protocols: &[&[u8]],
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let config = testing::client(self.certificates.certificate(), protocols);
        TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), socket).await
    }

    /// What the TURN thread is given next.
    fn connected(&mut self) -> Connected {
        let begin = std::time::Instant::now();
        loop {
            self.inbox.heard();
            match self.inbox.take() {
                Some(Letter::Connected(connected)) => return connected,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert!(begin.elapsed() < LONG, "no connection is handed over");
            let wait = || self.poll.poll(&mut Events::with_capacity(1), Some(LONG));
            tokio::task::block_in_place(wait).unwrap();
        }
    }

    async fn counted(&self, stream: Stream, arrival: Arrival, count: u64) {
        let begin = std::time::Instant::now();
        while self.metrics.turn_doors.count(stream, arrival) < count {
            assert!(begin.elapsed() < LONG, "{arrival:?} is not counted");
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until the server has ended the connection.
async fn ends(socket: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let ended = timeout(LONG, socket.read_to_end(&mut rest)).await;
    let _ = ended.expect("the server ends the connection");
}

/// What the client has sent, decrypted by the thread's means.
fn read(socket: &mut std::net::TcpStream, tls: &mut ServerConnection, length: usize) -> Vec<u8> {
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut all = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match tls.reader().read(&mut all[filled..]) {
            Ok(count) => filled += count,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                tls.read_tls(socket).unwrap();
                tls.process_new_packets().unwrap();
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_client_is_handed_over_as_soon_as_it_speaks() {
    let mut house = house(Patience::default(), |_| {});
    for number in 1..=2 {
        let mut client = house.tcp().await;
        client.write_all(&BINDING).await.unwrap();
        let Connected { link, mut socket, tls, read } = house.connected();
        let expected = Link {
            transport: Transport::Tcp,
            connection: number,
            remote: client.local_addr().unwrap(),
            local: house.doors.tcp[0],
        };
        assert_eq!((link, tls.is_none(), read.len()), (expected, true, 0));
        assert!(socket.nodelay().unwrap());
        let mut all = [0; 64];
        assert_eq!(socket.read(&mut all).unwrap(), BINDING.len());
        assert_eq!(socket.read(&mut all).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        socket.write_all(b"an answer").unwrap();
        drop(socket);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"an answer");
    }
    house.counted(Stream::Tcp, Arrival::Turn, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_client_is_handed_over_with_what_was_decrypted() {
    let mut house = house(Patience::default(), |_| {});
    for (offered, agreed) in [
        (&[][..], None),
        (&[&b"h2"[..], b"stun.turn"][..], Some(&b"stun.turn"[..])),
        // It names only what is not spoken here, and is let in all the same.
        (&[&b"h2"[..]][..], None),
        (&[&b"http/1.1"[..]][..], None),
    ] {
        let mut client = house.tls(offered).await.unwrap();
        client.write_all(&BINDING).await.unwrap();
        client.write_all(b"and more in a record of its own").await.unwrap();
        let Connected { link, mut socket, tls, read: early } = house.connected();
        let mut tls = tls.expect("TLS");
        assert_eq!((link.transport, link.local), (Transport::Tls, house.doors.tls[0]));
        assert_eq!(link.remote, client.get_ref().0.local_addr().unwrap());
        assert_eq!(tls.alpn_protocol(), agreed, "{offered:?}");
        assert!(early.starts_with(&BINDING) && socket.nodelay().unwrap());
        let expected = [&BINDING[..], b"and more in a record of its own"].concat();
        let rest = read(&mut socket, &mut tls, expected.len() - early.len());
        assert_eq!([early, rest].concat(), expected);
        tls.writer().write_all(b"an answer").unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut socket).unwrap();
        }
        let mut answer = [0; 9];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"an answer");
    }
    house.counted(Stream::Tls, Arrival::Turn, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_turn_is_ended() {
    let house = house(Patience::default(), |_| {});
    let mut tcp = house.tcp().await;
    tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    ends(&mut tcp).await;
    house.counted(Stream::Tcp, Arrival::Unknown, 1).await;
    let mut tls = house.tls(&[]).await.unwrap();
    tls.write_all(&[LAST_OF_STUN + 1]).await.unwrap();
    ends(&mut tls).await;
    house.counted(Stream::Tls, Arrival::Unknown, 1).await;
    let mut plain = TcpStream::connect(house.doors.tls[0]).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    ends(&mut plain).await;
    house.counted(Stream::Tls, Arrival::Handshake, 1).await;
    drop(house.tcp().await);
    house.counted(Stream::Tcp, Arrival::Gone, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_turn_share_the_tls_port_if_they_are_to() {
    let patience = Patience { handing_over: Duration::from_secs(1), ..Patience::default() };
    let mut house = house(patience, |listen| listen.https = true);
    // A browser offers both, and speaks what is agreed on.
    let mut browser = house.tls(&[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(browser.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    browser.write_all(b"GET /").await.unwrap();
    browser.write_all(b" HTTP/1.1\r\n").await.unwrap();
    let mut connection = timeout(LONG, house.http.recv()).await.expect("HTTP gets it").unwrap();
    let mut request = [0; 16];
    connection.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"GET / HTTP/1.1\r\n");
    connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.expect("TLS is closed in order");
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\n");
    // What is agreed on does not matter, but what is spoken.
    let mut client = house.tls(&[b"http/1.1"]).await.unwrap();
    client.write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().read, BINDING);
    house.counted(Stream::Tls, Arrival::Http, 1).await;
    house.counted(Stream::Tls, Arrival::Turn, 1).await;
    // TCP is for TURN alone.
    let mut plain = house.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    ends(&mut plain).await;
    house.counted(Stream::Tcp, Arrival::Unknown, 1).await;
    // Whom HTTP has no time for is let go: it takes none of these two, and there is room for one.
    let mut waiting = house.tls(&[]).await.unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    house.counted(Stream::Tls, Arrival::Http, 2).await;
    let mut refused = house.tls(&[]).await.unwrap();
    refused.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    ends(&mut refused).await;
    house.counted(Stream::Tls, Arrival::Overloaded, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_too_long_is_ended_and_leaves_its_place() {
    let patience = Patience {
        handshake: Duration::from_secs(1),
        first_byte: Duration::from_secs(1),
        places: 1,
        ..Patience::default()
    };
    let mut house = house(patience, |listen| listen.tcp_enabled = false);
    // A handshake that drips: each byte alone is in time.
    let dripping = TcpStream::connect(house.doors.tls[0]).await.unwrap();
    let (mut reader, mut writer) = dripping.into_split();
    let drip = tokio::spawn(async move {
        for byte in [22, 3, 1, 2, 0].into_iter().chain([1; 512]) {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let behind = timeout(LONG, house.tls(&[])).await;
    let mut silent = behind.expect("the next one gets the place").unwrap();
    ends(&mut reader).await;
    house.counted(Stream::Tls, Arrival::Slow, 1).await;
    drip.abort();
    // One that says nothing in the end.
    ends(&mut silent).await;
    house.counted(Stream::Tls, Arrival::Slow, 2).await;
    let mut client = house.tls(&[]).await.unwrap();
    client.write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().read, BINDING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_has_only_so_many_places() {
    let patience = Patience { places_of_network: 2, ..Patience::default() };
    let mut house = house(patience, |_| {});
    let mut waiting = vec![house.tcp().await, house.tcp().await, house.tcp().await];
    // Which of them comes too late is nobody's business.
    let (_, refused, rest) =
        select_all(waiting.iter_mut().map(|client| Box::pin(async move { ends(client).await }))).await;
    drop(rest);
    house.counted(Stream::Tcp, Arrival::Crowded, 1).await;
    waiting.remove(refused);
    waiting[1].write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().link.remote, waiting[1].local_addr().unwrap());
    // Its place is free.
    house.counted(Stream::Tcp, Arrival::Turn, 1).await;
    let mut next = house.tcp().await;
    next.write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().link.remote, next.local_addr().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_in_who_has_connected_and_nobody_else() {
    let mut house = house(Patience::default(), |_| {});
    let mut on_its_way = house.tls(&[]).await.unwrap();
    house.doors.drain();
    let begin = std::time::Instant::now();
    while TcpStream::connect(house.doors.tls[0]).await.is_ok() {
        assert!(begin.elapsed() < LONG, "the door stays open");
        tokio::task::yield_now().await;
    }
    on_its_way.write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().read, BINDING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_names_the_client() {
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let patience =
        Patience { header: Duration::from_secs(1), places: 1, places_of_network: 1, ..Patience::default() };
    let mut house = house(patience, |listen| (listen.proxy_protocol, listen.tls_enabled) = (loopback, false));
    let mut client = house.tcp().await;
    client.write_all(&of_client([203, 0, 113, 7], 51_000)).await.unwrap();
    client.write_all(&BINDING).await.unwrap();
    let Connected { link, mut socket, .. } = house.connected();
    assert_eq!((link.remote, link.local), ("203.0.113.7:51000".parse().unwrap(), house.doors.tcp[0]));
    let mut all = [0; 64];
    socket.set_nonblocking(false).unwrap();
    assert_eq!(socket.read(&mut all).unwrap(), BINDING.len(), "the header is not the client's");
    // The balancer's own connections are its own.
    let mut own = house.tcp().await;
    own.write_all(&[&header(0x20, 0, &[])[..], &BINDING].concat()).await.unwrap();
    assert_eq!(house.connected().link.remote, own.local_addr().unwrap());
    // Without a header, and with one of version 1.
    for (number, first) in [(1, &BINDING[..]), (2, b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n")] {
        let mut client = house.tcp().await;
        client.write_all(first).await.unwrap();
        ends(&mut client).await;
        house.counted(Stream::Tcp, Arrival::Proxy, number).await;
    }
    // A header that never ends holds the one place for so long and no longer.
    let mut slow = house.tcp().await;
    slow.write_all(&of_client([203, 0, 113, 7], 51_000)[..20]).await.unwrap();
    let mut next = house.tcp().await;
    next.write_all(&[&of_client([203, 0, 113, 8], 1), &BINDING[..]].concat()).await.unwrap();
    ends(&mut slow).await;
    house.counted(Stream::Tcp, Arrival::Slow, 1).await;
    assert_eq!(house.connected().link.remote.to_string(), "203.0.113.8:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_stands_before_tls_too() {
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let mut house = house(Patience::default(), |listen| listen.proxy_protocol = loopback);
    let mut socket = TcpStream::connect(house.doors.tls[0]).await.unwrap();
    socket.write_all(&of_client([203, 0, 113, 7], 51_000)).await.unwrap();
    let mut client = house.tls_over(socket, &[]).await.unwrap();
    client.write_all(&BINDING).await.unwrap();
    let Connected { link, read, .. } = house.connected();
    assert_eq!((link.remote, &read[..]), ("203.0.113.7:51000".parse().unwrap(), &BINDING[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_those_of_the_network_that_the_balancer_names() {
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let patience = Patience { places_of_network: 1, ..Patience::default() };
    let mut house = house(patience, |listen| listen.proxy_protocol = loopback);
    let mut waiting = house.tcp().await;
    waiting.write_all(&of_client([203, 0, 113, 7], 1)).await.unwrap();
    let mut same = house.tcp().await;
    same.write_all(&of_client([203, 0, 113, 8], 2)).await.unwrap();
    let mut other = house.tcp().await;
    other.write_all(&[&of_client([203, 0, 114, 7], 3), &BINDING[..]].concat()).await.unwrap();
    assert_eq!(house.connected().link.remote.to_string(), "203.0.114.7:3");
    house.counted(Stream::Tcp, Arrival::Crowded, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_say_who_they_are() {
    let elsewhere = vec!["10.0.0.0/8".parse().unwrap()];
    let mut house = house(Patience::default(), |listen| listen.proxy_protocol = elsewhere);
    let mut forged = house.tcp().await;
    forged.write_all(&[&of_client([203, 0, 113, 7], 1), &BINDING[..]].concat()).await.unwrap();
    ends(&mut forged).await;
    house.counted(Stream::Tcp, Arrival::Proxy, 1).await;
    let mut forged = TcpStream::connect(house.doors.tls[0]).await.unwrap();
    forged.write_all(&of_client([203, 0, 113, 7], 1)).await.unwrap();
    ends(&mut forged).await;
    house.counted(Stream::Tls, Arrival::Handshake, 1).await;
    let mut client = house.tcp().await;
    client.write_all(&BINDING).await.unwrap();
    assert_eq!(house.connected().link.remote, client.local_addr().unwrap());
}
