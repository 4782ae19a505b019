//! Switchyard's wire protocol, without I/O: the messages, their limits and codes, the binary frames, and the
//! delivery rules of the reliable lane, both halves.
//!
//! Nothing here opens a socket, reads a clock or knows what a room is: bytes and `now` come in, bytes and decisions
//! go out. The server uses it in `src/engine/session.rs` and `src/http/connect.rs`, the load-test harness as it is,
//! and the browser client writes it again in `client/src/` against the vectors in `vectors/`. The document of all
//! this is `docs/protocol.md`.
//!
//! - [`message`]: JSON text messages of the WebSocket and JSON control messages of the reliable lane;
//! - [`frame`]: binary frames and pipe messages;
//! - [`lane`]: the reliable lane: numbering, acknowledgement, replay, interleaving of chunks, gaps;
//! - [`assembly`]: chunks back to messages;
//! - [`event`], [`record`]: what a room's log is made of, and how LOG frames carry it;
//! - [`writer`], [`reader`]: the delivery rules of the log, a client's half;
//! - [`origin`]: the server's half of writing to a log;
//! - [`features`]: what can be switched off; [`attempt`]: what clients tell of their attempts to connect, [`quality`]: and of
//!   their connection;
//! - [`lateness`]: how late answers are, for both ends' doubts of a data channel;
//! - [`limits`], [`code`]: every limit and every refusal.

pub mod assembly;
pub mod attempt;
pub mod code;
pub mod event;
pub mod features;
pub mod frame;
pub mod lane;
pub mod lateness;
pub mod limits;
pub mod message;
pub mod origin;
pub mod quality;
pub mod reader;
pub mod record;
pub mod writer;

pub use code::Code;
pub use features::Features;
