//! libFuzzer's way into `offer::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::offer::target(data));
