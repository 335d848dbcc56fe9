#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| osm_fuzz::mesh_config::run(input));
