//! ICE-TCP, passive side (RFC 6544), with the framing of RFC 4571: for clients whose network blocks UDP (SFU5).
//!
//! The first frame of a connection must be a connectivity check; its ufrag names the shard, which judges whether it is
//! genuine. From then on frames are datagrams on a path like any other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Input,
    listeners::{Bound, listen},
};
use crate::{
    config::Config,
    engine::{
        Command, demux,
        path::{Path, TcpId},
        peers::Datagram,
    },
};

/// A connection must show its first check within this time.
const FIRST_FRAME: Duration = Duration::from_secs(5);
/// A connection without a frame for so long is dead: checks come every few seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// A write that takes longer means that the client reads nothing.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes of a frame: more than any datagram of ours or of a client's DTLS stack.
const FRAME: usize = 4096;
/// Batches that may wait to be written.
const WRITES: usize = 32;

/// The listeners.
#[derive(Debug)]
pub struct IceTcp {
    /// What they are bound to: one port, IPv4 and IPv6.
    pub local: Vec<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl IceTcp {
    /// Listens, and hands connections to the shards.
    pub(super) fn bind(config: &Config, shards: Vec<mpsc::Sender<Input>>) -> anyhow::Result<Self> {
        let shards: Arc<[_]> = shards.into();
        let room = Arc::new(Semaphore::new(config.rtc.max_peers as usize));
        let next = Arc::new(AtomicU64::new(1));
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let is_configured = !config.rtc.bind.is_empty();
        let ips = if is_configured { &config.rtc.bind[..] } else { &everywhere };
        let purpose = "ICE-TCP (rtc.tcp_port, rtc.tcp_enabled)";
        let mut bound = Self { local: Vec::new(), tasks: Vec::new() };
        for Bound { listener, local } in listen(ips, config.rtc.tcp_port, !is_configured, purpose)? {
            bound.local.push(local);
            let accepting = accept(listener, shards.clone(), room.clone(), next.clone());
            bound.tasks.push(tokio::spawn(accepting));
        }
        Ok(bound)
    }
}

impl Drop for IceTcp {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(
    listener: TcpListener,
    shards: Arc<[mpsc::Sender<Input>]>,
    room: Arc<Semaphore>,
    next: Arc<AtomicU64>,
) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, source)) => {
                let id = TcpId(next.fetch_add(1, Ordering::Relaxed));
                let shards = shards.clone();
                tokio::spawn(async move {
                    serve(id, stream, source, &shards).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an ICE-TCP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    id: TcpId,
    stream: TcpStream,
    source: SocketAddr,
    shards: &[mpsc::Sender<Input>],
) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let local_ip = stream.local_addr().ok().map(|address| address.ip());
    let (mut reader, mut writer) = stream.into_split();
    let first = timeout(FIRST_FRAME, read_frame(&mut reader)).await.ok()??;
    let shard = demux::ufrag_of(&first).and_then(demux::shard_of_ufrag)?;
    let shard = shards.get(shard as usize)?;
    let (outgoing, mut queue) = mpsc::channel::<Bytes>(WRITES);
    shard.send(Input::TcpOpened(id, outgoing)).await.ok()?;
    let write = tokio::spawn(async move {
        while let Some(frames) = queue.recv().await {
            if !matches!(timeout(WRITE, writer.write_all(&frames)).await, Ok(Ok(()))) {
                break;
            }
        }
    });
    let path = Path::Tcp(id);
    let mut next = Some(first);
    while let Some(contents) = next {
        let datagram = Datagram { path, source, local_ip, contents };
        if shard.send(Input::Datagram(datagram)).await.is_err() || write.is_finished() {
            break;
        }
        next = timeout(SILENCE, read_frame(&mut reader)).await.ok().flatten();
    }
    write.abort();
    shard.send(Input::Command(Command::PathClosed(path))).await.ok()
}

/// One frame: a length of two bytes, then the datagram. `None` at the end, or when it is longer than any datagram.
async fn read_frame(reader: &mut OwnedReadHalf) -> Option<BytesMut> {
    let length = reader.read_u16().await.ok()? as usize;
    if length == 0 || length > FRAME {
        return None;
    }
    let mut frame = BytesMut::zeroed(length);
    reader.read_exact(&mut frame).await.ok()?;
    Some(frame)
}
