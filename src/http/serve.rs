//! Accepting connections, at the port of HTTP and from the relay's TLS port: a bound on how many there are, a bound on how
//! long a client may take to ask for something, and an orderly end.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tower_service::Service as _;

use crate::io::WireIo;

/// From connecting, or from the end of the last answer, to the end of a request's headers.
const HEADERS: Duration = Duration::from_secs(10);
/// Connections beyond those that WebSockets may take: pages, scripts, scrapers.
const OTHERS: usize = 1024;

/// Where connections come from.
#[derive(Debug)]
pub struct Sources {
    /// The port of HTTP.
    pub listener: TcpListener,
    /// The relay's TLS port, if it is shared: what speaks HTTP there.
    pub https: Option<mpsc::Receiver<WireIo>>,
}

/// By which port a request came, as an extension of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Port {
    /// That of HTTP.
    Http,
    /// The relay's TLS port, which is open to the world wherever it is shared.
    Tls,
}

impl Sources {
    async fn next(&mut self) -> io::Result<(WireIo, Port)> {
        let Self { listener, https } = self;
        let https = async {
            match https {
                Some(https) => https.recv().await,
                None => None,
            }
        };
        tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| (WireIo::new(stream), Port::Http)),
            Some(connection) = https => Ok((connection, Port::Tls)),
        }
    }
}

/// Serves until `stop` changes, then until the requests under way are answered.
pub async fn serve(mut sources: Sources, routes: Router, sockets: usize, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(sockets + OTHERS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                // Closed never: who finds no room waits in the kernel's queue.
                let permit = room.clone().acquire_owned().await;
                (sources.next().await, permit)
            } => accepted,
        };
        match accepted {
            (Ok((io, port)), permit) => {
                let (routes, stop) = (routes.clone(), stop.clone());
                connections.spawn(async move {
                    connection(io, port, routes, stop).await;
                    drop(permit);
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(sources);
    while connections.join_next().await.is_some() {}
}

async fn connection(io: WireIo, port: Port, routes: Router, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(port);
        let mut routes = routes.clone();
        async move {
            Ok::<_, Infallible>(
                routes.call(request.map(Body::new)).await.unwrap_or_else(|never| match never {}),
            )
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    let stopped = async { stop.wait_for(|stop| *stop).await.map(drop) };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
