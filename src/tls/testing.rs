//! A certificate and a client who trusts it, for tests.

use std::{net::IpAddr, sync::Arc};

use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

use super::{Certificates, crypto};
use crate::config::{Config, Mode};

/// What development has, for `localhost` and these addresses.
pub(crate) fn certificates(addresses: &[IpAddr]) -> Certificates {
    let config = Config { mode: Some(Mode::Development), ..Config::default() };
    Certificates::open(&config, addresses).unwrap().unwrap()
}

/// A client who trusts this one and offers these protocols.
pub(crate) fn client(trusted: CertificateDer<'static>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}
