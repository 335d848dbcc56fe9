//! What the fuzz targets ask, of every input that is kept: their seeds, and what they found.
//! `cargo xtask fuzz` goes on from these.

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::PathBuf};

use targets::TARGETS;

/// Fewer would mean that the seeds are not found.
const FEWEST: usize = 4;

#[test]
fn kept_inputs_pass_every_target() {
    let seeds = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds"));
    for (name, run) in TARGETS {
        let directory = seeds.join(name);
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).expect("it can be read");
            // A failure names it.
            println!("{}", path.display());
            run(&input);
            count += 1;
        }
        assert!(count >= FEWEST, "{}: {count} inputs", directory.display());
    }
}

#[test]
fn every_directory_of_seeds_has_its_target() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds");
    for entry in fs::read_dir(seeds).expect("the seeds") {
        let name = entry.expect("an entry").file_name();
        let is_known = TARGETS.iter().any(|(target, _)| name == *target);
        assert!(is_known, "{}", name.display());
    }
}
