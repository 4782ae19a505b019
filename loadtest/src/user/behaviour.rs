//! The shape of everything that a user can do. Another behaviour is a file beside this one, a variant of
//! [`Does`] and a line in [`of`].

use std::time::{Duration, Instant};

use super::{data::DataSender, messages::Writing, plan::Does, stall::Stalling};
use crate::{
    account::{Record, Window},
    adapter::Client,
    browser::Event,
    rng::Rng,
};

/// The behaviour that a plan asks for.
pub(super) fn of(does: &Does, rng: Rng) -> Box<dyn Behaviour> {
    match does {
        Does::Data(data) => Box::new(DataSender::new(*data, rng)),
        Does::Messages(messages) => Box::new(Writing::new(*messages, rng)),
        Does::Stall(stall) => Box::new(Stalling::new(*stall)),
    }
}

/// Something that a user does. Everything but `act` and `poll_timeout` may be left out.
pub(super) trait Behaviour: Send {
    /// The user exists; it has not come yet.
    fn begin(&mut self, _context: &mut Context<'_>) {}

    /// The user is in its room: for the first time, or in another session.
    fn joined(&mut self, _context: &mut Context<'_>) {}

    /// Its membership is over; the client is still that of before.
    fn parted(&mut self, _context: &mut Context<'_>) {}

    /// Something has happened, other than that a data message came.
    fn event(&mut self, _context: &mut Context<'_>, _event: &Event) {}

    /// Does what is due. Called after everything that happens.
    fn act(&mut self, context: &mut Context<'_>);

    /// When [`act`](Self::act) has something to do.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The user is leaving: nothing new is begun.
    fn leave(&mut self, _context: &mut Context<'_>) {}

    /// Whether a user that is leaving need not wait for it.
    fn is_idle(&mut self, _context: &mut Context<'_>) -> bool {
        true
    }

    /// The user is gone: what is to be in its record is put there.
    fn end(&mut self, _context: &mut Context<'_>) {}
}

/// What a behaviour acts on.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    /// The beginning of the run.
    pub(super) epoch: Instant,
    /// The user's number.
    pub(super) number: u32,
    /// The room's name.
    pub(super) room: &'a str,
    /// Its handle, as long as the user is in it.
    pub(super) handle: Option<u16>,
    pub(super) client: &'a mut dyn Client,
    pub(super) record: &'a mut Record,
    pub(super) window: &'a mut Window,
}

impl Context<'_> {
    /// Since the run began.
    pub(super) fn at(&self) -> Duration {
        self.now.saturating_duration_since(self.epoch)
    }

    /// Something went wrong.
    pub(super) fn error(&mut self, cause: String) {
        self.window.errors += 1;
        self.record.error(cause);
    }
}
