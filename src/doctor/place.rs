//! Where the server is: its URL, the addresses of its name, connections, and whether its certificate is good.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        CertificateError, ClientConfig, Error, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::{Trouble, unreachable};

/// A certificate that ends so soon should have been renewed.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 24 * 3600;

/// A connection, with or without TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// `None` if it is no such URL.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let (secure, rest, usual) = match url.split_once("://")? {
            ("https" | "wss", rest) => (true, rest, 443),
            ("http" | "ws", rest) => (false, rest, 80),
            _ => return None,
        };
        let (host, port) = split(rest.strip_suffix('/').unwrap_or(rest))?;
        Some(Self { secure, host: host.to_owned(), port: port.unwrap_or(usual) })
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// As in a `Host` header.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether its host is a name, not an address.
    pub(super) fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// What to look at where nobody answers.
    pub(super) fn advice(&self) -> String {
        format!(
            "is the server running, or the proxy before it, and is TCP port {} open (http.bind, http.port)?",
            self.port
        )
    }

    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, Trouble> {
        resolve(&self.host, self.port).await
    }

    /// A connection to one of its addresses.
    pub(super) async fn connect(
        &self,
        trust: &Trust,
        address: SocketAddr,
    ) -> Result<(Box<dyn Io>, String), Trouble> {
        let stream =
            TcpStream::connect(address).await.map_err(|error| unreachable(&error, &self.advice()))?;
        if !self.secure {
            return Ok((Box::new(stream), String::new()));
        }
        let setting = "of the proxy, or turn.listen.tls_certificate where turn.listen.https is on";
        let (stream, words) = trust.tls(&self.host, stream, setting).await?;
        Ok((Box::new(stream), words))
    }
}

/// Host and port; an IPv6 address stands in brackets.
pub(super) fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    let port = port.map(str::parse).transpose().ok()?;
    is_host.then_some((host, port))
}

/// The addresses of a name, each once.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble> {
    let found = lookup_host((host, port)).await;
    let mut addresses: Vec<SocketAddr> = match found {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            return Err(Trouble::Failed(format!("the name has no address ({error}): check its DNS record")));
        }
    };
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(Trouble::failed("the name has no address: check its DNS record"));
    }
    Ok(addresses)
}

/// Whose certificates are believed.
pub(super) struct Trust(TlsConnector);

impl Trust {
    /// The system's authorities, and those of a file.
    pub(super) fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        // What of the system's store cannot be read is passed over, as browsers do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = ca {
            let unreadable = || format!("--ca {}", file.display());
            let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(anyhow::Error::from)
                .with_context(unreadable)?;
            let (added, _) = roots.add_parsable_certificates(certificates);
            anyhow::ensure!(added > 0, "--ca {}: there is no certificate in it", file.display());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("the TLS library")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// TLS on a connection; `setting` names the certificate's. Says until when the certificate holds.
    pub(super) async fn tls(
        &self,
        host: &str,
        stream: TcpStream,
        setting: &str,
    ) -> Result<(TlsStream<TcpStream>, String), Trouble> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Trouble::failed("no certificate can be for such a name"))?;
        let stream =
            self.0.connect(name, stream).await.map_err(|error| not_trusted(&error, host, setting))?;
        let expiry =
            stream.get_ref().1.peer_certificates().and_then(|chain| crate::tls::expiry_of(chain.first()?));
        let words = expiry.map_or_else(String::new, |expiry| {
            let days = (expiry - now()) / DAY;
            let soon = if days < SOON_DAYS { ", which is soon: is its renewal at work?" } else { "" };
            format!("the certificate holds for {days} days{soon}")
        });
        Ok((stream, words))
    }
}

/// Why TLS was not agreed on.
fn not_trusted(error: &io::Error, host: &str, setting: &str) -> Trouble {
    let refused = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidCertificate(refused)) => refused,
        _ => return Trouble::Failed(format!("TLS fails: {error}")),
    };
    Trouble::Failed(match refused {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate has expired: renew it ({setting})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate does not hold yet: set the clocks, or take another one ({setting})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the certificate is not for {host}: take one that is ({setting}), or tell clients the name that it is for (turn.host)"
            )
        }
        CertificateError::UnknownIssuer => format!(
            "nobody this machine trusts has issued the certificate: put its chain into the file too ({setting}), or name its authority by --ca"
        ),
        other => format!("the certificate is refused ({other:?}): take another one ({setting})"),
    })
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_scheme_and_a_host_and_nothing_behind() {
        let parsed = |url| Place::parse(url).map(|place| (place.scheme(), place.authority()));
        for (url, scheme, authority) in [
            ("https://live.example.com", "https", "live.example.com:443"),
            ("http://127.0.0.1:7880/", "http", "127.0.0.1:7880"),
            ("wss://[2001:db8::1]:8443", "https", "[2001:db8::1]:8443"),
            ("ws://[::1]", "http", "[::1]:80"),
        ] {
            assert_eq!(parsed(url), Some((scheme, authority.to_owned())), "{url}");
        }
        for url in [
            "live.example.com",
            "ftp://a",
            "https://",
            "https://a/b",
            "http://a:x",
            "http://[::1]x",
            "http://u@a",
        ] {
            assert_eq!(parsed(url), None, "{url}");
        }
    }
}
