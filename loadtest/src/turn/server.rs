//! Where a TURN server is: `turn:HOST[:PORT][?transport=udp|tcp]` or `turns:HOST[:PORT]` (RFC 7065), looked up once.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::lookup_host;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::client::Carrier;
use crate::target::{Io, TargetError, Trust, connect, tls_config};

/// Ports without TLS and with it (RFC 8656 §2.1).
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

/// A TURN server to load.
#[derive(Clone)]
pub struct TurnServer {
    address: SocketAddr,
    carrier: Carrier,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum TurnServerError {
    /// It is not a URI of the kind that is understood.
    #[error("the server is \"{0}\"; turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT] is expected")]
    NotAUri(String),
    /// Its name leads nowhere.
    #[error("the server's host {0} has no address: {1}")]
    NoAddress(String, io::Error),
    /// TLS cannot be had.
    #[error("{0}")]
    Tls(#[from] TargetError),
}

struct Uri {
    secure: bool,
    host: String,
    port: u16,
    carrier: Carrier,
}

impl TurnServer {
    /// Looks the URI's host up.
    pub async fn open(uri: &str, trust: &Trust) -> Result<Self, TurnServerError> {
        let not_a_uri = || TurnServerError::NotAUri(uri.to_owned());
        let Uri { secure, host, port, carrier } = parse(uri).ok_or_else(not_a_uri)?;
        let address = lookup_host((host.as_str(), port)).await.map(|mut addresses| addresses.next());
        let address = address.and_then(|first| first.ok_or_else(|| io::ErrorKind::NotFound.into()));
        let address = address.map_err(|error| TurnServerError::NoAddress(host.clone(), error))?;
        let tls = if secure {
            let name = ServerName::try_from(host).map_err(|_| not_a_uri())?;
            Some((TlsConnector::from(Arc::new(tls_config(trust)?)), name))
        } else {
            None
        };
        Ok(Self { address, carrier, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is reached.
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

    pub(super) async fn connect(&self) -> io::Result<Box<dyn Io>> {
        connect(self.address, self.tls.as_ref()).await
    }
}

impl std::fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnServer({} by {:?}, TLS: {})", self.address, self.carrier, self.tls.is_some())
    }
}

/// Where a URI with an address for a host leads, how, and whether within TLS. Names are not looked up.
pub(crate) fn by_address(uri: &str) -> Option<(SocketAddr, Carrier, bool)> {
    let Uri { secure, host, port, carrier } = parse(uri)?;
    Some((SocketAddr::new(host.parse().ok()?, port), carrier, secure))
}

fn parse(uri: &str) -> Option<Uri> {
    let (scheme, rest) = uri.split_once(':')?;
    let secure = match scheme {
        "turn" => false,
        "turns" => true,
        _ => return None,
    };
    let (authority, transport) = match rest.split_once("?transport=") {
        Some((authority, transport)) => (authority, Some(transport)),
        None => (rest, None),
    };
    let carrier = match (transport, secure) {
        (None | Some("udp"), false) => Carrier::Datagrams,
        (Some("tcp"), _) | (None, true) => Carrier::Stream,
        // Over DTLS it is not spoken here.
        _ => return None,
    };
    let default = if secure { TLS_PORT } else { PORT };
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, if rest.is_empty() { default } else { rest.strip_prefix(':')?.parse().ok()? })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, default),
        },
    };
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    is_host.then(|| Uri { secure, host: host.to_owned(), port, carrier })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_that_clients_are_given() {
        let read = |uri| parse(uri).map(|uri| (uri.secure, uri.host, uri.port, uri.carrier));
        let host = |name: &str| name.to_owned();
        assert_eq!(read("turn:a.example"), Some((false, host("a.example"), 3478, Carrier::Datagrams)));
        let tcp = read("turn:10.0.0.1:99?transport=tcp");
        assert_eq!(tcp, Some((false, host("10.0.0.1"), 99, Carrier::Stream)));
        assert_eq!(read("turns:a.example"), Some((true, host("a.example"), 5349, Carrier::Stream)));
        assert_eq!(read("turn:[::1]:5"), Some((false, host("::1"), 5, Carrier::Datagrams)));
        for bad in [
            "a.example",
            "stun:a",
            "turn:",
            "turn:a:b",
            "turn:a?transport=sctp",
            "turns:a?transport=udp",
            "turn://a",
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
