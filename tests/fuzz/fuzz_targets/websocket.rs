//! libFuzzer's way into `websocket::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::websocket::target(data));
