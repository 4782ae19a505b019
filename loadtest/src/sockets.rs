//! Sees to it that a simulated page has a WebSocket to its server: opens it, opens it again when it ends, and opens a second
//! beside one that is silent (`client/src/sockets.js`). The one of the two that speaks first is kept. While nothing
//! answers, it asks over HTTP whether the network is back, more often than a WebSocket could be tried.
//!
//! It opens nothing and reads no clock: whoever drives it carries out [`poll_order`](Sockets::poll_order), says what becomes
//! of each WebSocket by its number, and hands over what comes on it. What a WebSocket carries is the [`Client`]'s, which
//! knows of one only.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    adapter::{Client, Outbound},
    browser::{Wish, rules::reconnect::Reconnect},
    rng::Rng,
};

/// Between questions over HTTP. Each has more time for its answer: five at a time, where browsers have six connections to a host.
const ASK: Duration = Duration::from_millis(500);
/// How long a question over HTTP waits for its answer.
pub const REACH: Duration = Duration::from_millis(2_500);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Open a WebSocket with this number, never used before.
    Open(u64),
    /// Close it, or give up opening it. Nothing more is to be said of it.
    Close(u64),
    /// Send an HTTP GET to the same address, and say [`reached`](Sockets::reached) if anything answers within [`REACH`].
    Ask,
}

/// A WebSocket.
#[derive(Debug)]
struct One {
    number: u64,
    began: Instant,
    /// Until when the server must have answered; none when it has.
    until: Option<Instant>,
    is_open: bool,
    /// Nothing at all has been answered.
    is_silent: bool,
    /// The greeting of one that is not the client's yet, until it is sent.
    greeting: Option<Outbound>,
    /// It was greeted so.
    is_greeted: bool,
}

impl One {
    /// Whether a fresh one would be sooner there.
    fn is_stale(&self, now: Instant, client: &dyn Client) -> bool {
        let age = now.saturating_duration_since(self.began);
        !self.is_open && Reconnect::is_stale(age, client.round_trip())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Sockets {
    current: Option<One>,
    beside: Option<One>,
    opened: u64,
    reconnect: Reconnect,
    random: Rng,
    reopen: Option<Instant>,
    ask: Option<Instant>,
    beside_not_before: Option<Instant>,
    /// The server goes away: how long the return of its clients is to be spread over.
    draining: Option<Duration>,
    orders: VecDeque<Order>,
}

impl Sockets {
    /// None is wanted yet.
    pub fn new(seed: u64) -> Self {
        Self {
            current: None,
            beside: None,
            opened: 0,
            reconnect: Reconnect::default(),
            random: Rng::stream(seed, 41),
            reopen: None,
            ask: None,
            beside_not_before: None,
            draining: None,
            orders: VecDeque::new(),
        }
    }

    // ---- commands

    /// Opens one now if there is none.
    pub fn open(&mut self, now: Instant, client: &dyn Client) {
        (self.reopen, self.ask) = (None, None);
        if self.current.is_none() {
            self.current = Some(self.begin(now, client));
        }
    }

    /// None is wanted any more.
    pub fn stop(&mut self) {
        (self.reopen, self.ask) = (None, None);
        self.reconnect.reset();
        let both = [self.current.take(), self.beside.take()];
        self.orders.extend(both.into_iter().flatten().map(|one| Order::Close(one.number)));
    }

    /// Another one in place of the one in use, or of what is waited for.
    pub fn renew(&mut self, now: Instant, client: &mut dyn Client) {
        match &self.current {
            Some(one) => self.abort(now, one.number, client),
            None => self.open(now, client),
        }
    }

    /// The network is said to be back, or another: what waits, waits no longer.
    pub fn hurry(&mut self, now: Instant, client: &mut dyn Client) {
        if self.reopen.is_some() {
            return self.open(now, client);
        }
        let stale: Vec<u64> = [&self.current, &self.beside]
            .into_iter()
            .flatten()
            .filter(|one| one.is_stale(now, client))
            .map(|one| one.number)
            .collect();
        stale.into_iter().for_each(|number| self.abort(now, number, client));
        if self.reopen.is_some() {
            self.open(now, client);
        }
    }

    /// The server is shutting down: come back after a random part of `spread`.
    pub fn draining(&mut self, spread: Duration) {
        self.draining = Some(spread);
    }

    // ---- inputs

    /// A WebSocket is open.
    pub fn handle_open(&mut self, now: Instant, number: u64, client: &mut dyn Client) {
        let is_current = self.is_current(number);
        let one = if is_current { &mut self.current } else { &mut self.beside };
        let Some(one) = one.as_mut().filter(|one| one.number == number) else { return };
        (one.is_open, one.is_silent) = (true, false);
        if is_current {
            self.ask = None;
            client.handle_socket_open(now);
        } else {
            one.greeting = client.hello().map(Outbound::Text);
            one.is_greeted = true;
        }
    }

    /// A text message has arrived on it.
    pub fn handle_text(&mut self, now: Instant, number: u64, text: &str, client: &mut dyn Client) {
        if is_answer(text) {
            self.answered(now, number, client);
        } else {
            self.speaks(number);
        }
        if self.is_current(number) {
            client.handle_text(now, text);
        }
    }

    /// A binary message has arrived on it.
    pub fn handle_binary(&mut self, now: Instant, number: u64, message: Bytes, client: &mut dyn Client) {
        self.speaks(number);
        if self.is_current(number) {
            client.handle_binary(now, message);
        }
    }

    /// The server has answered on the one in use.
    pub fn welcomed(&mut self) {
        self.reconnect.reset();
        (self.ask, self.beside_not_before) = (None, None);
        self.draining = None;
        if let Some(one) = &mut self.current {
            one.until = None;
        }
    }

    /// It has ended, or could not be opened: somebody says so, it did not just fail to answer.
    pub fn handle_closed(&mut self, now: Instant, number: u64, client: &mut dyn Client) {
        for one in [&mut self.current, &mut self.beside].into_iter().flatten() {
            one.is_silent &= one.number != number;
        }
        self.closed(now, number, client);
    }

    /// A question over HTTP was answered.
    pub fn reached(&mut self, now: Instant, client: &mut dyn Client) {
        if self.ask.is_none() {
            return;
        }
        let opening = if self.is_open() { &self.beside } else { &self.current };
        if let Some(one) = opening {
            if !one.is_stale(now, client) {
                return;
            }
            let number = one.number;
            self.abort(now, number, client);
        }
        self.reconnect.found();
        (self.ask, self.beside_not_before) = (None, None);
        match self.current {
            Some(_) => self.open_beside(now, client),
            None => self.open(now, client),
        }
        if self.reconnect.asks_on() {
            self.ask = Some(now + ASK);
        }
    }

    /// Time has passed, or the client has done something: what is due is done, and what it wishes.
    pub fn handle_timeout(&mut self, now: Instant, client: &mut dyn Client) {
        let is_late = |one: &&One| one.until.is_some_and(|until| until <= now);
        let late: Vec<u64> = [&self.current, &self.beside]
            .into_iter()
            .flatten()
            .filter(is_late)
            .map(|one| one.number)
            .collect();
        late.into_iter().for_each(|number| self.abort(now, number, client));
        if self.reopen.take_if(|at| *at <= now).is_some() && self.current.is_none() {
            // The questions go on: what is sent into silence is repeated by TCP, later and later.
            self.current = Some(self.begin(now, client));
        }
        if self.ask.is_some_and(|at| at <= now) {
            self.ask_for_network(now);
        }
        while let Some(wish) = client.poll_wish() {
            match wish {
                Wish::Renew => self.renew_if_welcomed(now, client),
                Wish::Beside => self.open_beside(now, client),
                Wish::Hurry => self.hurry(now, client),
            }
        }
    }

    // ---- outputs

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let until = [&self.current, &self.beside].into_iter().flatten().filter_map(|one| one.until).min();
        [until, self.reopen, self.ask].into_iter().flatten().min()
    }

    /// What to do next.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// The next message for a WebSocket. Ask only as long as it can take it.
    pub fn poll_socket(&mut self, number: u64, client: &mut dyn Client) -> Option<Outbound> {
        let one =
            [&mut self.current, &mut self.beside].into_iter().flatten().find(|one| one.number == number)?;
        let is_greeted = one.is_greeted;
        one.greeting.take().or_else(|| {
            // What is not welcomed yet is not the client's.
            (self.is_current(number) && !is_greeted).then(|| client.poll_socket())?
        })
    }

    /// Whether this is the one in use, or that is to be.
    pub fn is_current(&self, number: u64) -> bool {
        self.current.as_ref().is_some_and(|one| one.number == number)
    }

    /// Whether there is one, or one on its way.
    pub fn is_up(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the one in use is open.
    pub fn is_open(&self) -> bool {
        self.current.as_ref().is_some_and(|one| one.is_open)
    }

    /// Whether the server has answered on it.
    pub fn is_welcomed(&self) -> bool {
        self.current.as_ref().is_some_and(|one| one.is_open && one.until.is_none())
    }

    // ---- what follows

    fn begin(&mut self, now: Instant, client: &dyn Client) -> One {
        self.opened += 1;
        let number = self.opened;
        self.orders.push_back(Order::Open(number));
        let until = Some(now + self.reconnect.patience(now, client.round_trip()));
        One { number, began: now, until, is_open: false, is_silent: true, greeting: None, is_greeted: false }
    }

    fn open_beside(&mut self, now: Instant, client: &dyn Client) {
        let is_early = self.beside_not_before.is_some_and(|at| now < at);
        if self.current.is_some() && self.beside.is_none() && !is_early && client.hello().is_some() {
            self.ask = None;
            self.beside = Some(self.begin(now, client));
        }
    }

    /// The one in use is silent: not one that is still to answer.
    fn renew_if_welcomed(&mut self, now: Instant, client: &mut dyn Client) {
        if self.is_welcomed() {
            self.renew(now, client);
        }
    }

    fn answered(&mut self, now: Instant, number: u64, client: &mut dyn Client) {
        let is_beside = self.beside.as_ref().is_some_and(|one| one.number == number);
        if is_beside && let Some(old) = std::mem::replace(&mut self.current, self.beside.take()) {
            self.orders.push_back(Order::Close(old.number));
        }
        self.welcomed();
        // Greeted on the client's behalf: from here on it is the client's own.
        if let Some(one) = &mut self.current
            && one.number == number
            && std::mem::take(&mut one.is_greeted)
        {
            client.handle_socket_replaced(now);
        }
    }

    /// The second one is not needed, if it has not taken over at the server yet.
    fn speaks(&mut self, number: u64) {
        if self.is_current(number) {
            self.ask = None;
            if let Some(beside) = self.beside.take_if(|one| !one.is_open) {
                self.orders.push_back(Order::Close(beside.number));
            }
        }
    }

    fn abort(&mut self, now: Instant, number: u64, client: &mut dyn Client) {
        self.orders.push_back(Order::Close(number));
        self.closed(now, number, client);
    }

    fn closed(&mut self, now: Instant, number: u64, client: &mut dyn Client) {
        let random = self.random.unit();
        if let Some(beside) = self.beside.take_if(|one| one.number == number) {
            let wait = self.reconnect.failed(now, beside.began, beside.is_silent, random);
            self.beside_not_before = Some(now + wait);
            return self.ask_if(now, beside.is_silent);
        }
        let Some(old) = self.current.take_if(|one| one.number == number) else { return };
        self.current = self.beside.take();
        client.handle_socket_closed(now);
        if self.current.is_some() {
            return;
        }
        if let Some(spread) = self.draining.take() {
            (self.reopen, self.ask) = (Some(now + spread.mul_f64(random)), None);
            return;
        }
        let wait = self.reconnect.failed(now, old.began, old.is_silent, random);
        self.reopen = Some(now + wait);
        self.ask_if(now, old.is_silent);
    }

    /// Who is refused although HTTP is answered need not ask on.
    fn ask_if(&mut self, now: Instant, is_silent: bool) {
        self.ask = None;
        if self.reconnect.asks(now, is_silent) {
            self.ask_for_network(now);
        }
    }

    fn ask_for_network(&mut self, now: Instant) {
        self.ask = Some(now + ASK);
        self.orders.push_back(Order::Ask);
    }
}

/// Whether the server has answered the greeting, if only with the news that the session is gone.
fn is_answer(text: &str) -> bool {
    let is = |message: serde_json::Value| {
        message["type"] == "welcome" || (message["type"] == "error" && message["code"] == "unknown_session")
    };
    ["\"welcome\"", "\"unknown_session\""].iter().any(|word| text.contains(word))
        && serde_json::from_str(text).is_ok_and(is)
}

#[cfg(test)]
mod tests;
