//! Resume tickets of one session (ACL1): who shows a valid one in `hello` owns the session.
//!
//! A ticket is short-lived and good until its successor is known to have arrived. The successor goes over the session's
//! reliable lane, whatever pipe that is on: when a WebSocket has resumed the session, and when half a ticket's life is
//! over. The acknowledgement of its frame is the client's confirmation of the attach, and consumes what was before. A
//! client whose answer was lost may so try again with the ticket that it has, and a ticket that somebody else has read
//! is worth nothing soon.
//!
//! A ticket is a number and a proof of it, so that a consumed one is told from an invented one without keeping any.

use std::time::{Duration, Instant};

use ring::hmac;

/// Bytes of the proof.
const PROOF_BYTES: usize = 16;
/// A client that finds no room in its lane is offered the ticket again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The tickets of a session: the one that the client has, and its successor while that is on its way.
#[derive(Debug)]
pub struct Tickets {
    key: hmac::Key,
    life: Duration,
    held: Issued,
    successor: Option<Successor>,
    /// When a successor is due.
    renew_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    number: u32,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Successor {
    issued: Issued,
    /// The lane's frame that carries it.
    lane_seq: u32,
}

/// What a shown ticket is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It opens the session.
    Valid,
    /// A later one has taken its place.
    Used,
    /// It was not shown in time.
    Expired,
    /// It is not of this session.
    Unknown,
}

impl Tickets {
    /// The first ticket is issued now. `secret` must not be guessable.
    pub fn new(secret: &[u8], life: Duration, now: Instant) -> Self {
        let held = Issued { number: 1, until: now + life };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self { key, life, held, successor: None, renew_at: now + life / 2 }
    }

    /// The first ticket.
    pub fn first(&self) -> String {
        self.wire(1)
    }

    /// The next ticket, to be sent; `None` while one is on its way.
    pub fn next(&self) -> Option<String> {
        self.successor.is_none().then(|| self.wire(self.held.number.wrapping_add(1)))
    }

    /// The next ticket is in the lane, in this frame.
    pub fn sent(&mut self, lane_seq: u32, now: Instant) {
        let issued = Issued { number: self.held.number.wrapping_add(1), until: now + self.life };
        self.successor = Some(Successor { issued, lane_seq });
    }

    /// The lane had no room for it.
    pub fn put_off(&mut self, now: Instant) {
        self.renew_at = now + RETRY;
    }

    /// The client has everything up to this frame of the lane.
    pub fn acknowledged(&mut self, lane_seq: u32) {
        if let Some(successor) = self.successor
            && lane_seq.wrapping_sub(successor.lane_seq) < 1 << 31
        {
            self.consume(successor);
        }
    }

    /// When a successor is due, if none is on its way.
    pub fn renew_at(&self) -> Option<Instant> {
        self.successor.is_none().then_some(self.renew_at)
    }

    /// A client shows a ticket.
    pub fn show(&mut self, ticket: &str, now: Instant) -> Shown {
        let Some(number) = self.read(ticket) else { return Shown::Unknown };
        let until = match self.successor {
            _ if number == self.held.number => self.held.until,
            Some(successor) if number == successor.issued.number => {
                self.consume(successor);
                self.held.until
            }
            // No other has a proof but those that were issued before.
            _ => return Shown::Used,
        };
        if until <= now { Shown::Expired } else { Shown::Valid }
    }

    /// The client has the successor: what was before is worth nothing now.
    fn consume(&mut self, successor: Successor) {
        self.held = successor.issued;
        self.renew_at = self.held.until - self.life / 2;
        self.successor = None;
    }

    fn wire(&self, number: u32) -> String {
        let tag = hmac::sign(&self.key, &number.to_be_bytes());
        let proof = &tag.as_ref()[..PROOF_BYTES];
        proof.iter().fold(format!("{number:x}."), |wire, byte| wire + &format!("{byte:02x}"))
    }

    fn read(&self, ticket: &str) -> Option<u32> {
        let (number, _) = ticket.split_once('.')?;
        let number = u32::from_str_radix(number, 16).ok()?;
        let genuine = self.wire(number);
        rtc::crypto::constant_time_eq(genuine.as_bytes(), ticket.as_bytes()).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(120);

    fn tickets(now: Instant) -> Tickets {
        Tickets::new(b"secret", LIFE, now)
    }

    #[test]
    fn a_ticket_is_good_until_its_successor_has_arrived() {
        let now = Instant::now();
        let mut tickets = tickets(now);
        let first = tickets.first();
        assert_eq!(tickets.show(&first, now), Shown::Valid);
        assert_eq!(tickets.show(&first, now), Shown::Valid, "nothing was confirmed");
        let second = tickets.next().unwrap();
        tickets.sent(7, now);
        assert_eq!(tickets.next(), None, "one at a time");
        tickets.acknowledged(6);
        assert_eq!(tickets.show(&first, now), Shown::Valid, "the successor is on its way");
        tickets.acknowledged(7);
        assert_eq!(tickets.show(&first, now), Shown::Used);
        assert_eq!(tickets.show(&second, now), Shown::Valid);
    }

    #[test]
    fn who_shows_the_successor_has_it() {
        let now = Instant::now();
        let mut tickets = tickets(now);
        let (first, second) = (tickets.first(), tickets.next().unwrap());
        tickets.sent(u32::MAX, now);
        assert_eq!(tickets.show(&second, now), Shown::Valid);
        assert_eq!(tickets.show(&first, now), Shown::Used);
        let third = tickets.next().unwrap();
        tickets.sent(1, now);
        tickets.acknowledged(u32::MAX);
        assert_eq!(tickets.show(&second, now), Shown::Valid, "numbers of the lane wrap");
        tickets.acknowledged(3);
        assert_eq!(tickets.show(&second, now), Shown::Used);
        assert_eq!(tickets.show(&third, now), Shown::Valid);
    }

    #[test]
    fn a_ticket_has_an_end_and_is_renewed_before_it() {
        let start = Instant::now();
        let mut tickets = tickets(start);
        let first = tickets.first();
        assert_eq!(tickets.renew_at(), Some(start + LIFE / 2));
        assert_eq!(tickets.show(&first, start + LIFE - Duration::from_millis(1)), Shown::Valid);
        assert_eq!(tickets.show(&first, start + LIFE), Shown::Expired);
        let (half, second) = (start + LIFE / 2, tickets.next().unwrap());
        tickets.sent(1, half);
        assert_eq!(tickets.renew_at(), None);
        tickets.acknowledged(1);
        assert_eq!(tickets.renew_at(), Some(half + LIFE / 2));
        assert_eq!(tickets.show(&second, start + LIFE), Shown::Valid);
        assert_eq!(tickets.show(&first, start + LIFE), Shown::Used, "that is what is wrong with it");
    }

    #[test]
    fn what_was_not_issued_is_unknown() {
        let now = Instant::now();
        let mut mine = tickets(now);
        let mut foreign = Tickets::new(b"another", LIFE, now);
        assert_eq!(mine.show(&foreign.first(), now), Shown::Unknown);
        assert_eq!(foreign.show(&foreign.first(), now), Shown::Valid);
        let first = mine.first();
        for wrong in [
            "",
            ".",
            "1",
            "1.",
            "x.00",
            &first[..first.len() - 1],
            &first.replace("1.", "01."),
            &format!("{first} "),
        ] {
            assert_eq!(mine.show(wrong, now), Shown::Unknown, "{wrong:?}");
        }
        assert_eq!(
            mine.show(&first.replacen('1', "2", 1), now),
            Shown::Unknown,
            "a number with another's proof"
        );
    }
}
