#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| osm_fuzz::state_names::run(input));
