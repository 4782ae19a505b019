//! libFuzzer's way into `dtls::engine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::dtls::engine(data));
