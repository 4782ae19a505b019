//! What people see of a run: live while it goes on, a table and a page when it is over, and two runs side by side.
//!
//! Everything here is made from [`crate::figures`] and nothing is measured: views are pure functions of figures, but
//! for [`terminal`], which writes to one. What they show of names and error texts came from outside, and can neither
//! steer a terminal nor run in a browser.
//!
//! - [`live`]: the progress of a run as lines of text; [`terminal`]: redraws them in place;
//! - [`text`]: a finished run as a table of less than 60 lines;
//! - [`html()`]: a finished run as one file with charts;
//! - [`mod@compare`]: what is better and what is worse in the second of two runs, and whether that is more than noise;
//! - [`read()`]: a report back from its JSON.

mod assess;
pub mod compare;
mod html;
pub mod live;
mod noise;
mod read;
mod table;
pub mod terminal;
mod words;

pub use assess::{Trust, harness_behind, trust};
pub use compare::compare;
pub use html::{comparison_html, html};
pub use read::{ReadError, read};
pub use table::{comparison_text, text};
