//! libFuzzer's way into `frames::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::frames::target(data));
