//! Every message accounted for, from its sender to each receiver, and what that says about a run.
//!
//! - [`Stamp`]: what a message says about itself, so that any change to it is noticed;
//! - [`Record`]: what one user did and saw; [`Window`]: the same since the last look, for the live view;
//! - [`Ledger`]: all of a run, which it holds against each other: lost, doubled, out of order, altered, foreign, late;
//! - [`crate::figures`]: what comes out, findings in words among it.
//!
//! Judged is from the stamps and from when users were members for certain. What the server says about itself counts only
//! where it tells a receiver that messages are missing (GAP), and where it acknowledges a durable one. Nothing here reads
//! a clock. Memory grows with users and with time, and with messages only by a bit for each that a receiver misses.

mod balance;
mod chronicle;
mod findings;
mod latency;
mod ledger;
mod marks;
mod receipts;
mod record;
mod seen;
mod stamp;
mod trace;

pub use self::balance::{Account, Totals};
pub use self::latency::times;
pub use self::ledger::{Ledger, Settings};
pub use self::record::{Record, Window};
pub use self::stamp::{STAMP_BYTES, Stamp};

pub(crate) use self::record::{Accepted, Answer, Cause, Ended, Outage, Read, Reading, Sample, Written};
pub(crate) use self::stamp::{body, stamp_of_body};
