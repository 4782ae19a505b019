//! Targets behind TLS: whom the load program trusts, and what it says of others.

#![cfg(test)]

use std::{io::Write as _, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use switchyard_loadtest::{
    adapter::{self, Door},
    run::{Interrupt, RunError, Setup, run},
    scenario::{Scenario, Transport},
    target::{Target, TargetError, Trust, cause},
    token::TokenSource,
};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// As `--ca` takes it.
fn file(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

const LOOPBACK: &str = "127.0.0.1";

/// A server that says it is called so, answers a GET, and sends back what it gets over a WebSocket. Its URL.
async fn server(authority: &Authority, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(acceptor.clone(), stream));
        }
    });
    format!("https://{LOOPBACK}:{port}")
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    // Which of both it is, the beginning of the request says.
    let mut first = [0; 9];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    if &first == b"GET /page" {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthere").await.unwrap();
        return stream.shutdown().await.unwrap();
    }
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(std::io::Cursor::new(first).chain(reader), writer);
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary() && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn door() -> Door {
    Door { path: "/hall".to_owned(), subprotocol: None }
}

async fn refusal(url: &str, trust: &Trust) -> String {
    let target = Target::open(url, trust).await.unwrap();
    let by_get = target.get("/page").await.unwrap_err().to_string();
    let by_socket = target.websocket(&door()).await.err().map(|error| cause(&error)).unwrap();
    assert!(by_socket.contains(&by_get), "{by_socket} {by_get}");
    by_get
}

#[tokio::test]
async fn an_authority_in_a_file_is_trusted_and_so_is_anything_if_told_so() {
    let authority = authority();
    let url = server(&authority, LOOPBACK).await;
    let file = file(&authority.pem());
    for trust in [Trust::Authorities(file.path().to_owned()), Trust::Anything] {
        let target = Target::open(&url, &trust).await.unwrap();
        assert_eq!(target.get("/page").await.unwrap(), (200, "there".into()));
        let mut socket = target.websocket(&door()).await.unwrap();
        socket.send(Message::binary("what was said")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary("what was said"));
    }
}

#[tokio::test]
async fn another_authority_is_refused_with_what_can_be_done() {
    let url = server(&authority(), LOOPBACK).await;
    let other = file(&authority().pem());
    for trust in [Trust::Authorities(other.path().to_owned()), Trust::System] {
        let refusal = refusal(&url, &trust).await;
        assert!(refusal.contains("invalid peer certificate") && refusal.contains("--ca"), "{refusal}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = authority();
    let url = server(&authority, "localhost").await;
    let file = file(&authority.pem());
    let refusal = refusal(&url, &Trust::Authorities(file.path().to_owned())).await;
    assert!(refusal.contains("certificate not valid for name \"127.0.0.1\""), "{refusal}");
}

#[tokio::test]
async fn a_file_without_an_authority_is_refused_before_anything_is_connected() {
    for (text, what) in [("", "there is no certificate in it"), ("-----BEGIN CERTIFICATE-----\n!", "")] {
        let file = file(text);
        let trust = Trust::Authorities(file.path().to_owned());
        let Err(error) = Target::open("https://localhost:1", &trust).await else { panic!("{text}") };
        assert!(matches!(error, TargetError::Authorities(..)), "{error}");
        let name = file.path().display().to_string();
        assert!(error.to_string().contains(&name) && error.to_string().contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_run_against_whom_it_does_not_trust_ends_at_once_and_says_why() {
    let url = server(&authority(), LOOPBACK).await;
    let mut scenario = Scenario::load("thousand").unwrap();
    scenario.groups.iter_mut().for_each(|group| group.transport = Transport::Websocket);
    let setup = Setup {
        scenario,
        target: Target::open(&url, &Trust::System).await.unwrap(),
        adapter: adapter::find("broadcast").unwrap(),
        tokens: TokenSource::Nowhere,
        seed: 1,
        prefix: "load".to_owned(),
        threads: 1,
        server_pid: None,
        own_server: None,
    };
    let (_interrupt, interrupted) = watch::channel(Interrupt::None);
    let Err(error) = run(setup, interrupted, |_| {}).await else { panic!("it ran") };
    assert!(matches!(error, RunError::CannotConnect(..)), "{error}");
    let error = error.to_string();
    assert!(error.starts_with(&format!("cannot connect to {url}: invalid peer certificate")), "{error}");
}
