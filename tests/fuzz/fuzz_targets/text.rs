//! libFuzzer's way into `text::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::text::target(data));
