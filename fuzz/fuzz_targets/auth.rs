#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gatepost_fuzz::claims::auth(input));
