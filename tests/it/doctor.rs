//! `switchyard doctor`, the program itself, against real servers that are well, or are not.

use std::path::Path;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use serde_json::Value;
use switchyard::{Running, config::Config};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::doors::{SECOND, SECRET};

/// A server with everything there is to be looked at.
async fn server(folder: &TempDir, rtc: &str) -> (Running, String) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.2".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let text = format!(
        "mode: development\nhttp: {{ bind: 127.0.0.2, port: 0 }}\nkeys: {{ app: {{ secret: {SECRET} }} }}\n\
         rtc: {{ bind: [127.0.0.2], udp_port: 0, tcp_port: 0, shards: 1, {rtc} }}\n\
         store: {{ path: {store} }}\n\
         turn:\n  listen: {{ bind: [127.0.0.2], udp_port: 0, tcp_port: 0, tls_port: 0, tls_certificate: {certificate}, tls_key: {key} }}\n\
         \x20 relay: {{ bind_v4: 127.0.0.2 }}\n  credentials: {{ secret: {SECRET}turn }}\n",
        store = path("store.db"),
    );
    let config = Config::read(Some((Path::new("doctor.yaml"), &text)), &[], &[]).unwrap();
    (switchyard::start(config).await.unwrap(), certificate)
}

/// What it prints and its exit code.
async fn doctor(arguments: &str) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.arg("doctor").args(arguments.split(' ')).kill_on_drop(true);
    let output = timeout(60 * SECOND, command.output()).await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (text, output.status.code().unwrap())
}

/// The lines with one space for many, and without times.
fn lines(text: &str) -> Vec<String> {
    let plain = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "ms") {
            words.drain(at - 1..=at);
        }
        words.join(" ")
    };
    text.lines().map(plain).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_server_that_is_well_every_address_is_found_to_work() {
    let folder = TempDir::new().unwrap();
    let (running, certificate) = server(&folder, "advertise_addresses: [127.0.0.2]").await;
    let url = format!("http://{}", running.address);
    let access = format!("--url {url} --key app --secret {SECRET} --ca {certificate} --timeout 20s");
    let (text, code) = doctor(&access).await;
    println!("{text}");
    let lines = lines(&text);
    let listen = &running.turn().listen;
    let port = running.address.port();
    let beginnings = [
        "ok name 127.0.0.2 127.0.0.2".to_owned(),
        format!("ok http 127.0.0.2:{port}/healthz"),
        format!("ok http 127.0.0.2:{port}/readyz"),
        format!("ok websocket 127.0.0.2:{port}/v1/connect"),
        format!("ok session 127.0.0.2:{port} room doctor-"),
        "warning ice-udp 127.0.0.2:".to_owned(),
        "warning ice-tcp 127.0.0.2:".to_owned(),
        format!("ok stun stun:127.0.0.2:{} sees 127.0.0.1", listen.udp_port),
        format!("ok turn-udp turn:127.0.0.2:{}?transport=udp relays at 127.0.0.2:", listen.udp_port),
        "skipped relay 127.0.0.2:".to_owned(),
        format!("ok turn-tcp turn:127.0.0.2:{}?transport=tcp relays at 127.0.0.2:", listen.tcp_port),
        format!("ok turn-tls turns:127.0.0.2:{}?transport=tcp relays at 127.0.0.2:", listen.tls_port),
    ];
    assert_eq!(lines.len(), beginnings.len(), "{text}");
    for (line, beginning) in lines.iter().zip(&beginnings) {
        assert!(line.starts_with(beginning), "{line:?} is not {beginning:?}");
    }
    let private =
        "127.0.0.2 is private, and clients are told it: name the public one in rtc.advertise_addresses";
    assert!(lines[5].ends_with(private) && lines[6].ends_with(private), "{text}");
    let same = "the relay does not send to 127.0.0.1 (turn.allow, turn.deny); from another network this can be tested";
    assert!(lines[9].ends_with(same), "{text}");
    assert!(lines[11].contains("; the certificate holds for "), "{text}");
    assert_eq!(code, 0);
    // The allocations have been given back.
    let (json, code) = doctor(&format!("{access} --json")).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["ok"], json["tests"].as_array().unwrap().len(), code),
        (&Value::Bool(true), lines.len(), 0)
    );
    assert_eq!(json["tests"][1]["test"], "http");

    // Without a certificate that is trusted, and with a secret that is not the server's.
    let (text, code) = doctor(&format!("--url {url} --key app --secret {SECRET} --timeout 20s")).await;
    let tls = self::lines(&text).pop().unwrap();
    let refused = format!(
        "failed turn-tls turns:127.0.0.2:{}?transport=tcp nobody this machine trusts has issued the certificate: \
         put its chain into the file too (turn.listen.tls_certificate), or name its authority by --ca",
        listen.tls_port
    );
    assert_eq!((tls, code), (refused, 1));
    let (text, code) = doctor(&format!("--url {url} --key app --secret {SECRET}x")).await;
    let session = self::lines(&text).pop().unwrap();
    assert!(session.contains("the join is refused (token_signature)"), "{text}");
    assert!(session.ends_with("the secret is not that of the server's API key (keys)"), "{text}");
    assert_eq!(code, 1);
    let (text, code) = doctor(&format!("--url {url}")).await;
    let session = format!(
        "skipped session 127.0.0.2:{port} needs --token, or --key and --secret: a session is told where else the server is"
    );
    assert_eq!((self::lines(&text).pop().unwrap(), code), (session, 0));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_the_servers_is_told_with_the_setting_to_change() {
    let folder = TempDir::new().unwrap();
    let (running, certificate) = server(&folder, "advertise_addresses: [127.0.0.9]").await;
    let arguments = format!(
        "--url http://{} --key app --secret {SECRET} --ca {certificate} --timeout 20s",
        running.address
    );
    let (text, code) = doctor(&arguments).await;
    let lines = lines(&text);
    for (at, test, protocol, setting) in
        [(5, "ice-udp", "UDP", "rtc.udp_port"), (6, "ice-tcp", "TCP", "rtc.tcp_port")]
    {
        let line = &lines[at];
        let rest =
            line.strip_prefix(&format!("failed {test} 127.0.0.9:")).unwrap_or_else(|| panic!("{text}"));
        let (port, sentence) = rest.split_once(' ').unwrap();
        let expected = format!(
            "nothing listens there: open {protocol} port {port} ({setting}) to clients, or tell them the address that they \
             reach (rtc.advertise_addresses)"
        );
        assert_eq!(sentence, expected);
    }
    assert!(lines[8].starts_with("ok turn-udp"), "the rest is tested all the same: {text}");
    assert_eq!(code, 1);
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_at_which_nobody_listens_or_answers_ends_the_tests() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (text, code) = doctor(&format!("--url http://127.0.0.1:{port}")).await;
    let expected = format!(
        "failed http 127.0.0.1:{port}/healthz nothing listens there: is the server running, or the proxy before it, \
         and is TCP port {port} open (http.bind, http.port)?"
    );
    assert_eq!((&lines(&text)[1..], code), (&[expected][..], 1));
    // Somebody who says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (text, code) = doctor(&format!("--url http://127.0.0.1:{port} --timeout 1s")).await;
    let expected = format!("failed http 127.0.0.1:{port}/healthz no answer in 1 s: is the server running,");
    assert!(lines(&text)[1].starts_with(&expected), "{text}");
    assert_eq!(code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_or_is_for_another_name_is_told() {
    for (name, until, told) in [
        ("127.0.0.1", 2020, "the certificate has expired: renew it"),
        ("live.example.com", 2090, "the certificate is not for 127.0.0.1: take one that is"),
    ] {
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let file = folder.path().join("certificate.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        let (text, code) = doctor(&format!("--url https://{address} --ca {}", file.display())).await;
        let line = lines(&text).pop().unwrap();
        let expected = format!("failed https {address}/healthz {told}");
        assert!(line.starts_with(&expected), "{line}");
        assert!(
            line.contains("(of the proxy, or turn.listen.tls_certificate where turn.listen.https is on)"),
            "{line}"
        );
        assert_eq!(code, 1);
        serving.abort();
    }
}
