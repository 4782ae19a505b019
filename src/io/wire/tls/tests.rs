//! A wire over TLS, with an ordinary TLS client at its far end.

use std::{
    future::poll_fn,
    io::Write as _,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

use super::{
    super::{Wire, WireIo},
    *,
};
use crate::{
    engine::outbox::Direct as _,
    io::websocket::{self, Opcode},
    tls::testing,
};

const LONG: Duration = Duration::from_secs(20);
/// As much as a shard reads at once, and as little as a task does.
const BUFFERS: [usize; 2] = [64 * 1024, 4096];

type Far = TlsStream<TcpStream>;

async fn connection() -> (WireIo, Far) {
    let certificates = testing::certificates(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let connecting = async {
        let socket = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(testing::client(certificates.certificate(), &[]));
        connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
    };
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        certificates.acceptor(&[]).unwrap().accept(socket).await.unwrap()
    };
    let (far, near) = tokio::join!(connecting, accepting);
    let (socket, connection) = near.into_inner();
    (WireIo::over_tls(socket, connection), far)
}

/// Reads until so many bytes have come.
async fn read(wire: &Wire, length: usize, buffer: usize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; buffer]);
    while all.len() < length {
        let reading = poll_fn(|cx| wire.poll_read(cx, &mut buffer, Instant::now()));
        let count = timeout(LONG, reading).await.expect("more comes").unwrap();
        assert!(count > 0, "it ends after {} bytes", all.len());
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

/// Bytes that are not alike.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * at / 7) as u8).collect()
}

#[tokio::test]
async fn records_are_read_whole_whatever_pieces_they_come_in() {
    for buffer in BUFFERS {
        let (near, mut far) = connection().await;
        let sent = bytes(600_000);
        let writing = sent.clone();
        let writer = tokio::spawn(async move {
            let mut rest = &writing[..];
            for length in [1, 17, 4000, 16_384, 100_000, 3, 50_000, 429_595] {
                let (piece, after) = rest.split_at(length);
                far.write_all(piece).await.unwrap();
                far.flush().await.unwrap();
                rest = after;
            }
            assert!(rest.is_empty());
            far
        });
        assert!(read(&near.0, sent.len(), buffer).await == sent, "buffers of {buffer} bytes");
        let _far = timeout(LONG, writer).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_record_that_comes_byte_by_byte_is_read() {
    for buffer in BUFFERS {
        let (near, far) = connection().await;
        let (mut socket, mut client) = far.into_inner();
        client.writer().write_all(b"hello").unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        let wire = near.0.clone();
        let reader = tokio::spawn(async move { read(&wire, 5, buffer).await });
        for byte in record {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(timeout(LONG, reader).await.unwrap().unwrap(), b"hello");
    }
}

#[tokio::test]
async fn what_is_decrypted_and_not_read_yet_makes_it_readable() {
    let (near, mut far) = connection().await;
    far.write_all(&bytes(1000)).await.unwrap();
    timeout(LONG, poll_fn(|cx| near.0.poll_readable(cx))).await.expect("it has come");
    assert_eq!(read(&near.0, 10, 10).await, &bytes(1000)[..10]);
    // The socket has nothing any more.
    let readable = poll_fn(|cx| near.0.poll_readable(cx));
    timeout(LONG, readable).await.expect("what is left shows");
    assert_eq!(read(&near.0, 990, 4096).await, &bytes(1000)[10..]);
    let readable = timeout(Duration::from_millis(20), poll_fn(|cx| near.0.poll_readable(cx)));
    assert!(readable.await.is_err(), "there is nothing more");
    far.write_all(b"more").await.unwrap();
    assert_eq!(read(&near.0, 4, 64 * 1024).await, b"more");
}

#[tokio::test]
async fn what_a_slow_reader_does_not_take_is_kept_and_nothing_overtakes_it() {
    let (mut near, mut far) = connection().await;
    let wire = near.0.clone();
    let has_rest = || wire.lock().tls.as_ref().unwrap().has_rest();
    let message = bytes(60_000);
    let mut written = 0;
    while !has_rest() {
        assert_ne!(wire.write_message(&[&message]), Taken::Nothing);
        written += 1;
    }
    assert_eq!(wire.write_message(&[&message]), Taken::Nothing);
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("TLS is closed in order");
        all
    });
    near.write_all(b"the task's").await.unwrap();
    assert!(!has_rest());
    near.shutdown().await.unwrap();
    let all = timeout(LONG, reader).await.expect("it ends").unwrap();
    let framed = 4 + message.len();
    assert_eq!(all.len(), written * framed + b"the task's".len());
    assert!(all.ends_with(b"the task's"));
    assert!(all[..written * framed].chunks(framed).all(|one| one[4..] == message));
}

#[tokio::test]
async fn a_message_in_many_parts_arrives_whole() {
    let (near, mut far) = connection().await;
    let long = bytes(40_000);
    for parts in [&[&b"one"[..], &long, b"", b"two"][..], &[&b"a"[..]; 20], &[&long[..]], &[&b"short"[..]]] {
        assert_eq!(near.0.write_message(parts), Taken::Written);
        let whole = parts.concat();
        let mut head = [0; 10];
        let head = websocket::head(Opcode::Binary, whole.len(), &mut head);
        let mut read = vec![0; head.len() + whole.len()];
        timeout(LONG, far.read_exact(&mut read)).await.expect("it arrives").unwrap();
        assert!(read == [head, &whole[..]].concat());
    }
}

#[tokio::test]
async fn a_goodbye_is_an_end_on_either_side() {
    for buffer in BUFFERS {
        let (near, mut far) = connection().await;
        far.write_all(b"the last").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(read(&near.0, 8, buffer).await, b"the last");
        let mut rest = vec![0; buffer];
        let end = timeout(LONG, poll_fn(|cx| near.0.poll_read(cx, &mut rest, Instant::now()))).await;
        assert_eq!(end.expect("the end shows").unwrap(), 0);
        if buffer == BUFFERS[0] {
            near.0.shut_down();
        }
        drop(near);
        let ended = timeout(LONG, far.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.expect("it ends").expect("and with a goodbye"), 0);
    }
    // Without one it is an end too.
    for buffer in BUFFERS {
        let (near, far) = connection().await;
        let mut socket = far.into_inner().0;
        socket.shutdown().await.unwrap();
        let mut rest = vec![0; buffer];
        let end = timeout(LONG, poll_fn(|cx| near.0.poll_read(cx, &mut rest, Instant::now()))).await;
        assert_eq!(end.expect("the end shows").unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_no_tls_is_an_error_and_is_told() {
    for buffer in BUFFERS {
        let (near, far) = connection().await;
        let (mut socket, mut client) = far.into_inner();
        socket.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
        socket.write_all(&[7; 32]).await.unwrap();
        let mut rest = vec![0; buffer];
        let broken = timeout(LONG, poll_fn(|cx| near.0.poll_read(cx, &mut rest, Instant::now()))).await;
        assert!(broken.expect("it shows").is_err());
        let mut alert = vec![0; 1024];
        let length = timeout(LONG, socket.read(&mut alert)).await.expect("an alert").unwrap();
        client.read_tls(&mut &alert[..length]).unwrap();
        let told = client.process_new_packets().unwrap_err().to_string();
        assert!(told.contains("BadRecordMac"), "{told}");
    }
}

#[tokio::test]
async fn new_keys_are_followed() {
    let (near, far) = connection().await;
    let (mut socket, mut client) = far.into_inner();
    for round in 0..3 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"asked").unwrap();
        let mut records = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut records).unwrap();
        }
        socket.write_all(&records).await.unwrap();
        assert_eq!(read(&near.0, 5, BUFFERS[round % 2]).await, b"asked");
        assert_eq!(near.0.write_message(&[b"answered"]), Taken::Written);
        let mut answer = [0; 10];
        let mut filled = 0;
        while filled < answer.len() {
            match client.reader().read(&mut answer[filled..]) {
                Ok(count) => filled += count,
                Err(_) => {
                    let mut bytes = [0; 1024];
                    let reading = timeout(LONG, socket.read(&mut bytes));
                    let length = reading.await.expect("an answer comes").unwrap();
                    client.read_tls(&mut &bytes[..length]).unwrap();
                    client.process_new_packets().unwrap();
                }
            }
        }
        assert_eq!(&answer[2..], b"answered");
    }
}

#[test]
fn a_connection_that_has_moved_needs_its_first_runtime_no_more() {
    let [first, second] =
        [(); 2].map(|()| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let (near, far) = first.block_on(connection());
    let (socket, mut client) = far.into_inner();
    let mut socket = {
        let _entered = first.enter();
        socket.into_std().unwrap()
    };
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut send = |bytes: &[u8]| {
        client.writer().write_all(bytes).unwrap();
        while client.wants_write() {
            client.write_tls(&mut socket).unwrap();
        }
    };
    send(b"before");
    near.0.move_to(second.handle()).unwrap();
    drop(first);
    send(b" and after");
    assert_eq!(second.block_on(read(&near.0, 16, 4096)), b"before and after");
    assert_eq!(second.block_on(async { near.0.write_message(&[b"back"]) }), Taken::Written);
    let mut answer = [0; 6];
    while client.reader().read_exact(&mut answer).is_err() {
        client.read_tls(&mut socket).unwrap();
        client.process_new_packets().unwrap();
    }
    assert_eq!(&answer[2..], b"back");
}

#[tokio::test]
async fn http_reads_and_writes_it() {
    let (mut near, mut far) = connection().await;
    far.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut request = [0; 16];
    timeout(LONG, near.read_exact(&mut request)).await.expect("it comes").unwrap();
    assert_eq!(&request, b"GET / HTTP/1.1\r\n");
    // A file is encrypted a piece at a time.
    let file = bytes(500_000);
    let sent = file.clone();
    let writer = tokio::spawn(async move {
        let first = near.write(&sent).await.unwrap();
        assert_eq!(first, CHUNK);
        near.write_all(&sent[first..]).await.unwrap();
        near.shutdown().await.unwrap();
    });
    let mut all = Vec::new();
    timeout(LONG, far.read_to_end(&mut all)).await.expect("it ends").unwrap();
    assert!(all == file);
    timeout(LONG, writer).await.unwrap().unwrap();
}
