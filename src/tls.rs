//! The certificate of the TLS port: read from PEM files and taken over anew when they change, or made at the start in
//! development. What protocols are spoken over TLS is the doors' business (`io`).
//!
//! The files are looked at every few seconds, by their contents, because a renewal may come as a new file, as an old one
//! written anew, or as a link that points elsewhere. What is not good is told once, and the certificate before is used on.

mod validity;

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::digest::{SHA256, digest};
use tokio::net::TcpStream;
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{
        self, InconsistentKeys, ServerConfig,
        crypto::{CryptoProvider, ring as provider},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{Acceptor as Hello, ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use self::validity::Validity;
use crate::{
    config::{Config, Mode},
    metrics::{Metrics, Reload},
};

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(5);
/// Bytes of a file that are read: more than any chain has.
const FILE: u64 = 1 << 20;
const DAY: i64 = 24 * 3600;

/// Why there is no certificate, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {}: {source}; name a PEM file that the server may read", path.display())]
    Unreadable {
        /// Which.
        setting: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without a certificate.
    #[error(
        "turn.listen.tls_certificate: there is no certificate in {}; name the PEM file that has the server's own \
         (-----BEGIN CERTIFICATE-----) first, and then its chain",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// A file with something that is said to be a certificate.
    #[error("turn.listen.tls_certificate: the first certificate in {} is damaged; ask for it anew", .0.display())]
    Damaged(PathBuf),
    /// A file without a key.
    #[error(
        "turn.listen.tls_key: there is no private key in {}; name the PEM file that has it (-----BEGIN PRIVATE KEY-----)",
        .0.display()
    )]
    NoKey(PathBuf),
    /// A key that waits for a password.
    #[error(
        "turn.listen.tls_key: the private key in {path} is encrypted; write it without a password, for example \
         by `openssl pkey -in {path} -out FILE`, and let only the server read it",
        path = .0.display()
    )]
    EncryptedKey(PathBuf),
    /// A key of a kind that is not spoken.
    #[error("turn.listen.tls_key: the private key in {} is of no use ({}); take RSA, ECDSA (P-256, P-384) or Ed25519",
        .0.display(), .1)]
    UnknownKey(PathBuf, rustls::Error),
    /// They do not belong together.
    #[error(
        "turn.listen.tls_key: the private key in {} is not that of the first certificate in {}; the server's own \
         certificate has to be the first, before its chain", key.display(), certificate.display()
    )]
    Mismatch {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// It is too late.
    #[error("turn.listen.tls_certificate: the certificate in {} has expired {} days ago; renew it", .0.display(), .1)]
    Expired(PathBuf, i64),
    /// It is too early.
    #[error(
        "turn.listen.tls_certificate: the certificate in {} holds only in {} days; set the clock of this machine, or \
         wait", .0.display(), .1
    )]
    Early(PathBuf, i64),
    /// None could be made.
    #[error("cannot make a certificate for development: {0}")]
    Make(#[from] rcgen::Error),
    /// The TLS library does not want.
    #[error("cannot set up TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// When a certificate expires, in seconds since 1970; `None` if it is none.
#[must_use]
pub fn expiry_of(certificate: &[u8]) -> Option<i64> {
    Validity::of(certificate).map(|validity| validity.not_after)
}

/// The certificate in use, and where the next one comes from.
#[derive(Debug)]
pub struct Certificates {
    current: Arc<Current>,
    files: Option<Files>,
    seen: Mutex<Seen>,
}

/// What handshakes take.
struct Current(RwLock<Arc<Pair>>);

/// A certificate, its chain and its key.
struct Pair {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the files held, as a digest or as the sentence that says why they could not be read.
type Print = Vec<u8>;

#[derive(Debug, Default)]
struct Seen {
    in_use: Print,
    /// What was there at the last look and was not good, and whether that was told.
    bad: Option<(Print, bool)>,
}

impl Certificates {
    /// As configured; in development one for these addresses, if none is. `None` in production without one.
    ///
    /// # Errors
    /// If what is configured cannot be used.
    pub fn open(config: &Config, addresses: &[IpAddr]) -> Result<Option<Self>, CertificateError> {
        let listen = &config.turn.listen;
        if let (Some(certificate), Some(key)) = (&listen.tls_certificate, &listen.tls_key) {
            let files = Files { certificate: certificate.clone(), key: key.clone() };
            return Self::from_files(files, unix_now()).map(Some);
        }
        if config.mode() == Mode::Production {
            tracing::info!("no TLS port: turn.listen.tls_certificate names no certificate");
            return Ok(None);
        }
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(config.turn.host.clone());
        names.extend(addresses.iter().map(ToString::to_string));
        tracing::debug!(?names, "made a certificate for development");
        let pair = Pair::self_signed(&names)?;
        Ok(Some(Self { current: Arc::new(Current::new(pair)), files: None, seen: Mutex::default() }))
    }

    fn from_files(files: Files, now: i64) -> Result<Self, CertificateError> {
        let (print, contents) = files.read();
        let pair = contents.and_then(|contents| files.pair(&contents, now))?;
        let seen = Mutex::new(Seen { in_use: print, bad: None });
        Ok(Self { current: Arc::new(Current::new(pair)), files: Some(files), seen })
    }

    /// When it expires, in seconds since 1970.
    #[must_use]
    pub fn expiry(&self) -> i64 {
        self.current.get().validity.not_after
    }

    /// The certificate in use, without its chain.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.current.get().key.cert.first().cloned().unwrap_or_else(|| Vec::new().into())
    }

    /// Handshakes with the certificate of their time, for clients of these protocols (RFC 7301), the preferred one first.
    ///
    /// # Errors
    /// If the TLS library has no random numbers.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> Result<Acceptor, CertificateError> {
        let mut indifferent = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        // Sessions to be resumed are the clients' to keep.
        indifferent.ticketer = provider::Ticketer::new()?;
        let mut choosing = indifferent.clone();
        choosing.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Acceptor { choosing: Arc::new(choosing), indifferent: Arc::new(indifferent) })
    }

    /// Looks after the files from now on.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>, every: Duration) {
        loop {
            metrics.tls.expiry.set(self.expiry());
            tokio::time::sleep(every).await;
            let certificates = self.clone();
            let looking = tokio::task::spawn_blocking(move || certificates.look(unix_now()));
            match looking.await {
                Ok(Some(Ok(()))) => {
                    tracing::info!(expiry = self.expiry(), "the TLS certificate has changed");
                    metrics.tls.reloaded(Reload::Done);
                }
                Ok(Some(Err(error))) => {
                    tracing::error!("the TLS certificate before is used on: {error}");
                    metrics.tls.reloaded(Reload::Failed);
                }
                Ok(None) => {}
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    /// Looks at the files once, and takes over what has changed and is good: `None` if there is nothing to tell.
    fn look(&self, now: i64) -> Option<Result<(), CertificateError>> {
        let files = self.files.as_ref()?;
        let (print, contents) = files.read();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if print == seen.in_use {
            seen.bad = None;
            return None;
        }
        match contents.and_then(|contents| files.pair(&contents, now)) {
            Ok(pair) => {
                self.current.set(pair);
                *seen = Seen { in_use: print, bad: None };
                Some(Ok(()))
            }
            // While two files are replaced they do not belong together for a moment.
            Err(error) => match &mut seen.bad {
                Some((before, is_told)) if *before == print => {
                    (!std::mem::replace(is_told, true)).then_some(Err(error))
                }
                bad => {
                    *bad = Some((print, false));
                    None
                }
            },
        }
    }
}

/// Lets clients in.
#[derive(Clone, Debug)]
pub struct Acceptor {
    choosing: Arc<ServerConfig>,
    indifferent: Arc<ServerConfig>,
}

impl Acceptor {
    /// Agrees with a client on TLS. Waits for as long as the client takes.
    ///
    /// # Errors
    /// If there is nothing to agree on, or the connection breaks.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(Hello::default(), socket).await?;
        let config = self.config(&start.client_hello());
        start.into_stream(config).await
    }

    /// By what the client offers. The TLS library ends the handshake where nothing is in common, and there are clients
    /// that name a protocol and speak TURN: these are let in without an answer to that question.
    fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let is_ours = |offer: &[u8]| self.choosing.alpn_protocols.iter().any(|ours| ours == offer);
        let has_none_of_ours = hello.alpn().is_some_and(|mut offers| !offers.any(is_ours));
        if has_none_of_ours { self.indifferent.clone() } else { self.choosing.clone() }
    }
}

impl Current {
    fn new(pair: Pair) -> Self {
        Self(RwLock::new(Arc::new(pair)))
    }

    fn get(&self) -> Arc<Pair> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, pair: Pair) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Current({:?})", self.get().validity)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key.clone())
    }
}

impl Files {
    /// What they hold, certificate first.
    fn read(&self) -> (Print, Result<[Vec<u8>; 2], CertificateError>) {
        let contents = read("turn.listen.tls_certificate", &self.certificate).and_then(|certificate| {
            let key = read("turn.listen.tls_key", &self.key)?;
            Ok([certificate, key])
        });
        let print = match &contents {
            Ok(contents) => {
                contents.iter().flat_map(|file| digest(&SHA256, file).as_ref().to_vec()).collect()
            }
            Err(error) => error.to_string().into_bytes(),
        };
        (print, contents)
    }

    fn pair(&self, [certificate, key]: &[Vec<u8>; 2], now: i64) -> Result<Pair, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.unwrap_or_default();
        let first = chain.first().ok_or_else(|| CertificateError::NoCertificate(self.certificate.clone()))?;
        let damaged = || CertificateError::Damaged(self.certificate.clone());
        let validity = Validity::of(first).ok_or_else(damaged)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| self.no_key(key))?;
        let key = CertifiedKey::from_der(chain, key, &crypto()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(_) => damaged(),
            error => CertificateError::UnknownKey(self.key.clone(), error),
        })?;
        let days = |seconds: i64| seconds / DAY;
        if now > validity.not_after {
            return Err(CertificateError::Expired(self.certificate.clone(), days(now - validity.not_after)));
        }
        if now < validity.not_before {
            let left = days(validity.not_before - now);
            return Err(CertificateError::Early(self.certificate.clone(), left));
        }
        Ok(Pair { key: Arc::new(key), validity })
    }

    /// Why there is no key in this. What the library says would quote it.
    fn no_key(&self, contents: &[u8]) -> CertificateError {
        let is_encrypted = String::from_utf8_lossy(contents).contains("ENCRYPTED");
        let error = if is_encrypted { CertificateError::EncryptedKey } else { CertificateError::NoKey };
        error(self.key.clone())
    }
}

impl Pair {
    fn self_signed(names: &[String]) -> Result<Self, CertificateError> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let key = CertifiedKey::from_der(vec![cert.der().clone()], key, &crypto())?;
        let validity = Validity::of(cert.der()).expect("a certificate that has just been made");
        Ok(Self { key: Arc::new(key), validity })
    }
}

/// The one cryptographic library that there is here.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = || {
        // Opening a pipe would wait for somebody to write into it.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut contents = Vec::new();
        File::open(path)?.take(FILE).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().map_err(|source| CertificateError::Unreadable { setting, path: path.to_owned(), source })
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
