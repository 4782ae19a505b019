//! The server under load: its URL, connections to it with and without TLS, and HTTP requests.
//!
//! Names are looked up once, so that a run neither measures nor burdens a resolver.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};

use crate::adapter::Door;

/// Bytes of an answer that are read: the metrics of a busy server are some tens of kilobytes.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How much the certificate of an `https://` target is trusted.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// As much as the system's roots say.
    #[default]
    System,
    /// As much as the authorities in this PEM file say.
    Authorities(PathBuf),
    /// In full, whatever it is.
    Anything,
}

/// A server to load.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is not a URL of the kind that is understood.
    #[error("the target is \"{0}\"; http://HOST[:PORT] or https://HOST[:PORT] is expected")]
    NotAUrl(String),
    /// Its name leads nowhere.
    #[error("the target's host {0} has no address: {1}")]
    NoAddress(String, io::Error),
    /// Authorities that cannot be used.
    #[error("the authorities in {0}: {1}")]
    Authorities(String, String),
}

/// A connection, with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A WebSocket to a target.
pub type WebSocket = WebSocketStream<Box<dyn Io>>;

/// An answer's status and body.
pub type Answer = (u16, Bytes);

impl Target {
    /// Looks the URL's host up. A path, if there is one, is refused.
    pub async fn open(url: &str, trust: &Trust) -> Result<Self, TargetError> {
        let (secure, host, port) = parse(url).ok_or_else(|| TargetError::NotAUrl(url.to_owned()))?;
        let no_address = |error| TargetError::NoAddress(host.clone(), error);
        let address = lookup_host((host.as_str(), port)).await.map(|mut addresses| addresses.next());
        let address = address.and_then(|first| first.ok_or_else(|| io::ErrorKind::NotFound.into()));
        let address = address.map_err(no_address)?;
        let tls = match secure {
            true => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| TargetError::NotAUrl(url.to_owned()))?;
                Some((TlsConnector::from(Arc::new(tls_config(trust)?)), name))
            }
            false => None,
        };
        Ok(Self { host, port, address, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL: `http` for requests, `ws` for WebSockets; `s` is put behind where there is TLS.
    pub fn url(&self, scheme: &str) -> String {
        let secure = if self.tls.is_some() { "s" } else { "" };
        format!("{scheme}{secure}://{}", self.authority())
    }

    /// Whether it is on this machine's loopback.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection.
    pub async fn connect(&self) -> io::Result<Box<dyn Io>> {
        connect(self.address, self.tls.as_ref()).await
    }

    /// A WebSocket.
    pub async fn websocket(&self, door: &Door) -> Result<WebSocket, Error> {
        let stream = self.connect().await?;
        let mut request = format!("{}{}", self.url("ws"), door.path).into_client_request()?;
        if let Some(subprotocol) = door.subprotocol {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
        }
        // Nothing is gathered before it is written: whoever writes has merged what belongs together.
        let config = WebSocketConfig::default().write_buffer_size(0);
        client_async_with_config(request, stream, Some(config)).await.map(|(socket, _)| socket)
    }

    /// A GET request on a connection of its own.
    pub async fn get(&self, path: &str) -> io::Result<Answer> {
        let answer = async {
            let io = TokioIo::new(self.connect().await?);
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
            let request = hyper::Request::get(path)
                .header("host", self.authority())
                .header("connection", "close")
                .body(Empty::<Bytes>::new())
                .map_err(io::Error::other)?;
            let reading = async {
                let answer = sender.send_request(request).await.map_err(io::Error::other)?;
                let status = answer.status().as_u16();
                let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
                Ok((status, body.await.map_err(io::Error::other)?.to_bytes()))
            };
            let (answer, _) = tokio::join!(reading, connection);
            answer
        };
        timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// A connection to this address, with TLS if it is to have that.
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<&(TlsConnector, ServerName<'static>)>,
) -> io::Result<Box<dyn Io>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(match tls {
        Some((connector, name)) => {
            Box::new(connector.connect(name.clone(), stream).await.map_err(if_not_trusted)?)
        }
        None => Box::new(stream),
    })
}

/// Says of a certificate that is not trusted what can be done.
fn if_not_trusted(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(refused @ rustls::Error::InvalidCertificate(_)) => io::Error::other(format!(
            "{refused}; --ca names a file with its authority, --insecure trusts any certificate"
        )),
        _ => error,
    }
}

/// Why a WebSocket could not be opened or has ended, in few different words, so that causes can be counted.
pub fn cause(error: &Error) -> String {
    match error {
        // The kind of a system's error has few words; what a library has to say stands in the error alone.
        Error::Io(error) if error.raw_os_error().is_some() => error.kind().to_string(),
        Error::Http(answer) => format!("HTTP {}", answer.status().as_u16()),
        Error::ConnectionClosed | Error::AlreadyClosed => "closed".to_owned(),
        other => other.to_string(),
    }
}

/// Whether there is TLS, the host without brackets, and the port.
fn parse(url: &str) -> Option<(bool, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let (secure, default) = match scheme {
        "http" => (false, 80),
        "https" => (true, 443),
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // Credentials and paths have no place here.
    if rest.contains(['/', '@', '?', '#', ' ']) {
        return None;
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, rest.strip_prefix(':').map(str::parse).transpose().ok()?)
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (rest, None),
        },
    };
    (!host.is_empty()).then(|| (secure, host.to_owned(), port.unwrap_or(default)))
}

/// What TLS connections trust.
pub(crate) fn tls_config(trust: &Trust) -> Result<ClientConfig, TargetError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetError::Authorities("the TLS library".to_owned(), error.to_string()))?;
    Ok(match trust {
        Trust::Anything => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
            .with_no_client_auth(),
        Trust::System => {
            // What of the system's store cannot be read is passed over, as browsers do.
            builder
                .with_root_certificates(roots(rustls_native_certs::load_native_certs().certs))
                .with_no_client_auth()
        }
        Trust::Authorities(file) => builder.with_root_certificates(authorities(file)?).with_no_client_auth(),
    })
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    roots
}

fn authorities(file: &Path) -> Result<RootCertStore, TargetError> {
    let refused = |error: String| TargetError::Authorities(file.display().to_string(), error);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refused(error.to_string()))?;
    let roots = roots(certificates);
    if roots.is_empty() {
        return Err(refused("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// For `--insecure`: the certificate says nothing about who is there, signatures are checked all the same.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn urls_have_a_scheme_a_host_and_perhaps_a_port() {
        let parsed = |url| parse(url).map(|(secure, host, port)| (secure, host.to_owned(), port));
        for (url, secure, host, port) in [
            ("http://127.0.0.1:7880", false, "127.0.0.1", 7880),
            ("https://example.org/", true, "example.org", 443),
            ("http://example.org", false, "example.org", 80),
            ("https://[::1]:8443", true, "::1", 8443),
            ("http://[::1]", false, "::1", 80),
        ] {
            assert_eq!(parsed(url), Some((secure, host.to_owned(), port)), "{url}");
        }
        for bad in [
            "",
            "127.0.0.1:7880",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:b",
            "http://a:70000",
            "http://a/b",
            "http://user:secret@a",
            "http://[::1",
            "http://::1",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    /// Answers one request with these bytes.
    async fn answering(answer: &'static [u8]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /path?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"));
            stream.write_all(answer).await.unwrap();
        });
        Target::open(&url, &Trust::System).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_read_whether_chunked_or_not() {
        let target = answering(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
        assert_eq!(target.get("/path?x=1").await.unwrap(), (404, Bytes::from_static(b"no")));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nye\r\n1\r\ns\r\n0\r\n\r\n";
        assert_eq!(answering(chunked).await.get("/path?x=1").await.unwrap(), (200, "yes".into()));
        assert!(answering(b"SSH-2.0").await.get("/path?x=1").await.is_err());
    }
}
