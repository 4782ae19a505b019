//! libFuzzer's way into `stun::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::stun::target(data));
