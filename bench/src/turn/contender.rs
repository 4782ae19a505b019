//! A server that relays, ours or coturn, and the pairs that use it.
//!
//! Both stay on one core, and the client on another: on a machine with two, neither is in the other's way, and no server
//! gains by threads that take the client's core.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use switchyard_loadtest::{
    target::Trust,
    turn::{
        client::Credentials,
        crowd::{Crowd, Far, Pairs},
        server::TurnServer,
        traffic::{Round, Traffic},
    },
};
use tokio::sync::watch;

use crate::arm::{self, Arm, Coturn, Kind, PEERS, SECRET};

const PATIENCE: Duration = Duration::from_secs(20);
/// How often a round is tried.
const REPEATED: usize = 4;
/// How long a credential lasts.
const VALID: u64 = 3600;

/// How clients reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A server, and those who are there.
pub(super) struct Contender {
    server: Server,
    crowd: Option<Crowd>,
}

enum Server {
    Ours(Arm),
    Coturn(Coturn),
}

/// What one round has cost.
pub(super) struct Cost {
    pub(super) round: Round,
    /// CPU time of the server.
    pub(super) cpu: Duration,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Ours first, then coturn; none if that is not installed.
pub(super) fn start() -> anyhow::Result<Option<[Contender; 2]>> {
    let allowed = sched_getaffinity(None).context("the cores of this process")?;
    let mut cores = (0..CpuSet::MAX_CPU).rev().filter(|core| allowed.is_set(*core));
    let (clients, servers) = (cores.next(), cores.next());
    // Children stay where their parent was.
    pin(servers)?;
    let coturn = Coturn::start()?;
    let ours = coturn.is_some().then(|| Arm::start(Kind::Turn)).transpose()?;
    pin(clients.filter(|_| servers.is_some()))?;
    let (Some(ours), Some(coturn)) = (ours, coturn) else {
        sched_setaffinity(None, &allowed).context("the cores of this process")?;
        return Ok(None);
    };
    eprintln!("turn: Switchyard is process {}, coturn {}", ours.process(), coturn.process());
    Ok(Some([Server::Ours(ours), Server::Coturn(coturn)].map(|server| Contender { server, crowd: None })))
}

fn pin(core: Option<usize>) -> anyhow::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).context("cannot stay on one core")
}

impl Contender {
    pub(super) fn name(&self) -> &'static str {
        match self.server {
            Server::Ours(_) => "Switchyard",
            Server::Coturn(_) => "coturn",
        }
    }

    pub(super) fn process(&self) -> u32 {
        match &self.server {
            Server::Ours(arm) => arm.process(),
            Server::Coturn(coturn) => coturn.process(),
        }
    }

    /// So many pairs; those that were there are gone.
    pub(super) async fn gather(
        &mut self,
        transport: Transport,
        far: Far,
        count: usize,
    ) -> anyhow::Result<()> {
        self.dismiss().await;
        self.crowd = Some(self.crowd(transport, far, count).await?);
        Ok(())
    }

    pub(super) async fn dismiss(&mut self) {
        if let Some(crowd) = self.crowd.take() {
            crowd.close().await;
        }
    }

    /// Opens pairs.
    pub(super) async fn crowd(&self, transport: Transport, far: Far, count: usize) -> anyhow::Result<Crowd> {
        let port = match &self.server {
            Server::Ours(arm) => arm.port,
            Server::Coturn(coturn) => coturn.port,
        };
        let uri = format!("turn:{}:{port}?transport={}", Ipv4Addr::LOCALHOST, transport.name());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let pairs = Pairs {
            server: TurnServer::open(&uri, &Trust::System).await?,
            credentials: vec![Credentials::from_secret(SECRET, "bench", unix + VALID)],
            count: count as u32,
            far,
            channels: true,
            patience: PATIENCE,
        };
        let (crowd, opening) = Crowd::open(&pairs).await.map_err(|why| anyhow!(why))?;
        ensure!(crowd.len() == count, "{} of {count} pairs: {:?}", crowd.len(), opening.failures);
        Ok(crowd)
    }

    /// One round of traffic between the pairs that are there. One that lost something is repeated: on a machine with other
    /// work a server may not get to run for so long that it does, and such a round says nothing.
    pub(super) async fn carry(&mut self, traffic: &Traffic) -> anyhow::Result<Cost> {
        for _ in 0..REPEATED {
            let cost = self.carry_once(traffic).await?;
            if cost.round.received > 0 && cost.round.lost() * 100 <= cost.round.sent {
                return Ok(cost);
            }
            let (lost, sent) = (cost.round.lost(), cost.round.sent);
            eprintln!("    {}: {lost} of {sent} datagrams were lost; once more", self.name());
        }
        bail!("{}: more than one in a hundred was lost each of {REPEATED} times: that voids it", self.name())
    }

    async fn carry_once(&mut self, traffic: &Traffic) -> anyhow::Result<Cost> {
        let process = self.process();
        let crowd = self.crowd.as_mut().context("nobody is there")?;
        let (_interrupt, mut interrupted) = watch::channel(false);
        let before = arm::cpu_of(process)?;
        let round = crowd.carry(traffic, &mut interrupted).await;
        let cpu = arm::cpu_of(process)? - before;
        let name = self.name();
        ensure!(round.failures.is_empty(), "{name}: {:?}", round.failures);
        ensure!(
            round.doubled + round.altered == 0,
            "{name}: {} doubled, {} altered",
            round.doubled,
            round.altered
        );
        Ok(Cost { round, cpu })
    }
}

/// Peers that are not the server's own.
pub(super) fn outside() -> Far {
    Far::Outside(Some(PEERS.into()))
}
