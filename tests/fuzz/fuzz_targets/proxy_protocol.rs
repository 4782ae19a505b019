//! libFuzzer's way into `proxy_protocol::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::proxy_protocol::target(data));
