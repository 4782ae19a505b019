//! libFuzzer's way into `control::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::control::target(data));
