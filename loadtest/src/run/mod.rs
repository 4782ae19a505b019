//! One run of a scenario: users come, things happen, users leave, and everything is added up.
//!
//! It keeps the time and carries out what [`crate::scenario::schedule`] and the scenario's events say; users live on the
//! threads of [`crate::driver::pool`]. It judges nothing but the scenario's bounds: [`crate::account`] holds messages
//! against each other.

mod agenda;
mod happening;
pub(crate) mod limits;
pub mod own_server;
mod report;

pub use self::report::summary;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};

use self::{
    agenda::{Agenda, Step},
    own_server::{OwnServer, ServerError},
    report::complete,
};
use crate::{
    account::{Ledger, Settings, times},
    adapter::Adapter,
    driver::{Assignment, Done, Order, Telling, Told, pool::Pool},
    figures::{self, AttackFigures, EventSummary, Report},
    histogram::Histogram,
    netsim::{NetworkSpec, SpecError, load},
    observe::{self, Looks, Metrics},
    rng::Rng,
    scenario::{
        Scenario,
        schedule::{self, Coming},
    },
    target::Target,
    token::{TokenError, TokenSource},
    user::Plan,
    view::live::{Phase, Snapshot},
};

/// Everything that a run needs to know.
pub struct Setup {
    /// What to run.
    pub scenario: Scenario,
    /// Where.
    pub target: Target,
    /// What kind of server it is.
    pub adapter: &'static Adapter,
    /// Where tokens come from.
    pub tokens: TokenSource,
    /// Decides about everything that chance decides.
    pub seed: u64,
    /// What rooms' names begin with.
    pub prefix: String,
    /// Threads that drive users.
    pub threads: usize,
    /// The server's process, if it is to be looked at and cannot be found by its port.
    pub server_pid: Option<u32>,
    /// The server, if it is ours.
    pub own_server: Option<OwnServer>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario needs what it was not given.
    #[error("{0}")]
    Needs(String),
    /// A network that cannot be had.
    #[error("{0}")]
    Network(#[from] SpecError),
    /// The first user has no token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The server that the run should start.
    #[error("{0}")]
    Server(#[from] ServerError),
    /// Nobody answers at the target, or nobody that is trusted.
    #[error("cannot connect to {0}: {1}")]
    CannotConnect(String, io::Error),
    /// The program's own threads.
    #[error("starting the threads that drive users: {0}")]
    Threads(io::Error),
    /// Asked twice to end.
    #[error("ended without a report")]
    Abandoned,
}

/// How urgently the run is asked to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interrupt {
    /// Not at all.
    #[default]
    None,
    /// Users leave now, and the report is made.
    Early,
    /// At once.
    Now,
}

/// For goodbyes, at the end: a user takes up to six seconds.
const GOODBYES: Duration = Duration::from_secs(10);
/// Tokens that are asked for ahead of their users.
const TOKENS_AHEAD: usize = 64;
/// Of these so many at once.
const TOKENS_AT_ONCE: usize = 8;
/// Tellings that are taken at once.
const BATCH: usize = 256;

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Progress {
    /// A second is over.
    Second(Box<Snapshot>),
    /// Something was done or has happened.
    Note(String),
}

/// Runs the scenario. `shown` is told how it goes.
pub async fn run(
    setup: Setup,
    mut interrupted: watch::Receiver<Interrupt>,
    shown: impl FnMut(Progress),
) -> Result<Report, RunError> {
    setup.adapter.check(&setup.scenario).map_err(RunError::Needs)?;
    let networks = networks(&setup.scenario)?;
    if setup.scenario.restarts_server() && setup.own_server.is_none() {
        return Err(RunError::Needs(
            "the scenario restarts the server; give --server-command \"COMMAND\", so that there is one to restart"
                .to_owned(),
        ));
    }
    let coming = schedule::coming(&setup.scenario, setup.seed);
    limits::raise("users", most_at_once(&coming)).map_err(RunError::Needs)?;
    let here = setup.target.connect().await;
    here.map_err(|error| RunError::CannotConnect(setup.target.url("http"), error))?;
    if let Some(first) = coming.first() {
        let room = first.room_name(&setup.scenario, &setup.prefix);
        setup.tokens.token(&setup.target, &room, &name(first)).await?;
    }
    let (told, mut tellings) = mpsc::unbounded_channel();
    let (aside, mut asides) = mpsc::unbounded_channel();
    let mut tickets = tickets(&setup, coming);
    let mut run = Run::new(setup, networks, &told, aside, shown).map_err(RunError::Threads)?;
    run.live(&mut tickets, &mut tellings, &mut asides, &mut interrupted).await?;
    run.say_goodbye(&mut tellings, &mut interrupted).await?;
    Ok(run.report().await)
}

struct Run<F> {
    setup: Setup,
    networks: BTreeMap<String, Arc<NetworkSpec>>,
    epoch: Instant,
    started: SystemTime,
    pool: Pool,
    ledger: Ledger,
    agenda: Agenda,
    phase: Phase,
    interrupted: bool,
    /// Everybody who has come, in order of number.
    plans: Vec<Plan>,
    present: BTreeMap<u32, Present>,
    gone: Vec<Done>,
    /// The rungs of those who were there when the hold ended.
    rungs: BTreeMap<String, u64>,
    looks: Looks,
    server_pid: Option<u32>,
    metrics: (Option<Metrics>, Option<Metrics>),
    aside: mpsc::UnboundedSender<Aside>,
    attacks: JoinSet<AttackFigures>,
    end_attacks: watch::Sender<bool>,
    events: Vec<EventSummary>,
    /// What the ledger does not know of each second.
    seconds: Vec<figures::Second>,
    errors: BTreeMap<String, u64>,
    behind: Histogram,
    recent_behind: Histogram,
    totals: Totals,
    shown: F,
}

/// A user that is there.
#[derive(Debug)]
struct Present {
    group: usize,
    orders: mpsc::UnboundedSender<Order>,
    rung: &'static str,
    has_joined: bool,
    packets_dropped: u64,
}

#[derive(Debug, Default)]
struct Totals {
    joined: u64,
    failed: u64,
    sent: u64,
    received: u64,
    packets_dropped: u64,
}

/// Something that went on beside the run has come to its end.
enum Aside {
    Metrics { is_end: bool, metrics: Option<Metrics> },
    Restarted(Box<OwnServer>, Result<(), ServerError>),
}

type Ticket = (Coming, Result<String, TokenError>);

impl<F: FnMut(Progress)> Run<F> {
    fn new(
        setup: Setup,
        networks: BTreeMap<String, Arc<NetworkSpec>>,
        told: &mpsc::UnboundedSender<Told>,
        aside: mpsc::UnboundedSender<Aside>,
        shown: F,
    ) -> io::Result<Self> {
        let epoch = Instant::now();
        let scenario = &setup.scenario;
        let hold = scenario.hold_span();
        let windows = scenario.windows.iter();
        let settings = Settings {
            groups: scenario.groups.iter().map(|group| group.name.clone()).collect(),
            windows: windows
                .map(|(name, span)| (name.clone(), hold.0 + span.from, hold.0 + span.until))
                .collect(),
            hold,
        };
        let own = setup.own_server.as_ref().and_then(OwnServer::pid);
        let server_pid = setup.server_pid.or(own).or_else(|| observe::find_server(&setup.target));
        Ok(Self {
            pool: Pool::start(setup.threads, &setup.target, setup.adapter, epoch, told)?,
            ledger: Ledger::new(epoch, settings),
            agenda: Agenda::of(scenario),
            networks,
            epoch,
            started: SystemTime::now(),
            phase: Phase::Ramping,
            interrupted: false,
            plans: Vec::new(),
            present: BTreeMap::new(),
            gone: Vec::new(),
            rungs: BTreeMap::new(),
            looks: Looks::default(),
            server_pid,
            metrics: (None, None),
            aside,
            attacks: JoinSet::new(),
            end_attacks: watch::channel(false).0,
            events: Vec::new(),
            seconds: Vec::new(),
            errors: BTreeMap::new(),
            behind: Histogram::default(),
            recent_behind: Histogram::default(),
            totals: Totals::default(),
            setup,
            shown,
        })
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// From the first user's coming to the end of the drain.
    async fn live(
        &mut self,
        tickets: &mut mpsc::Receiver<Ticket>,
        tellings: &mut mpsc::UnboundedReceiver<Told>,
        asides: &mut mpsc::UnboundedReceiver<Aside>,
        interrupted: &mut watch::Receiver<Interrupt>,
    ) -> Result<(), RunError> {
        let mut next: Option<Ticket> = None;
        let mut told = Vec::with_capacity(BATCH);
        loop {
            let comes = next.as_ref().map(|(coming, _)| coming.at);
            let Some(due) = [comes, self.agenda.next()].into_iter().flatten().min() else { return Ok(()) };
            tokio::select! {
                // Whoever is to come must not wait for what is told.
                biased;
                result = interrupted.wait_for(|interrupt| *interrupt > Interrupt::None) => {
                    self.interrupted = true;
                    // An end of the other half is the end of the program.
                    return result.map(drop).map_err(|_| RunError::Abandoned);
                }
                () = sleep_until((self.epoch + due).into()) => {
                    if let Some((coming, token)) = next.take_if(|(coming, _)| coming.at <= self.epoch.elapsed()) {
                        self.come(&coming, token);
                    }
                    while let Some((at, step)) = self.agenda.take(self.now()) {
                        if matches!(step, Step::DrainEnds) {
                            return Ok(());
                        }
                        self.step(at, step);
                    }
                }
                Some(ticket) = tickets.recv(), if next.is_none() => next = Some(ticket),
                Some(aside) = asides.recv() => self.aside(aside)?,
                _ = tellings.recv_many(&mut told, BATCH) => told.drain(..).for_each(|told| self.take(told)),
            }
        }
    }

    /// Everybody leaves.
    async fn say_goodbye(
        &mut self,
        tellings: &mut mpsc::UnboundedReceiver<Told>,
        interrupted: &mut watch::Receiver<Interrupt>,
    ) -> Result<(), RunError> {
        self.phase = Phase::Draining;
        for user in self.present.values() {
            // One that is just gone needs not be told.
            let _ = user.orders.send(Order::Leave);
        }
        let deadline = Instant::now() + GOODBYES;
        while !self.present.is_empty() {
            tokio::select! {
                told = tellings.recv() => match told {
                    Some(told) => self.take(told),
                    None => break,
                },
                _ = interrupted.wait_for(|interrupt| *interrupt == Interrupt::Now) => {
                    return Err(RunError::Abandoned);
                }
                () = sleep_until(deadline.into()) => break,
            }
        }
        if !self.present.is_empty() {
            let left_over = self.present.len() as u64;
            *self.errors.entry("harness: users that did not come to an end".to_owned()).or_default() +=
                left_over;
        }
        Ok(())
    }

    fn come(&mut self, coming: &Coming, token: Result<String, TokenError>) {
        let plan = coming.plan(&self.setup.scenario, self.setup.seed, self.epoch, &self.setup.prefix);
        self.plans.push(plan.clone());
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                self.totals.failed += 1;
                *self.errors.entry(format!("token: {error}")).or_default() += 1;
                return;
            }
        };
        let network =
            self.networks.get(coming.network_name(&self.setup.scenario)).cloned().unwrap_or_default();
        let (orders, received) = mpsc::unbounded_channel();
        let present =
            Present { group: coming.group, orders, rung: "none", has_joined: false, packets_dropped: 0 };
        self.present.insert(coming.number, present);
        self.pool.assign(Assignment {
            plan,
            token,
            network,
            // Apart from what the user itself draws.
            seed: Rng::stream(!self.setup.seed, u64::from(coming.number)).next_u64(),
            leaves: coming.leaves.map(|leaves| self.epoch + leaves),
            orders: received,
        });
    }

    fn step(&mut self, at: Duration, step: Step) {
        match step {
            Step::HoldBegins => {
                self.phase = Phase::Holding;
                self.look_at_metrics(false);
            }
            Step::HoldEnds => {
                self.phase = Phase::Draining;
                self.rungs = self.rungs_now();
                self.look_at_metrics(true);
            }
            Step::DrainEnds => {}
            Step::Second => {
                self.agenda.enter(at + Duration::from_secs(1), Step::Second);
                self.second(at);
            }
            Step::Event(place) => self.event(at, place),
            Step::Attack(place) => {
                let what = self.attack(at, place);
                self.note(at, what);
            }
            Step::Order(number, order) => {
                if let Some(user) = self.present.get(&number) {
                    // One that is just gone is not told.
                    let _ = user.orders.send(order);
                }
            }
        }
    }

    fn look_at_metrics(&self, is_end: bool) {
        let (target, aside) = (self.setup.target.clone(), self.aside.clone());
        tokio::spawn(async move {
            let metrics = observe::metrics(&target).await;
            // The run may be over.
            let _ = aside.send(Aside::Metrics { is_end, metrics });
        });
    }

    fn aside(&mut self, aside: Aside) -> Result<(), RunError> {
        match aside {
            Aside::Metrics { is_end: false, metrics } => self.metrics.0 = metrics,
            Aside::Metrics { is_end: true, metrics } => self.metrics.1 = metrics,
            Aside::Restarted(server, result) => {
                self.server_pid = server.pid();
                self.setup.own_server = Some(*server);
                result?;
                self.note(self.now(), "server ready again".to_owned());
            }
        }
        Ok(())
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Window(telling) => {
                let Telling { number, at, window, rung, packets_dropped, behind } = *telling;
                self.totals.sent += window.sent;
                self.totals.received += window.received;
                self.recent_behind.merge(&behind);
                let Some(user) = self.present.get_mut(&number) else { return };
                if window.joins > 0 && !user.has_joined {
                    user.has_joined = true;
                    self.totals.joined += 1;
                }
                self.totals.packets_dropped += packets_dropped - user.packets_dropped;
                (user.packets_dropped, user.rung) = (packets_dropped, rung);
                self.ledger.window(at, user.group, window);
            }
            Told::Done(done) => {
                self.present.remove(&done.record.number);
                self.totals.failed += u64::from(done.record.failure.is_some());
                self.behind.merge(&done.behind);
                self.gone.push(*done);
            }
        }
    }

    fn rungs_now(&self) -> BTreeMap<String, u64> {
        let mut rungs = BTreeMap::new();
        for user in self.present.values() {
            *rungs.entry(user.rung.to_owned()).or_default() += 1;
        }
        rungs
    }

    /// A second is over: a look at the machine, and a line for people.
    fn second(&mut self, at: Duration) {
        let recent = self.looks.push(observe::look(at, self.server_pid));
        let dropped: u64 = self.seconds.iter().map(|second| second.packets_dropped).sum();
        let known = figures::Second {
            at_s: at.as_secs_f64(),
            rungs: self.rungs_now(),
            server_cpu: recent.server_cpu,
            server_rss_bytes: recent.server_rss_bytes,
            harness_cpu: recent.own_cpu,
            packets_dropped: self.totals.packets_dropped.saturating_sub(dropped),
            ..figures::Second::default()
        };
        self.seconds.push(known.clone());
        // Users tell within a second of what was; so the last second but one is the latest that is known.
        let whole = u32::try_from(at.as_secs()).unwrap_or(u32::MAX).saturating_sub(2);
        let mut second = self.ledger.second(whole);
        complete(&mut second, &known);
        let behind = std::mem::take(&mut self.recent_behind);
        self.behind.merge(&behind);
        let snapshot = Snapshot {
            phase: self.phase,
            left_s: self.left(at).map(|left| left.as_secs_f64()),
            recent: figures::Times {
                count: second.received,
                p50_ms: second.p50_ms.unwrap_or_default(),
                p95_ms: second.p95_ms.unwrap_or_default(),
                p99_ms: second.p99_ms.unwrap_or_default(),
                max_ms: second.max_ms.unwrap_or_default(),
                ..figures::Times::default()
            },
            second,
            planned: self.plans.len() as u64,
            joined: self.totals.joined,
            failed: self.totals.failed,
            sent: self.totals.sent,
            received: self.totals.received,
            errors: self.errors.clone(),
            behind: times(&behind),
            busiest_thread_share: recent.busiest_thread_share,
            ..Snapshot::default()
        };
        (self.shown)(Progress::Second(Box::new(snapshot)));
    }

    /// Until the phase is over.
    fn left(&self, at: Duration) -> Option<Duration> {
        let (begin, end) = self.setup.scenario.hold_span();
        match self.phase {
            Phase::Ramping => Some(begin.saturating_sub(at)),
            Phase::Holding => Some(end.saturating_sub(at)),
            Phase::Draining => Some((end + self.setup.scenario.drain.0).saturating_sub(at)),
            Phase::Over => None,
        }
    }
}

fn networks(scenario: &Scenario) -> Result<BTreeMap<String, Arc<NetworkSpec>>, SpecError> {
    let names = scenario.networks().into_iter();
    names.map(|name| Ok((name.to_owned(), Arc::new(load(name)?)))).collect()
}

/// How many of them are there at the same time, as far as it was planned.
fn most_at_once(coming: &[Coming]) -> u64 {
    let mut changes: Vec<(Duration, i64)> = coming.iter().map(|coming| (coming.at, 1)).collect();
    changes.extend(coming.iter().filter_map(|coming| Some((coming.leaves?, -1))));
    changes.sort_unstable();
    let mut there = 0;
    let counts = changes.into_iter().map(|(_, change)| {
        there += change;
        there
    });
    counts.max().unwrap_or_default().unsigned_abs()
}

/// Users' names in tokens.
fn name(coming: &Coming) -> String {
    format!("user-{}", coming.number)
}

/// Tokens for users, ahead of their coming and in its order.
fn tickets(setup: &Setup, coming: Vec<Coming>) -> mpsc::Receiver<Ticket> {
    let (sender, tickets) = mpsc::channel(TOKENS_AHEAD);
    let (target, tokens) = (setup.target.clone(), setup.tokens.clone());
    let rooms: Vec<String> =
        coming.iter().map(|coming| coming.room_name(&setup.scenario, &setup.prefix)).collect();
    tokio::spawn(async move {
        let asked = coming.into_iter().zip(rooms).map(|(coming, room)| {
            let (target, tokens) = (&target, &tokens);
            async move {
                let token = tokens.token(target, &room, &name(&coming)).await;
                (coming, token)
            }
        });
        let mut asked = stream::iter(asked).buffered(TOKENS_AT_ONCE);
        while let Some(ticket) = asked.next().await {
            if sender.send(ticket).await.is_err() {
                return;
            }
        }
    });
    tickets
}

#[cfg(test)]
mod tests;
