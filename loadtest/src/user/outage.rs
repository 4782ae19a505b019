//! When frames cannot go, and when they go again: what recovery takes, by what was lost.

use std::time::{Duration, Instant};

use crate::{
    account::{Cause, Outage, Record},
    adapter::Client,
    browser::Pipe,
};

/// A way that had been silent for longer than its probes are apart was lost when it fell silent, not when that was noticed.
const SILENT: Duration = Duration::from_millis(2_500);

/// The way that frames go.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// As last seen.
    used: Option<Pipe>,
    outage: Option<Lost>,
    /// The last one that was there.
    before: Option<Pipe>,
}

#[derive(Debug)]
struct Lost {
    outage: Outage,
    /// It ends with being in a room again.
    needs_join: bool,
    /// It ends with any frame that comes after this over the same data channel.
    heard_after: Option<Duration>,
}

impl Ways {
    /// The device's address is another one: its data channel has to show that it still works.
    pub(super) fn changed(&mut self, at: Duration, record: &mut Record) {
        if self.used == Some(Pipe::Channel) && self.outage.is_none() {
            self.lose(Cause::Channel, at, record);
            if let Some(lost) = &mut self.outage {
                lost.heard_after = Some(at);
            }
        }
    }

    /// Frames go over this pipe; a frame has just come over it.
    pub(super) fn attached(&mut self, at: Duration, pipe: Pipe, record: &mut Record) {
        if self.before.is_some_and(|before| before != pipe) {
            record.rung_changes += 1;
        }
        (self.used, self.before) = (Some(pipe), Some(pipe));
        if self.outage.as_ref().is_some_and(|lost| !lost.needs_join) {
            self.recover(at, record);
        }
    }

    /// The user is in its room, as a frame says.
    pub(super) fn joined(&mut self, at: Duration, record: &mut Record) {
        self.recover(at, record);
    }

    pub(super) fn session_lost(&mut self, at: Duration, record: &mut Record) {
        if self.outage.is_none() {
            self.lose(Cause::Session, at, record);
        }
        if let Some(lost) = &mut self.outage {
            lost.outage.cause = Cause::Session;
            (lost.needs_join, lost.heard_after) = (true, None);
            record.outage = Some(lost.outage);
        }
        self.used = None;
    }

    /// Sees what has become of the way.
    pub(super) fn look(&mut self, at: Duration, client: &dyn Client, epoch: Instant, record: &mut Record) {
        let since = |pipe| client.heard(pipe).saturating_duration_since(epoch);
        if let Some(pipe) = self.used
            && client.attached().is_none()
        {
            self.used = None;
            let cause = if pipe == Pipe::Channel { Cause::Channel } else { Cause::Socket };
            let heard = since(pipe);
            match &mut self.outage {
                Some(lost) => lost.heard_after = None,
                None => self.lose(cause, if at > heard + SILENT { heard } else { at }, record),
            }
        }
        let after = self.outage.as_ref().and_then(|lost| lost.heard_after);
        if after.is_some_and(|after| since(Pipe::Channel) > after) {
            self.recover(at, record);
        }
    }

    fn lose(&mut self, cause: Cause, since: Duration, record: &mut Record) {
        let outage = Outage { cause, since };
        self.outage = Some(Lost { outage, needs_join: false, heard_after: None });
        record.outage = Some(outage);
    }

    fn recover(&mut self, at: Duration, record: &mut Record) {
        if let Some(Lost { outage, .. }) = self.outage.take() {
            record.recoveries.push((outage.cause, at.saturating_sub(outage.since)));
            record.outage = None;
        }
    }
}
