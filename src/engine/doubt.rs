//! When the server doubts a session's data channel, and what follows from that (section 3.2 of `docs/protocol.md`, LAD3): the
//! client is asked over the WebSocket whether it hears anything, and is sent there, too, what it has not acknowledged. The
//! client may doubt the channel itself and ask for that.
//!
//! Pure: it knows when something was sent, heard and asked, and neither pipes nor frames.

use std::time::{Duration, Instant};

use switchyard_signaling::lateness::Lateness;

/// A data channel on which nothing has come for this and a quarter of a round trip while frames wait for acknowledgement is
/// doubted, and again as often; after more where answers are often later. SCTP may leave a single packet without an answer
/// for 200 ms (RFC 9260, section 6.2).
pub(super) const PATIENCE: Duration = Duration::from_millis(250);
/// The same where it has sent several since: of them, every second one is answered at once.
pub(super) const PATIENCE_SEVERAL: Duration = Duration::from_millis(100);
pub(super) const SEVERAL: usize = 3;
/// What the round trip counts in that: it is measured where packets are repeated, too.
pub(super) const RTT_MOST: Duration = Duration::from_millis(500);
/// So long after a client has said that it doubts the data channel it is sent copies.
pub(super) const REQUESTED: Duration = Duration::from_millis(500);

/// What a session knows of its data channel's silence.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// When the client was last asked.
    asked: Option<Instant>,
    /// When the client last said that it hears nothing on the data channel.
    requested: Option<Instant>,
    /// Since when copies of what is not acknowledged go over the WebSocket.
    copies_since: Option<Instant>,
    /// When the data channel's last messages were sent, the oldest first.
    sends: [Option<Instant>; SEVERAL],
    /// When something last came over the data channel.
    heard: Option<Instant>,
    lateness: Lateness,
}

impl Doubt {
    /// A message goes out over the data channel.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sends.rotate_left(1);
        self.sends[SEVERAL - 1] = Some(now);
    }

    /// The last packet of the data channel was `heard` then. Frames may have been waiting for acknowledgement.
    pub(super) fn heard(&mut self, waiting_since: Option<Instant>, heard: Instant, rtt: Option<Duration>) {
        let before = self.heard.replace(heard).filter(|before| *before < heard);
        if let (Some(before), Some(since)) = (before, waiting_since) {
            self.lateness.came(expected(since, before, rtt), heard);
        }
    }

    /// When the client is to be asked, if no packet comes over the data channel: the last one was `heard` then, and frames
    /// have been waiting for acknowledgement since `waiting_since`.
    pub(super) fn due(&self, waiting_since: Instant, heard: Instant, rtt: Option<Duration>) -> Instant {
        let patience =
            if self.sends[0].is_some_and(|sent| sent > heard) { PATIENCE_SEVERAL } else { PATIENCE };
        let from = expected(waiting_since, heard, rtt) + patience.max(self.lateness.bound());
        self.asked.map_or(from, |asked| from.max(asked + PATIENCE))
    }

    /// The client is asked. Returns whether copies begin with that, from the oldest frame on.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        self.asked = Some(now);
        self.begin(now)
    }

    /// The client says that it doubts the data channel. Returns the same.
    pub(super) fn request(&mut self, now: Instant) -> bool {
        self.requested = Some(now);
        self.begin(now)
    }

    fn begin(&mut self, now: Instant) -> bool {
        let begins = self.copies_since.is_none();
        self.copies_since.get_or_insert(now);
        begins
    }

    /// Whether frames are to be copied: the client wants that, or nothing has come over the data channel since the doubt.
    pub(super) fn goes_on(&mut self, heard: Instant, now: Instant) -> bool {
        let is_requested = self.requested.is_some_and(|requested| now < requested + REQUESTED);
        self.copies_since = self.copies_since.filter(|&since| is_requested || heard < since);
        self.copies_since.is_some()
    }

    /// What has been copied is void, or needed no more.
    pub(super) fn end(&mut self) {
        self.copies_since = None;
    }
}

/// When an answer comes if nothing is late: the first takes a round trip; those of a stream follow one another as it does,
/// however long the path.
fn expected(waiting_since: Instant, heard: Instant, rtt: Option<Duration>) -> Instant {
    let rtt = rtt.unwrap_or_default().min(RTT_MOST);
    (waiting_since + rtt + rtt / 4).max(heard + rtt / 4)
}
