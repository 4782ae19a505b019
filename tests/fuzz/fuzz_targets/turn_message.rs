//! libFuzzer's way into `turn::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::turn::message(data));
