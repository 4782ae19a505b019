//! The real server behind one TLS port: pages, WebSockets and TURN, told apart by what is spoken.

use std::{io, path::Path};

use rcgen::CertifiedKey;
use switchyard::{Running, config::Config};
use switchyard_loadtest::target::{Io, Target, Trust};
use switchyard_signaling::frame::Reliable;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::doors::{Got, Raw, SECOND, SECRET};

/// A server at whose TLS port HTTP is answered too, and how to reach that.
async fn server(folder: &TempDir) -> (Running, Target) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let text = format!(
        "mode: production\nhttp: {{bind: 127.0.0.1, port: 0}}\nrtc: {{enabled: false, shards: 2}}\nkeys: {{app: {{secret: {SECRET}}}}}\n\
         store: {{path: {store}}}\n\
         turn:\n  listen:\n    bind: [127.0.0.1]\n    udp_port: 0\n    tcp_port: 0\n    tls_port: 0\n    https: true\n\
         \x20   tls_certificate: {certificate}\n    tls_key: {key}\n\
         \x20 relay: {{bind_v4: 127.0.0.1}}\n  credentials: {{secret: {SECRET}turn}}\n",
        store = path("store.db"),
    );
    let config = Config::read(Some((Path::new("https.yaml"), &text)), &[], &[]).unwrap();
    let running = switchyard::start(config).await.unwrap();
    let url = format!("https://127.0.0.1:{}", running.turn().listen.tls_port);
    let target = Target::open(&url, &Trust::Authorities(certificate.into())).await.unwrap();
    (running, target)
}

async fn raw(target: &Target) -> Raw {
    Raw::over(target.connect().await.unwrap(), target.address()).await
}

/// Waits until this payload has come.
async fn receives(raw: &mut Raw, payload: &[u8]) {
    let receiving = async {
        loop {
            let Got::Binary(message) = raw.next().await else { continue };
            let is = |body: &Reliable| matches!(body, Reliable::Chunk(_, got) if got[..] == *payload);
            if raw.reliable(message).iter().any(is) {
                return raw.acknowledge().await.unwrap();
            }
        }
    };
    let received = timeout(20 * SECOND, receiving).await;
    received.unwrap_or_else(|_| panic!("{} bytes do not arrive", payload.len()));
}

/// One message of STUN.
async fn message(stream: &mut Box<dyn Io>) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 20];
    stream.read_exact(&mut message).await?;
    message.resize(20 + usize::from(u16::from_be_bytes([message[2], message[3]])), 0);
    stream.read_exact(&mut message[20..]).await?;
    Ok(message)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_websockets_and_turn_share_one_tls_port() {
    let folder = TempDir::new().unwrap();
    let (running, target) = server(&folder).await;
    assert_eq!(target.get("/healthz").await.unwrap(), (200, "ok\n".into()));
    assert_eq!(target.get("/metrics").await.unwrap().0, 404, "they are not the world's");
    let inside = Target::open(&format!("http://{}", running.address), &Trust::System).await.unwrap();
    let (status, metrics) = inside.get("/metrics").await.unwrap();
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains(r#"switchyard_turn_connections_total{outcome="http",transport="tls"} 2"#));

    let mut secure = [raw(&target).await, raw(&target).await];
    let mut plain = Raw::connect(running.address, None).await;
    secure[0].join("room", "a").await;
    secure[1].join("room", "b").await;
    plain.join("room", "c").await;
    for length in [1, 100, 4095, 4096, 16_000] {
        let payload = vec![length as u8; length];
        secure[0].send(&payload).await.unwrap();
        receives(&mut secure[1], &payload).await;
        receives(&mut plain, &payload).await;
        let answer = vec![!length as u8; length + 1];
        plain.send(&answer).await.unwrap();
        for raw in &mut secure {
            receives(raw, &answer).await;
        }
    }

    let mut turn = target.connect().await.unwrap();
    let header = |kind: [u8; 2]| [&kind, &[0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    turn.write_all(&header([0, 1])).await.unwrap();
    let answer = timeout(20 * SECOND, message(&mut turn)).await.expect("TURN answers").unwrap();
    assert_eq!((&answer[..2], &answer[4..20]), (&[1, 1][..], &header([1, 1])[4..]), "a Binding success");
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_tls_in_order() {
    let folder = TempDir::new().unwrap();
    let (running, target) = server(&folder).await;
    let mut joined = raw(&target).await;
    joined.join("room", "a").await;
    let drained = tokio::spawn(running.drain());
    let told = loop {
        match timeout(20 * SECOND, joined.next()).await.expect("it is told") {
            Got::Binary(_) => {}
            Got::Text(text) => assert!(text.contains("draining"), "{text}"),
            end => break end,
        }
    };
    assert_eq!(told, Got::Close(4503));
    joined.write(8, &4503_u16.to_be_bytes()).await.unwrap();
    // Without a goodbye this would be an error.
    assert_eq!(timeout(20 * SECOND, joined.rest()).await.expect("it ends").unwrap(), b"");
    drained.await.unwrap().unwrap();
    assert!(target.connect().await.is_err(), "nobody is let in any more");
}
