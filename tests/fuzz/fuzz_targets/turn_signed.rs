//! libFuzzer's way into `turn::signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_fuzz::turn::signed(data));
