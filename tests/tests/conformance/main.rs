//! Both datapaths and the decision function, held against each other: random policies, random
//! connections, and the same outcome demanded of all.
//!
//! `OSM_CONFORMANCE_CASES` says how many connections (400 unless told, 2,000 in CI), `OSM_CONFORMANCE_SEED`
//! which ones. `cargo xtask conformance` sets both.

mod case;
#[path = "../mesh/mod.rs"]
mod mesh;
mod model;
mod scene;

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use case::{CONNECTIONS, Case};
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};
use scene::Scene;

#[test]
fn random_policies_and_connections_come_out_the_same_everywhere() {
    let Some(scene) = Scene::new() else { return };
    let in_ci = std::env::var_os("CI").is_some();
    let cases = setting("OSM_CONFORMANCE_CASES").unwrap_or(if in_ci { 2000 } else { 400 });
    let seed = setting("OSM_CONFORMANCE_SEED").unwrap_or_else(now);
    let policies = cases.div_ceil(CONNECTIONS as u64);
    let config = Config {
        cases: u32::try_from(policies).expect("fewer cases than that"),
        max_shrink_iters: 2000,
        failure_persistence: None::<Box<FileFailurePersistence>>.map(|it| it as _),
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let done = AtomicUsize::new(0);
    let outcome = TestRunner::new_with_rng(config, rng).run(&case::any(), |case| {
        check(&scene, &case)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, policies);
        Ok(())
    });
    match outcome {
        Ok(()) => println!(
            "{} connections under {policies} policies, seed {seed}: no difference",
            policies * CONNECTIONS as u64
        ),
        Err(TestError::Fail(reason, case)) => panic!(
            "seed {seed}: {reason}\nthe shortest case that still fails: {case:#?}\n\
             again: OSM_CONFORMANCE_SEED={seed} OSM_CONFORMANCE_CASES={cases}"
        ),
        Err(TestError::Abort(reason)) => panic!("seed {seed}: {reason}"),
    }
}

fn check(scene: &Scene, case: &Case) -> Result<(), TestCaseError> {
    scene.put_in_force(&case.policy);
    for connection in &case.connections {
        for (backend, seen) in scene.connect(connection) {
            let wanted = model::decide(&case.policy, connection, backend);
            if seen != wanted {
                return Err(TestCaseError::fail(format!(
                    "{connection:?} by {backend:?}\n  seen:   {seen:?}\n  wanted: {wanted:?}"
                )));
            }
        }
    }
    Ok(())
}

fn progress(done: usize, policies: u64) {
    if stderr().is_terminal() {
        eprint!("\r{done} of {policies} policies");
    } else if done.is_multiple_of(100) {
        eprintln!("{done} of {policies} policies");
    }
    // A progress line that can't be written is no failure.
    let _ = stderr().flush();
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
    )
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.subsec_nanos().into())
}
