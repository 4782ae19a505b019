//! The TCP and TLS doors of TURN: what is slow, or may be waited for, before the TURN thread has a connection.
//!
//! A connection is accepted, says who it is where a load balancer stands before (`proxy_protocol`), agrees on TLS, and
//! shows its first byte, all within time limits. Then it is handed over: to the TURN thread, or to HTTP where the two
//! share the TLS port. Whoever is on the way in holds a place; there are so many of them, and so many for one network.

mod places;

use std::{
    io::Read as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use switchyard_turn_config::{
    peers::Cidr,
    server::{Link, Transport},
    settings::Listen,
};
use tokio::{
    io::AsyncBufReadExt as _,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use self::places::Places;
use super::{
    super::{
        WireIo,
        listeners::{Bound, listen},
        proxy_protocol::{self, SIGNATURE},
    },
    Connected,
    mailbox::{Letter, Mailbox},
};
use crate::{
    metrics::{Arrival, Metrics, Stream},
    tls::{self, Acceptor, Certificates},
};

/// What a client may say that it speaks over TLS: TURN and STUN (RFC 7443), and HTTP where it is spoken.
const TURN_PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
const HTTP_PROTOCOL: &[u8] = b"http/1.1";
/// The highest first byte of a STUN message. Channel data, from 0x40 to 0x4f, cannot be the first that comes by a
/// connection, which has no channel yet; and an HTTP request can begin so: 0x47 is the G of GET.
const LAST_OF_STUN: u8 = 0x3f;

/// How long a client may take, and how many may be on their way in.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// For the PROXY header.
    pub(super) header: Duration,
    /// For the TLS handshake.
    pub(super) handshake: Duration,
    /// From there, or from connecting, to the first byte.
    pub(super) first_byte: Duration,
    /// For HTTP to take a connection.
    pub(super) handing_over: Duration,
    /// Connections on their way in, at all doors.
    pub(super) places: usize,
    /// Those of one network.
    pub(super) places_of_network: usize,
}

impl Default for Patience {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self {
            header: 5 * second,
            handshake: 10 * second,
            first_byte: 10 * second,
            handing_over: second,
            places: 2048,
            places_of_network: 256,
        }
    }
}

/// What the doors lead to.
#[derive(Clone, Debug)]
pub(super) struct Within {
    /// The TURN thread.
    pub(super) turn: Mailbox,
    /// Where HTTP takes connections.
    pub(super) http: mpsc::Sender<WireIo>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
}

/// The doors that are open.
#[derive(Debug)]
pub(super) struct Doors {
    /// What TCP is bound to.
    pub(super) tcp: Vec<SocketAddr>,
    /// What TLS is bound to.
    pub(super) tls: Vec<SocketAddr>,
    is_draining: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the connections of all doors share.
#[derive(Debug)]
struct Hall {
    within: Within,
    patience: Patience,
    places: Arc<Places>,
    next: AtomicU64,
    /// Networks of load balancers.
    balancers: Vec<Cidr>,
    /// The operator has been told of a balancer that does not say who its clients are.
    has_complained: AtomicBool,
    has_http: bool,
    acceptor: Option<Acceptor>,
}

impl Doors {
    /// Opens those that the settings ask for. Without certificates there is no TLS.
    ///
    /// # Errors
    /// If a port cannot be had.
    pub(super) fn start(
        settings: &Listen,
        certificates: Option<Arc<Certificates>>,
        within: Within,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        let metrics = within.metrics.clone();
        let hall = Hall::new(settings, certificates.as_deref(), within, patience)?;
        let (is_draining, _) = watch::channel(false);
        let mut doors = Self { tcp: Vec::new(), tls: Vec::new(), is_draining, tasks: Vec::new() };
        if settings.tcp_enabled {
            let purpose = "TURN (turn.listen.tcp_port, turn.listen.tcp_enabled)";
            doors.tcp = doors.open(Stream::Tcp, settings, settings.tcp_port, purpose, &hall)?;
        }
        if let Some(certificates) = certificates.filter(|_| settings.tls_enabled) {
            let purpose = "TURN over TLS (turn.listen.tls_port, turn.listen.tls_enabled)";
            doors.tls = doors.open(Stream::Tls, settings, settings.tls_port, purpose, &hall)?;
            doors.tasks.push(tokio::spawn(certificates.watch(metrics, tls::LOOK)));
        }
        Ok(doors)
    }

    fn open(
        &mut self,
        stream: Stream,
        settings: &Listen,
        port: u16,
        purpose: &str,
        hall: &Arc<Hall>,
    ) -> anyhow::Result<Vec<SocketAddr>> {
        let is_default = settings.bind == Listen::default().bind;
        let bound = listen(&settings.bind, port, is_default, purpose)?;
        Ok(bound
            .into_iter()
            .map(|Bound { listener, local }| {
                let accepting = accept(listener, stream, hall.clone(), self.is_draining.subscribe());
                self.tasks.push(tokio::spawn(accepting));
                local
            })
            .collect())
    }

    /// Lets nobody in any more who has not connected yet.
    pub(super) fn drain(&self) {
        self.is_draining.send_replace(true);
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(
    listener: TcpListener,
    stream: Stream,
    hall: Arc<Hall>,
    mut is_draining: watch::Receiver<bool>,
) {
    let mut arriving = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = is_draining.wait_for(|is_draining| *is_draining) => break,
            Some(_) = arriving.join_next() => continue,
            accepted = async {
                // Who finds no place waits in the kernel's queue.
                let place = hall.places.one().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((socket, source)), place) => {
                let hall = hall.clone();
                arriving.spawn(async move {
                    let (Ok(arrival) | Err(arrival)) = hall.admit(stream, socket, source).await;
                    tracing::trace!(%source, ?arrival, "a connection to TURN");
                    hall.within.metrics.turn_doors.arrived(stream, arrival);
                    drop(place);
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a connection to TURN");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while arriving.join_next().await.is_some() {}
}

impl Hall {
    fn new(
        settings: &Listen,
        certificates: Option<&Certificates>,
        within: Within,
        patience: Patience,
    ) -> anyhow::Result<Arc<Self>> {
        let has_http = settings.https;
        let protocols: Vec<_> = has_http.then_some(HTTP_PROTOCOL).into_iter().chain(TURN_PROTOCOLS).collect();
        Ok(Arc::new(Self {
            places: Places::new(patience.places, patience.places_of_network),
            within,
            patience,
            next: AtomicU64::new(1),
            balancers: settings.proxy_protocol.clone(),
            has_complained: AtomicBool::new(false),
            has_http,
            acceptor: certificates.map(|certificates| certificates.acceptor(&protocols)).transpose()?,
        }))
    }

    /// All the way of one connection. `Err` says why it led nowhere.
    async fn admit(
        &self,
        stream: Stream,
        mut socket: TcpStream,
        source: SocketAddr,
    ) -> Result<Arrival, Arrival> {
        let _ = socket.set_nodelay(true);
        let remote = self.client(&mut socket, source).await?;
        let _place = self.places.of_network(remote.ip()).ok_or(Arrival::Crowded)?;
        let link = Link {
            transport: match stream {
                Stream::Tcp => Transport::Tcp,
                Stream::Tls => Transport::Tls,
            },
            connection: self.next.fetch_add(1, Ordering::Relaxed),
            remote,
            local: socket.local_addr().map_err(|_| Arrival::Gone)?,
        };
        match &self.acceptor {
            Some(acceptor) if stream == Stream::Tls => self.secure(acceptor, link, socket).await,
            _ => self.plain(link, socket).await,
        }
    }

    /// Who is there: whoever a load balancer names, else the other end.
    async fn client(&self, socket: &mut TcpStream, source: SocketAddr) -> Result<SocketAddr, Arrival> {
        if !self.balancers.iter().any(|network| network.contains(source.ip())) {
            return Ok(source);
        }
        let reading = timeout(self.patience.header, proxy_protocol::read(socket));
        match reading.await.map_err(|_| Arrival::Slow)? {
            Ok(header) => Ok(header.client.unwrap_or(source)),
            Err(error) => {
                // Once: it is so for every client that comes by this balancer.
                if self.has_complained.swap(true, Ordering::Relaxed) {
                    tracing::debug!(balancer = %source, %error, "a connection through turn.listen.proxy_protocol");
                } else {
                    tracing::warn!(balancer = %source, %error, "a connection through turn.listen.proxy_protocol");
                }
                Err(Arrival::Proxy)
            }
        }
    }

    async fn plain(&self, link: Link, socket: TcpStream) -> Result<Arrival, Arrival> {
        let mut first = [0; 4];
        let looking = timeout(self.patience.first_byte, socket.peek(&mut first));
        let length = looking.await.map_err(|_| Arrival::Slow)?.map_err(|_| Arrival::Gone)?;
        match &first[..length] {
            [] => return Err(Arrival::Gone),
            // No message of STUN is of this type and length.
            first if *first == SIGNATURE[..4] => {
                tracing::debug!(remote = %link.remote, "a PROXY header, and not from turn.listen.proxy_protocol");
                return Err(Arrival::Proxy);
            }
            [0..=LAST_OF_STUN, ..] => {}
            _ => return Err(Arrival::Unknown),
        }
        let socket = socket.into_std().map_err(|_| Arrival::Gone)?;
        self.hand_over(Connected { link, socket, tls: None, read: Vec::new() })
    }

    async fn secure(&self, acceptor: &Acceptor, link: Link, socket: TcpStream) -> Result<Arrival, Arrival> {
        let shaking = timeout(self.patience.handshake, acceptor.accept(socket));
        let mut stream = shaking.await.map_err(|_| Arrival::Slow)?.map_err(|error| {
            tracing::debug!(remote = %link.remote, %error, "TLS was not agreed on");
            Arrival::Handshake
        })?;
        let looking = timeout(self.patience.first_byte, stream.fill_buf());
        let first = looking.await.map_err(|_| Arrival::Slow)?.ok().and_then(|bytes| bytes.first().copied());
        let is_turn = first.ok_or(Arrival::Gone)? <= LAST_OF_STUN;
        if !is_turn && !self.has_http {
            return Err(Arrival::Unknown);
        }
        let (socket, mut connection) = stream.into_inner();
        if !is_turn {
            let entering = self.within.http.send(WireIo::over_tls(socket, connection));
            return match timeout(self.patience.handing_over, entering).await {
                Ok(Ok(())) => Ok(Arrival::Http),
                _ => Err(Arrival::Overloaded),
            };
        }
        let mut read = Vec::new();
        // It ends with an error, when there is no more for now.
        let _ = connection.reader().read_to_end(&mut read);
        let socket = socket.into_std().map_err(|_| Arrival::Gone)?;
        self.hand_over(Connected { link, socket, tls: Some(connection.into()), read })
    }

    fn hand_over(&self, connected: Connected) -> Result<Arrival, Arrival> {
        match self.within.turn.send(Letter::Connected(connected)) {
            true => Ok(Arrival::Turn),
            false => Err(Arrival::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests;
