//! Random histories, in simulated time, against a small model of what RFC 8656 says about lifetimes.
//!
//! The model knows no message and no port: it keeps, for each client, when its allocation, its permissions and its channels
//! end, and says what each step must come to. The server is called late, early and in between, as time passes in steps that
//! hit the very moments at which things end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use switchyard_loadtest::rng::Rng;

use crate::world::{Client, Moved, SECOND, SFU, World};

const CLIENTS: usize = 3;
const STEPS: usize = 300;
const PER_USER: usize = 2;
const MAX_PERMISSIONS: usize = 3;
const MAX_CHANNELS: usize = 2;
/// Two ports of one address, another one, the SFU, and one that is forbidden.
const PEERS: [&str; 5] = ["9.9.9.1:1000", "9.9.9.1:1001", "9.9.9.2:1000", SFU, "10.0.0.9:1"];

#[derive(Default)]
struct Allocation {
    until: Option<Instant>,
    relayed: Option<SocketAddr>,
    /// By address.
    permissions: BTreeMap<String, Instant>,
    /// By number.
    channels: BTreeMap<u16, (String, Instant)>,
}

fn ip(peer: &str) -> String {
    peer.parse::<SocketAddr>().unwrap().ip().to_string()
}

impl Allocation {
    fn expire(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
        self.permissions.retain(|_, until| *until > now);
        self.channels.retain(|_, (_, until)| *until > now);
    }

    fn is_live(&self) -> bool {
        self.until.is_some()
    }

    fn permits(&self, peer: &str) -> bool {
        self.is_live() && self.permissions.contains_key(&ip(peer))
    }

    /// The peer's channel that carries data.
    fn channel_of(&self, peer: &str) -> Option<u16> {
        self.channels.iter().find(|(_, (bound, _))| bound == peer).map(|(number, _)| *number)
    }

    fn permit(&mut self, peers: &[&str], now: Instant) -> u16 {
        if !self.is_live() {
            return 437;
        }
        if peers.iter().any(|peer| peer.starts_with("10.")) {
            return 403;
        }
        let mut permissions = self.permissions.clone();
        permissions.extend(peers.iter().map(|peer| (ip(peer), now + 300 * SECOND)));
        if permissions.len() > MAX_PERMISSIONS {
            return 508;
        }
        self.permissions = permissions;
        200
    }

    fn bind(&mut self, number: u16, peer: &str, now: Instant) -> u16 {
        if !self.is_live() {
            return 437;
        }
        if peer.starts_with("10.") {
            return 403;
        }
        let is_same = self.channels.get(&number).is_some_and(|(bound, _)| bound == peer);
        if !is_same && (self.channels.contains_key(&number) || self.channel_of(peer).is_some()) {
            return 400;
        }
        if !is_same && self.channels.len() >= MAX_CHANNELS {
            return 508;
        }
        match self.permit(&[peer], now) {
            200 => {
                self.channels.insert(number, (peer.to_owned(), now + 600 * SECOND));
                200
            }
            code => code,
        }
    }
}

/// How data comes to a client.
#[derive(PartialEq, Eq, Debug)]
enum Way {
    Nothing,
    Indication,
    Channel(u16),
}

fn way(moved: Option<&Moved>) -> Way {
    match moved {
        Some(Moved::Client(_, bytes)) if bytes[0] < 0x40 => Way::Indication,
        Some(Moved::Client(_, bytes)) => Way::Channel(u16::from_be_bytes([bytes[0], bytes[1]])),
        _ => Way::Nothing,
    }
}

fn expected_way(allocation: &Allocation, peer: &str) -> Way {
    match allocation.channel_of(peer) {
        _ if !allocation.permits(peer) => Way::Nothing,
        Some(number) => Way::Channel(number),
        None => Way::Indication,
    }
}

struct History {
    world: World,
    random: Rng,
    clients: Vec<Client>,
    model: Vec<Allocation>,
}

impl History {
    fn new(seed: u64) -> Self {
        let world = World::with(|turn| {
            turn.quotas.allocations_per_user = PER_USER as u32;
            turn.quotas.permissions_per_allocation = MAX_PERMISSIONS as u32;
            turn.quotas.channels_per_allocation = MAX_CHANNELS as u32;
            turn.quotas.answers_burst = 1_000_000;
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client::new(&world, "alice", &format!("198.51.100.1:{}", number + 1));
                client.credential = switchyard_turn_config::credentials::Keyring::new(
                    &switchyard_turn_config::settings::Secret::new(crate::world::SECRET),
                    None,
                    0,
                    Duration::ZERO,
                )
                .issue("alice", world.unix(), 1_000_000 * SECOND);
                client
            })
            .collect();
        let model = clients.iter().map(|_| Allocation::default()).collect();
        Self { world, random: Rng::new(seed), clients, model }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random.below(below as u64) as usize
    }

    fn pass(&mut self) {
        let seconds = [0, 1, 10, 59, 60, 240, 299, 300][self.pick(8)];
        let time = seconds * SECOND
            - if self.random.chance(0.2) && seconds > 0 { SECOND / 1000 } else { Duration::ZERO };
        if self.random.chance(0.3) {
            // Timers are late.
            self.world.now += time;
        } else {
            self.world.pass(time);
        }
        let now = self.world.now;
        self.model.iter_mut().for_each(|allocation| allocation.expire(now));
    }

    fn step(&mut self) -> String {
        let at = self.pick(CLIENTS);
        let peer = PEERS[self.pick(PEERS.len())];
        let number = 0x4000 + self.pick(3) as u16;
        let now = self.world.now;
        let (world, client) = (&mut self.world, &mut self.clients[at]);
        match self.random.below(13) {
            0 | 1 => {
                // Late timers hold what they have not ended yet.
                world.pass(Duration::ZERO);
                let live = self.model.iter().filter(|allocation| allocation.is_live()).count();
                let expected = match self.model[at].is_live() {
                    true => 437,
                    false if live >= PER_USER => 486,
                    false => 200,
                };
                let answer = client.allocate_with(world, |builder| builder);
                assert_eq!(answer.code(), expected);
                if expected == 200 {
                    let relayed = answer.message().relayed;
                    let allocation = &mut self.model[at];
                    *allocation =
                        Allocation { until: Some(now + 600 * SECOND), relayed, ..Allocation::default() };
                }
                format!("{at} allocates: {expected}")
            }
            2 => {
                let lifetime = [0, 600, 1200][self.random.below(3) as usize];
                let allocation = &mut self.model[at];
                let expected = if allocation.is_live() { 200 } else { 437 };
                assert_eq!(client.refresh(world, lifetime).code(), expected);
                if expected == 200 {
                    match lifetime {
                        0 => *allocation = Allocation::default(),
                        _ => allocation.until = Some(now + lifetime * SECOND),
                    }
                }
                format!("{at} refreshes for {lifetime}: {expected}")
            }
            3 | 4 => {
                let other = PEERS[self.random.below(PEERS.len() as u64) as usize];
                let expected = self.model[at].permit(&[peer, other], now);
                assert_eq!(client.permit(world, &[peer, other]).code(), expected);
                format!("{at} permits {peer} and {other}: {expected}")
            }
            5 | 6 => {
                let expected = self.model[at].bind(number, peer, now);
                assert_eq!(client.bind(world, number, peer).code(), expected);
                format!("{at} binds {number:x} to {peer}: {expected}")
            }
            7 => {
                let expected = self.model[at].permits(peer);
                assert_eq!(client.send(world, peer, b"data").is_some(), expected);
                format!("{at} sends to {peer}: {expected}")
            }
            8 => {
                let bound = self.model[at].channels.get(&number);
                let expected = bound.is_some_and(|(peer, _)| self.model[at].permits(peer));
                assert_eq!(client.send_by(world, number, b"data").is_some(), expected);
                format!("{at} sends by {number:x}: {expected}")
            }
            9 | 10 => {
                let Some(relayed) = self.model[at].relayed else { return format!("{at} has no address") };
                let expected = expected_way(&self.model[at], peer);
                let moved = match world.socket(relayed.port()) {
                    Some(relay) if peer == SFU => world.by_sfu(relay.allocation, peer, b"data"),
                    Some(relay) => world.by_peer(relay, peer, b"data"),
                    None => {
                        let has_outside =
                            self.model[at].permissions.keys().any(|peer| peer.starts_with("9."));
                        assert!(!has_outside, "an outside peer has a permission and there is no socket");
                        return format!("{at} has no socket");
                    }
                };
                assert_eq!(way(moved.as_ref()), expected);
                format!("{peer} sends to {at}: {expected:?}")
            }
            11 => {
                let to = self.random.below(CLIENTS as u64) as usize;
                let (Some(from), Some(relayed)) = (self.model[at].relayed, self.model[to].relayed) else {
                    return format!("{at} or {to} has no address");
                };
                let (from, relayed) = (from.to_string(), relayed.to_string());
                let may = self.model[at].permits(&relayed) && self.model[to].permits(&from);
                let expected = if may { Way::Indication } else { Way::Nothing };
                assert_eq!(way(client.send(world, &relayed, b"data").as_ref()), expected);
                format!("{at} sends to {to}: {expected:?}")
            }
            _ => {
                world.closed(&client.link);
                self.model[at] = Allocation::default();
                format!("the stream of {at} ends")
            }
        }
    }

    fn check(&self) {
        let live = self.model.iter().filter(|allocation| allocation.is_live()).count();
        let counted: u64 = self.world.server.counters().allocations_now.iter().sum();
        // Timers that are late hold what has ended.
        assert!(counted as usize >= live);
        assert!(self.world.server.slots() <= PER_USER);
        assert!(self.world.sockets.len() <= counted as usize);
    }

    /// When everything has ended nothing is left.
    fn end(&mut self) {
        self.world.pass(3600 * SECOND);
        assert_eq!(self.world.server.counters().allocations_now, [0; 3]);
        assert!(self.world.sockets.is_empty());
        assert_eq!((self.world.server.users(), self.world.server.poll_timeout()), (0, None));
    }
}

fn run(seed: u64) {
    let mut history = History::new(seed);
    let mut told = Vec::new();
    for _ in 0..STEPS {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            history.pass();
            let what = history.step();
            history.check();
            what
        }));
        match outcome {
            Ok(what) => told.push(what),
            Err(cause) => {
                let tail = &told[told.len().saturating_sub(20)..];
                eprintln!("seed {seed}, after {} steps, the last of which:\n{}", told.len(), tail.join("\n"));
                std::panic::resume_unwind(cause);
            }
        }
    }
    history.end();
}

#[test]
fn every_history_comes_to_what_the_model_says() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    (0..seeds).for_each(run);
}
