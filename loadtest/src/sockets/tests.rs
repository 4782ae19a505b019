//! A page's WebSockets, with a client that has a session and says what it is given.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::browser::{Event, Outgoing, Pipe, RoomLog, SendError};

const WELCOME: &str = r#"{"type":"welcome"}"#;

/// What it was told, in words.
#[derive(Default)]
struct Told {
    said: Vec<String>,
    wishes: VecDeque<Wish>,
    rtt: Option<Duration>,
}

impl Client for Told {
    fn join(&mut self, _: Instant, _: &str, _: &str, _: Option<RoomLog>) -> u32 {
        0
    }
    fn join_again(&mut self, _: Instant, _: &str, _: &str) -> u32 {
        0
    }
    fn send(&mut self, _: Instant, _: Outgoing) -> Result<(), SendError> {
        Ok(())
    }
    fn set_stalled(&mut self, _: Instant, _: bool) {}
    fn handle_socket_open(&mut self, _: Instant) {
        self.said.push("open".to_owned());
    }
    fn handle_socket_closed(&mut self, _: Instant) {
        self.said.push("closed".to_owned());
    }
    fn handle_socket_replaced(&mut self, _: Instant) {
        self.said.push("replaced".to_owned());
    }
    fn hello(&self) -> Option<String> {
        Some("hello".to_owned())
    }
    fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }
    fn round_trip(&self) -> Option<Duration> {
        self.rtt
    }
    fn handle_text(&mut self, _: Instant, text: &str) {
        self.said.push(text.to_owned());
    }
    fn handle_binary(&mut self, _: Instant, _: Bytes) {
        self.said.push("binary".to_owned());
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    fn poll_socket(&mut self) -> Option<Outbound> {
        Some(Outbound::Text("frame".to_owned()))
    }
    fn poll_event(&mut self) -> Option<Event> {
        None
    }
    fn take_logs(&mut self) -> BTreeMap<String, RoomLog> {
        BTreeMap::new()
    }
    fn reads_socket(&self) -> bool {
        true
    }
    fn has_session(&self) -> bool {
        true
    }
    fn attached(&self) -> Option<Pipe> {
        None
    }
    fn last_heard(&self) -> Instant {
        Instant::now()
    }
    fn heard(&self, _: Pipe) -> Instant {
        Instant::now()
    }
    fn held_bytes(&self) -> usize {
        0
    }
}

struct Page {
    sockets: Sockets,
    client: Told,
    now: Instant,
}

impl Page {
    /// One whose first WebSocket is welcomed, 25 ms from its server.
    fn welcomed() -> Self {
        let mut page = Self::opening();
        page.sockets.handle_open(page.now, 1, &mut page.client);
        page.sockets.handle_text(page.now, 1, WELCOME, &mut page.client);
        page.client.said.clear();
        page
    }

    fn opening() -> Self {
        let client = Told { rtt: Some(Duration::from_millis(25)), ..Told::default() };
        let mut page = Self { sockets: Sockets::new(1), client, now: Instant::now() };
        page.sockets.open(page.now, &page.client);
        assert_eq!(page.orders(), [Order::Open(1)]);
        page
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.sockets.poll_order()).collect()
    }

    fn wish(&mut self, wish: Wish) {
        self.client.wishes.push_back(wish);
        self.sockets.handle_timeout(self.now, &mut self.client);
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.sockets.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.sockets.handle_timeout(self.now, &mut self.client);
        }
        self.now = end;
    }
}

#[test]
fn a_second_one_takes_over_when_the_server_answers_on_it() {
    let mut page = Page::welcomed();
    page.wish(Wish::Beside);
    assert_eq!(page.orders(), [Order::Open(2)]);
    page.sockets.handle_open(page.now, 2, &mut page.client);
    let next = |page: &mut Page, number| page.sockets.poll_socket(number, &mut page.client);
    assert_eq!(next(&mut page, 2), Some(Outbound::Text("hello".to_owned())));
    assert_eq!(next(&mut page, 2), None, "the client's frames go over the first one");
    assert!(next(&mut page, 1).is_some());
    page.sockets.handle_text(page.now, 2, WELCOME, &mut page.client);
    assert_eq!(
        (page.orders(), page.client.said.join(" ")),
        (vec![Order::Close(1)], format!("replaced {WELCOME}"))
    );
    assert!(page.sockets.is_current(2) && page.sockets.is_welcomed() && next(&mut page, 2).is_some());
    // What the first one still says is nobody's.
    page.sockets.handle_binary(page.now, 1, Bytes::new(), &mut page.client);
    page.sockets.handle_closed(page.now, 1, &mut page.client);
    assert_eq!(page.client.said.len(), 2);
}

#[test]
fn a_second_one_is_given_up_when_the_first_speaks() {
    let mut page = Page::welcomed();
    page.wish(Wish::Beside);
    page.wish(Wish::Beside);
    assert_eq!(page.orders(), [Order::Open(2)]);
    page.sockets.handle_binary(page.now, 1, Bytes::new(), &mut page.client);
    assert_eq!((page.orders(), page.client.said.join(" ")), (vec![Order::Close(2)], "binary".to_owned()));
}

#[test]
fn while_nothing_answers_the_network_is_asked_for() {
    let mut page = Page::opening();
    page.pass(Duration::from_millis(2_099));
    assert_eq!(page.orders(), []);
    page.pass(Duration::from_millis(1));
    assert_eq!(page.orders(), [Order::Close(1), Order::Ask]);
    page.pass(2 * ASK);
    assert_eq!(page.orders(), [Order::Ask, Order::Ask]);
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [Order::Open(2)]);
    page.sockets.handle_open(page.now, 2, &mut page.client);
    page.pass(Duration::from_secs(1));
    assert_eq!(page.orders(), [], "no more questions");
}

#[test]
fn one_that_hangs_although_the_network_is_back_is_made_anew_a_few_times() {
    let mut page = Page::opening();
    page.pass(Duration::from_millis(2_100));
    page.orders();
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [Order::Open(2)]);
    for number in 2..5 {
        page.pass(ASK);
        assert_eq!(page.orders(), [Order::Ask]);
        page.sockets.reached(page.now, &mut page.client);
        assert_eq!(page.orders(), [], "it may be on its way");
        page.pass(ASK);
        page.orders();
        page.sockets.reached(page.now, &mut page.client);
        assert_eq!(page.orders(), [Order::Close(number), Order::Ask, Order::Open(number + 1)]);
    }
    page.pass(Duration::from_secs(1));
    assert_eq!(page.orders(), [], "something else answers there");
}

#[test]
fn so_is_one_that_hangs_beside_one_that_is_silent() {
    let mut page = Page::welcomed();
    page.wish(Wish::Beside);
    assert_eq!(page.orders(), [Order::Open(2)]);
    page.pass(Duration::from_millis(2_100));
    assert_eq!(page.orders(), [Order::Close(2), Order::Ask]);
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [Order::Open(3)]);
    page.pass(2 * ASK);
    page.orders();
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [Order::Close(3), Order::Ask, Order::Open(4)]);
    page.sockets.handle_open(page.now, 4, &mut page.client);
    page.sockets.handle_text(page.now, 4, WELCOME, &mut page.client);
    page.pass(Duration::from_secs(1));
    assert_eq!(page.orders(), [Order::Close(1)], "no more questions");
}

#[test]
fn one_that_is_refused_is_opened_again_soon_and_without_questions() {
    let mut page = Page::welcomed();
    page.sockets.handle_closed(page.now, 1, &mut page.client);
    assert_eq!(page.client.said, ["closed"]);
    page.pass(Duration::from_millis(200));
    assert_eq!(page.orders(), [Order::Open(2)]);
}

#[test]
fn another_network_ends_all_waiting_and_a_silent_one_is_replaced() {
    let mut page = Page::opening();
    page.pass(Duration::from_millis(1_500));
    page.wish(Wish::Hurry);
    assert_eq!(page.orders(), [Order::Close(1), Order::Ask, Order::Open(2)]);
    // One that is still to answer is not silent.
    page.wish(Wish::Renew);
    assert_eq!(page.orders(), []);
    page.sockets.handle_open(page.now, 2, &mut page.client);
    page.sockets.handle_text(page.now, 2, WELCOME, &mut page.client);
    page.wish(Wish::Renew);
    assert_eq!(page.orders(), [Order::Close(2)]);
    page.pass(Duration::from_millis(200));
    assert_eq!(page.orders(), [Order::Open(3)]);
}

#[test]
fn an_attempt_that_hangs_is_made_anew_when_the_network_is_found_back() {
    let mut page = Page::opening();
    // The first is given up after 2.1 s; the second begins 4 to 6 s later.
    while !page.orders().contains(&Order::Open(2)) {
        page.pass(Duration::from_millis(100));
    }
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [], "it may be on its way");
    page.pass(ASK + Duration::from_millis(1));
    assert!(page.orders().contains(&Order::Ask), "the questions go on");
    page.sockets.reached(page.now, &mut page.client);
    assert_eq!(page.orders(), [Order::Close(2), Order::Ask, Order::Open(3)]);
    page.sockets.handle_open(page.now, 3, &mut page.client);
    page.pass(Duration::from_secs(1));
    assert_eq!(page.orders(), [], "no more questions");
}
