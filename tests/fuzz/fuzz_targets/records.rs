//! libFuzzer's way into `records::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::records::target(data));
