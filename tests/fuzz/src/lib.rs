//! The fuzz targets: what is done with arbitrary bytes, and what must hold whatever they are.
//!
//! Each target is a function that panics when something does not hold. libFuzzer calls it from `fuzz_targets/`; the
//! test `tests/fuzz_corpus` includes this very file and calls it with the corpus and with seeded mutations of it, so
//! that a stable toolchain runs them too. A new target is a module here, a line in [`TARGETS`], a file in
//! `fuzz_targets/`, and a folder of small files named by what they are in `corpus/`.

pub mod control;
pub mod dtls;
pub mod frames;
pub mod ice;
pub mod offer;
pub mod proxy_protocol;
pub mod records;
pub mod stun;
pub mod text;
pub mod token;
pub mod turn;
pub mod websocket;

/// What is done with the bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 15] = [
    ("control", control::target),
    ("dtls_engine", dtls::engine),
    ("dtls_guard", dtls::guard),
    ("frames", frames::target),
    ("ice", ice::target),
    ("offer", offer::target),
    ("proxy_protocol", proxy_protocol::target),
    ("records", records::target),
    ("stun", stun::target),
    ("text", text::target),
    ("token", token::target),
    ("turn_message", turn::message),
    ("turn_signed", turn::signed),
    ("turn_stream", turn::stream),
    ("websocket", websocket::target),
];
