#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| osm_fuzz::cgroup_text::run(input));
