//! libFuzzer's way into `dtls::guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::dtls::guard(data));
