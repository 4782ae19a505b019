//! Reads nothing for a while, as a page in a busy tab does.

use std::time::Instant;

use super::{
    behaviour::{Behaviour, Context},
    plan::Stall,
};

pub(super) struct Stalling {
    stall: Stall,
    /// When the next one begins, or that which is on began; none when it is over for good.
    begins: Option<Instant>,
    is_stalled: bool,
}

impl Stalling {
    pub(super) fn new(stall: Stall) -> Self {
        Self { stall, begins: Some(stall.at), is_stalled: false }
    }

    fn set(&mut self, context: &mut Context<'_>, is_stalled: bool) {
        if self.is_stalled != is_stalled {
            self.is_stalled = is_stalled;
            context.client.set_stalled(context.now, is_stalled);
        }
    }
}

impl Behaviour for Stalling {
    fn begin(&mut self, context: &mut Context<'_>) {
        context.record.is_stalling = true;
    }

    fn parted(&mut self, context: &mut Context<'_>) {
        // The next client is another page.
        self.set(context, false);
    }

    fn act(&mut self, context: &mut Context<'_>) {
        let Some(begins) = self.begins else { return };
        if begins + self.stall.length <= context.now {
            self.set(context, false);
            self.begins = self.stall.every.map(|every| begins + every.max(self.stall.length));
        } else if begins <= context.now {
            self.set(context, true);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.begins.map(|begins| if self.is_stalled { begins + self.stall.length } else { begins })
    }

    fn leave(&mut self, context: &mut Context<'_>) {
        self.begins = None;
        self.set(context, false);
    }
}
