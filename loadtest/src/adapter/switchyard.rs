//! This project's own server: its protocol, with everything that the simulated browser does.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use switchyard_signaling::event::Content;

use super::{Adapter, Client, Door, Outbound};
use crate::{
    browser::{Browser, BrowserConfig, Event, Outgoing, Pipe, RoomLog, SendError, Wish},
    netsim::Datagram,
};

pub(super) static ADAPTER: Adapter = Adapter {
    name: "switchyard",
    about: "this project's own protocol",
    is_switchyard: true,
    door: |_| Door { path: "/v1/connect".to_owned(), subprotocol: Some("switchyard.v1") },
    client: |now, address| Box::new(Browser::new(now, BrowserConfig { address, ..BrowserConfig::default() })),
};

/// Each is the browser's own method of that name, unless it says otherwise.
impl Client for Browser {
    fn join(&mut self, now: Instant, room: &str, token: &str, log: Option<RoomLog>) -> u32 {
        match log {
            Some(log) => self.join_log(now, room, token, log),
            None => self.join(now, room, token),
        }
    }

    fn join_again(&mut self, now: Instant, room: &str, token: &str) -> u32 {
        self.join_again(now, room, token)
    }

    fn send(&mut self, now: Instant, message: Outgoing) -> Result<(), SendError> {
        self.send(now, message)
    }

    fn submit(&mut self, now: Instant, room: &str, nonce: u32, content: Content) -> Option<()> {
        self.log(now, room, |log| log.submit(nonce, content))
    }

    fn set_stalled(&mut self, now: Instant, stalled: bool) {
        self.set_stalled(now, stalled);
    }

    fn handle_network_change(&mut self, now: Instant, address: SocketAddr) {
        self.handle_network_change(now, address);
    }

    fn begin_anew(&mut self, now: Instant) -> Option<BTreeMap<String, RoomLog>> {
        Some(self.begin_anew(now))
    }

    fn bye(&mut self) -> bool {
        self.bye();
        true
    }

    fn take_logs(&mut self) -> BTreeMap<String, RoomLog> {
        self.take_logs()
    }

    fn handle_socket_open(&mut self, now: Instant) {
        self.handle_socket_open(now);
    }

    fn handle_socket_closed(&mut self, now: Instant) {
        self.handle_socket_closed(now);
    }

    fn handle_socket_replaced(&mut self, now: Instant) {
        self.handle_socket_replaced(now);
    }

    fn handle_text(&mut self, now: Instant, text: &str) {
        self.handle_text(now, text);
    }

    fn handle_binary(&mut self, now: Instant, message: Bytes) {
        self.handle_binary(now, message);
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        self.handle_datagram(now, from, payload);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }

    /// A session has a second WebSocket where the first is silent.
    fn hello(&self) -> Option<String> {
        self.has_session().then(|| self.hello())
    }

    fn poll_wish(&mut self) -> Option<Wish> {
        self.poll_wish()
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn poll_datagram(&mut self) -> Option<Datagram> {
        self.poll_datagram()
    }

    fn poll_socket(&mut self) -> Option<Outbound> {
        self.poll_socket().map(Outbound::from)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.poll_event()
    }

    fn round_trip(&self) -> Option<Duration> {
        self.smoothed_round_trip()
    }

    fn reads_socket(&self) -> bool {
        self.reads_socket()
    }

    fn has_session(&self) -> bool {
        self.has_session()
    }

    fn attached(&self) -> Option<Pipe> {
        self.attached()
    }

    fn last_heard(&self) -> Instant {
        self.last_frames()
    }

    fn heard(&self, pipe: Pipe) -> Instant {
        self.heard(pipe)
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes()
    }

    fn lossy_dropped(&self) -> u64 {
        self.lossy_dropped()
    }

    fn unanswered(&self, room: &str) -> usize {
        self.room_log(room).map_or(0, RoomLog::unanswered)
    }
}
