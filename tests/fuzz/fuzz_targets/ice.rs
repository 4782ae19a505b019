//! libFuzzer's way into `ice::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::ice::target(data));
