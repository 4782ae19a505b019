//! The ICE-lite agent of one peer ([RFC 8445](https://www.rfc-editor.org/rfc/rfc8445#section-2.5)): it answers
//! the client's connectivity checks and says which path is the peer's.
//!
//! It never sends a check of its own, never opens a path and has no timer: the owner asks [`IceLite::last_seen`]
//! whether the peer still consents. It is the only judge of paths. The WebRTC engine has an ICE agent too, which
//! selects a pair once and for all; the engine is therefore shown one constant address, and [`activate`] leads
//! its agent to "connected" by an exchange in memory. Who calls both is `peer`; the bytes are [`super::stun`]'s.
//!
//! # Which nomination is followed
//!
//! A lite agent follows the client's nominations (checks with `USE-CANDIDATE`). There are two kinds of clients.
//! Most nominate the one path they use, every few seconds, and another one when they move. Some nominate
//! aggressively: every path that works, round after round, meaning the one of highest priority. To follow each
//! nomination would make the latter flap; to hold on to a path would leave the former's data on a dead one.
//!
//! So a nomination of another path than the current one is followed if one of these holds:
//!
//! 1. there is no current path;
//! 2. its `PRIORITY` is higher than the current path's;
//! 3. the path is *fresh* (not nominated within [`FORGET`]) and the current one has not been nominated within
//!    [`QUIET`]: a NAT has rebound, or the client has moved, say from Wi-Fi to a mobile network;
//! 4. it is the second nomination of this path since the current one was nominated last: the client repeats one
//!    path and no longer the other.
//!
//! Some clients nominate once and then only check. When they are moved by a NAT, all that is seen is checks
//! without a nomination by another path, and none by the current one. So
//!
//! 5. any check is followed if by the current path none has come within [`SILENCE`].
//!
//! In an aggressive round every path is nominated once, so the fourth never applies, the third at most once for
//! each path, and the second ends at the highest priority. A client that moves is followed at once by the first
//! or third, and else by its next check. An ICE restart that takes effect voids the memory of nominations, so that
//! the first one after it is followed. Retransmissions (the same transaction) are answered and count once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::demux;
use super::path::Path;
use super::stun::{self, Class, Key, Message, Transaction, attribute, binding};

/// How many validated paths are remembered. The one not heard of for longest goes first, the current one never.
pub const MAX_PATHS: usize = 8;
/// A current path that has not been nominated for so long yields to a fresh one.
pub const QUIET: Duration = Duration::from_millis(500);
/// A path that has not been nominated for so long is fresh again: longer than a round of aggressive nominations.
pub const FORGET: Duration = Duration::from_secs(10);

/// A current path by which no check has come for so long yields to one by which any comes: longer than clients
/// wait between two checks of the path they use.
pub const SILENCE: Duration = Duration::from_secs(6);

/// One side's ufrag and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the side in `USERNAME`.
    pub ufrag: String,
    /// Keys the integrity of the requests sent to this side.
    pub pwd: String,
}

impl Credentials {
    /// Makes credentials for this server's side; see [`demux`] for the format. The random numbers must not be
    /// guessable.
    #[must_use]
    pub fn generate(shard: u16, random: &mut impl FnMut() -> u64) -> Self {
        Self { ufrag: demux::generate_ufrag(shard, random), pwd: demux::generate_pwd(random) }
    }
}

impl std::fmt::Debug for Credentials {
    /// Leaves the password out: it would end up in a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// What became of a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The check is genuine and good.
    Accepted(Accepted),
    /// The check is genuine and cannot be taken: the response says why. It changes nothing.
    Refused {
        /// To be sent back on the path.
        response: Vec<u8>,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing is sent back and nothing changes.
    Ignored(Ignored),
}

/// A check that has been accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// To be sent back on the path.
    pub response: Vec<u8>,
    /// The path was not among the validated ones before.
    pub newly_validated: bool,
    /// The path has become the current one.
    pub switched: bool,
    /// A path that is no longer remembered, because there are too many: unmap it.
    pub evicted: Option<Path>,
    /// The credentials of [`IceLite::restart`] have taken effect; the earlier ones are void from now on.
    pub restarted: bool,
}

/// Why a genuine check is answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// 487: the client takes itself for the controlled side, which a lite agent always is.
    #[error("role conflict")]
    RoleConflict,
    /// 420: there is an attribute that must be understood and is not.
    #[error("unknown attribute that must be understood")]
    UnknownAttribute,
}

impl Refusal {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RoleConflict => "role_conflict",
            Self::UnknownAttribute => "unknown_attribute",
        }
    }
}

/// Why a datagram is dropped in silence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Ignored {
    /// It is no STUN message.
    #[error(transparent)]
    Malformed(#[from] stun::Malformed),
    /// It is a STUN message and no Binding request.
    #[error("not a binding request")]
    NotARequest,
    /// The fingerprint is wrong.
    #[error("wrong fingerprint")]
    Fingerprint,
    /// The username is missing or not that of this peer.
    #[error("wrong username")]
    Username,
    /// The integrity is missing or wrong.
    #[error("wrong integrity")]
    Integrity,
}

impl Ignored {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NotARequest => "not_a_request",
            Self::Fingerprint => "fingerprint",
            Self::Username => "username",
            Self::Integrity => "integrity",
        }
    }
}

/// The agent. Feed it every STUN datagram of the peer; see the module for what it decides.
#[derive(Debug)]
pub struct IceLite {
    generation: Generation,
    /// The credentials of a restart that no request has used yet.
    next: Option<Generation>,
    /// Validated paths in no particular order, at most [`MAX_PATHS`].
    paths: Vec<Validated>,
    current: Option<Path>,
    last_seen: Option<Instant>,
}

impl IceLite {
    /// An agent that has heard nothing yet. `local` is what the server's description says, `remote` what the
    /// client's says.
    #[must_use]
    pub fn new(local: &Credentials, remote: &Credentials) -> Self {
        Self {
            generation: Generation::new(local, remote),
            next: None,
            paths: Vec::new(),
            current: None,
            last_seen: None,
        }
    }

    /// An ICE restart: the new credentials are good from now on, the earlier ones until a request has used the
    /// new ones. Paths stay, so that traffic does; the first nomination after it is followed without hesitation.
    pub fn restart(&mut self, local: &Credentials, remote: &Credentials) {
        self.next = Some(Generation::new(local, remote));
    }

    /// Judges a STUN datagram that came by `path` from `source`, the address that the client shall learn.
    pub fn handle(&mut self, now: Instant, path: Path, source: SocketAddr, datagram: &[u8]) -> Verdict {
        match self.authenticate(datagram) {
            Ok((request, is_next)) => self.answer(now, path, source, &request, is_next),
            Err(reason) => Verdict::Ignored(reason),
        }
    }

    /// The path to send on.
    #[must_use]
    pub fn current(&self) -> Option<Path> {
        self.current
    }

    /// Whether an authenticated check has come by this path and the path is still remembered.
    #[must_use]
    pub fn is_validated(&self, path: &Path) -> bool {
        self.paths.iter().any(|validated| validated.path == *path)
    }

    /// When the last check was accepted: the client's consent to be sent to
    /// ([RFC 7675](https://www.rfc-editor.org/rfc/rfc7675)) ends 30 seconds later.
    #[must_use]
    pub fn last_seen(&self) -> Option<Instant> {
        self.last_seen
    }

    /// Forgets a path that is gone, such as a closed TCP connection. If it was the current one, the path that
    /// was nominated last among the others takes its place. Returns whether the current path has changed.
    pub fn forget(&mut self, path: &Path) -> bool {
        self.paths.retain(|validated| validated.path != *path);
        if self.current != Some(*path) {
            return false;
        }
        let latest = self.paths.iter().filter(|validated| validated.nominated.is_some());
        self.current = latest.max_by_key(|validated| validated.nominated).map(|validated| validated.path);
        true
    }

    /// The request, and whether it uses the credentials of a restart for the first time.
    fn authenticate<'a>(&self, datagram: &'a [u8]) -> Result<(Message<'a>, bool), Ignored> {
        let request = Message::parse(datagram)?;
        if request.class != Class::Request || request.method != stun::BINDING {
            return Err(Ignored::NotARequest);
        }
        if request.verify_fingerprint() == Some(false) {
            return Err(Ignored::Fingerprint);
        }
        let username = request.username.ok_or(Ignored::Username)?;
        let is_next = self.next.as_ref().is_some_and(|next| next.username.as_bytes() == username);
        let generation = self.next.as_ref().filter(|_| is_next).unwrap_or(&self.generation);
        if generation.username.as_bytes() != username {
            return Err(Ignored::Username);
        }
        if !request.verify_integrity(&generation.key) {
            return Err(Ignored::Integrity);
        }
        Ok((request, is_next))
    }

    fn answer(
        &mut self,
        now: Instant,
        path: Path,
        source: SocketAddr,
        request: &Message<'_>,
        is_next: bool,
    ) -> Verdict {
        let key = self.next.as_ref().filter(|_| is_next).map_or(&self.generation.key, |next| &next.key);
        let error = |refusal, code| Verdict::Refused {
            response: key
                .seal(binding(Class::Error, &request.transaction).error(code).unknown(request.unknown())),
            refusal,
        };
        if !request.unknown().is_empty() {
            return error(Refusal::UnknownAttribute, 420);
        }
        if request.controlled {
            return error(Refusal::RoleConflict, 487);
        }
        let response = success(request, source, key);

        if let Some(next) = self.next.take_if(|_| is_next) {
            self.generation = next;
            for validated in &mut self.paths {
                validated.nominated = None;
                validated.repeated = 0;
            }
        }
        self.last_seen = Some(now);
        let (newly_validated, evicted) = self.validate(now, path, request.priority.unwrap_or(0));
        let switched = if request.use_candidate {
            self.nominate(now, path, request.transaction)
        } else {
            self.current_is_silent(now) && self.follow(path)
        };
        Verdict::Accepted(Accepted { response, newly_validated, switched, evicted, restarted: is_next })
    }

    /// Notes that a check came by `path`. Returns whether that is news, and who had to go for it.
    fn validate(&mut self, now: Instant, path: Path, priority: u32) -> (bool, Option<Path>) {
        if let Some(validated) = self.paths.iter_mut().find(|validated| validated.path == path) {
            validated.seen = now;
            validated.priority = priority;
            return (false, None);
        }
        let mut evicted = None;
        if self.paths.len() >= MAX_PATHS {
            let others = self.paths.iter().enumerate().filter(|(_, other)| Some(other.path) != self.current);
            if let Some((oldest, _)) = others.min_by_key(|(_, other)| other.seen) {
                evicted = Some(self.paths.swap_remove(oldest).path);
            }
        }
        self.paths.push(Validated {
            path,
            priority,
            seen: now,
            nominated: None,
            nomination: [0; 12],
            repeated: 0,
        });
        (true, evicted)
    }

    /// Notes that `path` was nominated, and follows it if the rule says so. Returns whether it did.
    fn nominate(&mut self, now: Instant, path: Path, transaction: Transaction) -> bool {
        let current = self.paths.iter().find(|validated| Some(validated.path) == self.current);
        let current = current.map(|current| (current.path, current.priority, current.nominated));
        let within =
            |when: Option<Instant>, span| when.is_some_and(|when| now.saturating_duration_since(when) < span);

        let Some(nominee) = self.paths.iter_mut().find(|validated| validated.path == path) else {
            return false;
        };
        let is_retransmission = nominee.nominated.is_some() && nominee.nomination == transaction;
        let is_fresh = !within(nominee.nominated, FORGET);
        if !is_retransmission {
            nominee.nomination = transaction;
            nominee.nominated = Some(now);
            nominee.repeated = nominee.repeated.saturating_add(1);
        }

        let follow = match current {
            None => true,
            Some((current, ..)) if current == path => {
                // Whatever else was nominated before this no longer counts as a repetition.
                for other in self.paths.iter_mut().filter(|_| !is_retransmission) {
                    other.repeated = 0;
                }
                return false;
            }
            Some((_, priority, nominated)) => {
                !is_retransmission
                    && (nominee.priority > priority
                        || (is_fresh && !within(nominated, QUIET))
                        || nominee.repeated >= 2)
            }
        };
        follow && self.follow(path)
    }

    fn current_is_silent(&self, now: Instant) -> bool {
        let current = self.paths.iter().find(|validated| Some(validated.path) == self.current);
        current.is_some_and(|current| now.saturating_duration_since(current.seen) >= SILENCE)
    }

    /// Makes `path` the current one. Returns whether it was not.
    fn follow(&mut self, path: Path) -> bool {
        for validated in &mut self.paths {
            validated.repeated = 0;
        }
        self.current.replace(path) != Some(path)
    }
}

/// The credentials of both sides as they are used.
#[derive(Debug)]
struct Generation {
    /// What a client writes into `USERNAME`: the receiver's ufrag, then its own.
    username: String,
    key: Key,
}

impl Generation {
    fn new(local: &Credentials, remote: &Credentials) -> Self {
        Self { username: format!("{}:{}", local.ufrag, remote.ufrag), key: Key::short_term(&local.pwd) }
    }
}

/// A path by which an authenticated check has come.
#[derive(Debug)]
struct Validated {
    path: Path,
    priority: u32,
    seen: Instant,
    /// When it was nominated last in this generation, and by which transaction.
    nominated: Option<Instant>,
    nomination: Transaction,
    /// How often it was nominated since the current path was.
    repeated: u8,
}

/// Why the engine's agent did not become connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ActivationError {
    /// The engine did not check the address that nominated itself: wrong credentials, or no description set.
    #[error("the engine answered the nomination with no check of its own")]
    NoCheck,
    /// The engine did not accept the answer to its check.
    #[error("the engine did not answer the nomination after its check had succeeded")]
    NotSelected,
}

/// Leads the engine's ICE agent to "connected" at once by playing the client towards it, in memory.
///
/// The engine is a controlled lite agent that has applied both descriptions. It answers a nomination only after
/// a check of its own has succeeded; so: nominate, answer its check, nominate again. `engine` and `client` are
/// the credentials as in the descriptions that the *engine* was given; `address` is the engine's own constant
/// address, which it learns to be reflected.
///
/// `exchange` hands a message to the engine, as coming from its constant remote address, and returns the STUN
/// messages that the engine wants to send after that. Whatever else the engine has to send, such as a first DTLS
/// flight, `exchange` keeps for the peer. Call it again after an ICE restart that the engine took part in.
///
/// # Errors
///
/// [`ActivationError`] if the engine does not play along; nothing can be sent through it then.
pub fn activate(
    engine: &Credentials,
    client: &Credentials,
    address: SocketAddr,
    mut exchange: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), ActivationError> {
    let nomination = nominating_request(engine, client, &ACTIVATION);
    let mut checked = false;
    for message in exchange(&nomination) {
        if let Some(response) = answer_to_check(client, address, &message) {
            checked = true;
            exchange(&response);
        }
    }
    if !checked {
        return Err(ActivationError::NoCheck);
    }
    let answered = exchange(&nomination).iter().any(|message| {
        Message::parse(message)
            .is_ok_and(|answer| answer.class == Class::Success && answer.transaction == ACTIVATION)
    });
    if answered { Ok(()) } else { Err(ActivationError::NotSelected) }
}

/// The transaction of [`activate`]; it never leaves the process.
const ACTIVATION: Transaction = *b"activation..";

/// A Binding request of the controlling side `client` to `engine` that nominates the path it comes by.
#[must_use]
pub fn nominating_request(engine: &Credentials, client: &Credentials, transaction: &Transaction) -> Vec<u8> {
    /// A peer-reflexive candidate's, [RFC 8445 section 5.1.2](https://www.rfc-editor.org/rfc/rfc8445#section-5.1.2).
    const PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;
    let request = binding(Class::Request, transaction)
        .attribute(attribute::USERNAME, format!("{}:{}", engine.ufrag, client.ufrag).as_bytes())
        .attribute(attribute::PRIORITY, &PRIORITY.to_be_bytes())
        .attribute(attribute::ICE_CONTROLLING, &[0; 8])
        .attribute(attribute::USE_CANDIDATE, &[]);
    Key::short_term(&engine.pwd).seal(request)
}

/// The success response of `client` to a Binding request of the engine, which sent it from `address`; `None` if
/// the message is no request.
#[must_use]
pub fn answer_to_check(client: &Credentials, address: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let request = Message::parse(message).ok()?;
    (request.class == Class::Request && request.method == stun::BINDING)
        .then(|| success(&request, address, &Key::short_term(&client.pwd)))
}

/// The success response to a request that came from `source`.
fn success(request: &Message<'_>, source: SocketAddr, key: &Key) -> Vec<u8> {
    let response = binding(Class::Success, &request.transaction);
    key.seal(response.address(attribute::XOR_MAPPED_ADDRESS, source))
}

#[cfg(test)]
mod tests {
    use super::stun::Builder;
    use super::*;
    use crate::engine::path::{AllocationId, TcpId};

    const HIGH: u32 = 0x7e00_00ff;
    const LOW: u32 = 0x6e00_00ff;

    /// A client and the agent that it talks to, in virtual time.
    struct World {
        ice: IceLite,
        local: Credentials,
        remote: Credentials,
        now: Instant,
        transactions: u32,
    }

    impl World {
        fn new() -> Self {
            let (local, remote) = (credentials("AAAserver"), credentials("client"));
            let ice = IceLite::new(&local, &remote);
            Self { ice, local, remote, now: Instant::now(), transactions: 0 }
        }

        fn wait(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
        }

        fn request(&mut self) -> Builder {
            self.transactions += 1;
            let mut transaction = [0; 12];
            transaction[..4].copy_from_slice(&self.transactions.to_be_bytes());
            binding(Class::Request, &transaction).attribute(
                attribute::USERNAME,
                format!("{}:{}", self.local.ufrag, self.remote.ufrag).as_bytes(),
            )
        }

        fn key(&self) -> Key {
            Key::short_term(&self.local.pwd)
        }

        fn send(&mut self, path: Path, datagram: &[u8]) -> Verdict {
            self.ice.handle(self.now, path, address(1), datagram)
        }

        fn check(&mut self, path: Path, priority: u32, nominates: bool) -> Accepted {
            let mut request = self.request().attribute(attribute::PRIORITY, &priority.to_be_bytes());
            if nominates {
                request = request.attribute(attribute::USE_CANDIDATE, &[]);
            }
            let datagram = self.key().seal(request.attribute(attribute::ICE_CONTROLLING, &[7; 8]));
            accepted(self.send(path, &datagram))
        }

        /// Nominates `path` and tells whether it has become the current one by that.
        fn nominate(&mut self, path: Path, priority: u32) -> bool {
            let accepted = self.check(path, priority, true);
            assert!(!accepted.switched || self.ice.current() == Some(path));
            accepted.switched
        }
    }

    fn credentials(ufrag: &str) -> Credentials {
        Credentials { ufrag: ufrag.to_owned(), pwd: format!("{ufrag}: a password of some length") }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn udp(port: u16) -> Path {
        Path::Udp(address(port))
    }

    fn accepted(verdict: Verdict) -> Accepted {
        match verdict {
            Verdict::Accepted(accepted) => accepted,
            other => panic!("not accepted: {other:?}"),
        }
    }

    #[test]
    fn a_check_is_answered_with_the_address_it_came_from() {
        let mut world = World::new();
        let answer = world.check(udp(1), HIGH, false);
        let response = Message::parse(&answer.response).unwrap();
        assert_eq!((response.class, response.mapped), (Class::Success, Some(address(1))));
        assert!(response.verify_integrity(&world.key()));
        assert_eq!(response.verify_fingerprint(), Some(true));
        assert!(answer.newly_validated && !answer.switched);
        assert!(!world.check(udp(1), HIGH, false).newly_validated);
        assert!(world.ice.is_validated(&udp(1)) && !world.ice.is_validated(&udp(2)));
        assert_eq!((world.ice.current(), world.ice.last_seen()), (None, Some(world.now)));
    }

    #[test]
    fn the_first_nomination_is_followed() {
        let mut world = World::new();
        assert!(world.nominate(udp(1), LOW));
        assert!(!world.nominate(udp(1), LOW), "it is the current one already");
    }

    #[test]
    fn a_rebound_nat_is_followed_at_its_first_check() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        for port in 2..20 {
            world.wait(2500);
            assert!(world.nominate(udp(port), HIGH), "port {port}");
        }
    }

    #[test]
    fn a_move_from_wifi_to_mobile_is_followed_although_the_priority_falls() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        // The move may fall between two checks, or right behind one: then the next check decides.
        world.wait(1200);
        assert!(world.nominate(udp(2), LOW));
        world.wait(100);
        assert!(!world.nominate(udp(3), LOW));
        world.wait(480);
        assert!(world.nominate(udp(3), LOW));
    }

    #[test]
    fn a_client_that_returns_to_an_earlier_path_is_followed_at_its_second_check() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        world.wait(2500);
        assert!(world.nominate(udp(2), HIGH));
        world.wait(2500);
        assert!(!world.nominate(udp(1), HIGH));
        world.wait(2500);
        assert!(world.nominate(udp(1), HIGH));
    }

    #[test]
    fn a_better_path_is_followed_at_once() {
        let mut world = World::new();
        assert!(world.nominate(Path::Tcp(TcpId(1)), LOW));
        world.wait(10);
        assert!(world.nominate(udp(1), HIGH));
    }

    #[test]
    fn aggressive_nomination_of_many_paths_settles_on_the_best_one() {
        // All orders of three paths, rounds of several lengths, checks 50 ms apart.
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for pause in [0, 400, 2500, 5000] {
                let paths = [udp(1), Path::Relay(AllocationId(1)), Path::Tcp(TcpId(1))];
                let priorities = [HIGH, LOW + 1, LOW];
                let mut world = World::new();
                let mut switches = 0;
                for round in 0..20 {
                    for index in order {
                        let switched = world.nominate(paths[index], priorities[index]);
                        switches += usize::from(switched);
                        assert!(!switched || round == 0, "{order:?}, pause {pause}: flaps in round {round}");
                        world.wait(50);
                    }
                    world.wait(pause);
                }
                assert_eq!(world.ice.current(), Some(paths[0]), "{order:?}, pause {pause}");
                assert!(switches <= 3);
            }
        }
    }

    #[test]
    fn aggressive_nomination_of_equal_paths_does_not_flap() {
        let mut world = World::new();
        let mut switches = 0;
        for _ in 0..50 {
            for port in [1, 2] {
                switches += usize::from(world.nominate(udp(port), HIGH));
                world.wait(50);
            }
            world.wait(2500);
        }
        assert_eq!(switches, 1);
    }

    #[test]
    fn a_retransmitted_nomination_is_answered_and_counts_once() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        world.wait(50);
        let request = world
            .request()
            .attribute(attribute::PRIORITY, &LOW.to_be_bytes())
            .attribute(attribute::USE_CANDIDATE, &[]);
        let request = world.key().seal(request);
        for _ in 0..5 {
            assert!(!accepted(world.send(udp(2), &request)).switched);
            world.wait(50);
        }
        assert_eq!(world.ice.current(), Some(udp(1)));
    }

    #[test]
    fn checks_without_nomination_do_not_move_a_peer_that_is_still_there() {
        let mut world = World::new();
        world.nominate(udp(1), LOW);
        for _ in 0..20 {
            world.wait(2500);
            assert!(!world.check(udp(2), HIGH, false).switched);
            world.wait(2500);
            assert!(!world.check(udp(1), LOW, false).switched);
        }
        assert_eq!(world.ice.current(), Some(udp(1)));
    }

    #[test]
    fn a_client_that_nominates_once_is_followed_when_its_nat_has_rebound() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        world.wait(2000);
        world.check(udp(1), HIGH, false);
        for switches in [false, false, true, false] {
            world.wait(2000);
            assert_eq!(world.check(udp(2), HIGH, false).switched, switches);
        }
        assert_eq!(world.ice.current(), Some(udp(2)));
    }

    #[test]
    fn remembered_paths_are_bounded_and_the_current_one_stays() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        for port in 2..100 {
            world.wait(10);
            let evicted = world.check(udp(port), LOW, false).evicted;
            let expected = (port > 8).then(|| udp(port - 7));
            assert_eq!(evicted, expected);
            assert!(evicted.is_none_or(|evicted| !world.ice.is_validated(&evicted)));
        }
        assert_eq!(world.ice.paths.len(), MAX_PATHS);
        assert!(world.ice.is_validated(&udp(1)));
        assert_eq!(world.ice.current(), Some(udp(1)));
    }

    #[test]
    fn a_path_that_is_gone_gives_way_to_the_one_nominated_before() {
        let mut world = World::new();
        let tcp = Path::Tcp(TcpId(1));
        world.nominate(udp(1), LOW);
        world.check(udp(2), HIGH, false);
        world.wait(1000);
        assert!(world.nominate(tcp, LOW));
        assert!(!world.ice.forget(&udp(2)));
        assert!(world.ice.forget(&tcp));
        assert_eq!(world.ice.current(), Some(udp(1)));
        assert!(world.ice.forget(&udp(1)));
        assert_eq!(world.ice.current(), None);
    }

    #[test]
    fn a_restart_takes_effect_with_the_first_request_that_uses_it() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        let (old_local, old_remote) = (world.local.clone(), world.remote.clone());
        let (new_local, new_remote) = (credentials("AAAfresh"), credentials("again"));
        world.ice.restart(&new_local, &new_remote);
        assert!(!world.check(udp(1), HIGH, true).restarted, "the old credentials still hold");

        (world.local, world.remote) = (new_local, new_remote);
        let answer = world.check(udp(2), LOW, false);
        assert!(answer.restarted && answer.newly_validated);
        assert!(Message::parse(&answer.response).unwrap().verify_integrity(&world.key()));
        assert_eq!(world.ice.current(), Some(udp(1)), "traffic stays until the new nomination");
        assert!(world.nominate(udp(2), LOW), "which is followed at once");

        (world.local, world.remote) = (old_local, old_remote);
        let late = world.key().seal(world.request());
        assert_eq!(world.send(udp(1), &late), Verdict::Ignored(Ignored::Username));
    }

    #[test]
    fn a_forged_use_of_new_credentials_does_not_void_the_old_ones() {
        let mut world = World::new();
        world.nominate(udp(1), HIGH);
        let (new_local, new_remote) = (credentials("AAAfresh"), credentials("again"));
        world.ice.restart(&new_local, &new_remote);
        let forged = nominating_request(
            &Credentials { pwd: "guessed".to_owned(), ..new_local },
            &new_remote,
            b"whatever....",
        );
        assert_eq!(world.send(udp(9), &forged), Verdict::Ignored(Ignored::Integrity));
        assert!(!world.check(udp(1), HIGH, true).restarted);
    }

    #[test]
    fn what_is_not_authentic_is_dropped_in_silence() {
        let mut world = World::new();
        let key = world.key();
        let good = key.seal(world.request());
        let no_integrity = {
            // A request that ends behind USERNAME, with nothing to prove it.
            let mut bytes = good[..good.len() - 32].to_vec();
            let length = u16::try_from(bytes.len() - 20).unwrap();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes
        };
        let mut wrong_fingerprint = good.clone();
        *wrong_fingerprint.last_mut().unwrap() ^= 1;
        let transaction = [1; 12];
        let username = |name: &[u8]| {
            key.seal(binding(Class::Request, &transaction).attribute(attribute::USERNAME, name))
        };
        for (datagram, reason) in [
            (no_integrity, Ignored::Integrity),
            (wrong_fingerprint, Ignored::Fingerprint),
            (Key::short_term("wrong").seal(world.request()), Ignored::Integrity),
            (username(b"AAAserver:other"), Ignored::Username),
            (username(b"AAAserver"), Ignored::Username),
            (key.seal(binding(Class::Request, &transaction)), Ignored::Username),
            (key.seal(binding(Class::Indication, &transaction)), Ignored::NotARequest),
            (key.seal(binding(Class::Success, &transaction)), Ignored::NotARequest),
            (vec![], Ignored::Malformed(stun::Malformed::Header)),
        ] {
            assert_eq!(world.send(udp(1), &datagram), Verdict::Ignored(reason));
        }
        assert!(!world.ice.is_validated(&udp(1)) && world.ice.last_seen().is_none());
        accepted(world.send(udp(1), &good));
    }

    #[test]
    fn a_client_in_the_controlled_role_is_told_of_the_conflict() {
        let mut world = World::new();
        let request = world.request().attribute(attribute::ICE_CONTROLLED, &[7; 8]);
        let request = world.key().seal(request);
        let Verdict::Refused { response, refusal } = world.send(udp(1), &request) else {
            panic!("not refused")
        };
        assert_eq!(refusal, Refusal::RoleConflict);
        let response = Message::parse(&response).unwrap();
        assert_eq!((response.class, response.error), (Class::Error, Some(487)));
        assert!(response.verify_integrity(&world.key()));
        assert!(!world.ice.is_validated(&udp(1)));
    }

    #[test]
    fn an_attribute_that_must_be_understood_and_is_not_is_named() {
        let mut world = World::new();
        let mut request = world.request();
        for kind in 0x7000..0x7040_u16 {
            request = request.attribute(kind, &[]);
        }
        let request = world.key().seal(request.attribute(0xc057, b"optional"));
        let Verdict::Refused { response, refusal } = world.send(udp(1), &request) else {
            panic!("not refused")
        };
        assert_eq!(refusal, Refusal::UnknownAttribute);
        assert!(response.len() < request.len());
        assert_eq!(Message::parse(&response).unwrap().error, Some(420));
    }

    #[test]
    fn an_answer_is_never_longer_than_its_question() {
        let mut world = World::new();
        let source = "[2001:db8::1]:1".parse().unwrap();
        let request = nominating_request(&world.local, &world.remote, b"twelve bytes");
        let answer = accepted(world.ice.handle(world.now, Path::Udp(source), source, &request));
        assert!(answer.response.len() <= request.len());
    }

    #[test]
    fn a_password_is_not_shown() {
        assert!(!format!("{:?}", credentials("ufrag")).contains("password of some length"));
    }
}
