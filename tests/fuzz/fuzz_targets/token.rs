//! libFuzzer's way into `token::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::token::target(data));
