//! All that changes on a node, at once and at random, under load; where each connection lands is held
//! against the decision function.
//!
//! `cargo xtask soak --minutes N` runs it for as long as you like; the test here takes a quarter of a minute.

mod chaos;
mod lists;
mod load;
mod pod;
mod possible;

use std::{
    thread,
    time::{Duration, Instant},
};

use chaos::Chaos;
use load::{Load, Summary};
use osm_tests::{Need, missing};
use pod::Scene;

/// How many pods are under load.
const PODS: usize = 3;

#[test]
fn every_connection_lands_where_the_decision_function_says() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let seed = number("OSM_SOAK_SEED").unwrap_or(1);
    let time = Duration::from_secs(number("OSM_SOAK_SECONDS").unwrap_or(15));
    let rest = Duration::from_millis(number("OSM_SOAK_REST_MS").unwrap_or(0));
    let Some(mut scene) = Scene::new(PODS) else {
        return;
    };
    println!("seed {seed}, {} s", time.as_secs());
    let load = Load::default();
    let chaos = thread::scope(|scope| {
        let ending = load.ending();
        for (number, pod) in (1..).zip(&scene.pods) {
            let outside = scene.world.outside.client();
            load.start(scope, pod, outside, seed ^ number, rest);
        }
        let mut chaos = Chaos::new(&mut scene.node, &scene.world, &scene.pods, seed);
        let end = Instant::now() + time;
        let mut next = Instant::now() + MINUTE;
        while Instant::now() < end && load.is_sound() {
            chaos.act();
            if Instant::now() > next {
                println!("{}", load.summary());
                next += MINUTE;
            }
        }
        chaos.calm_down();
        drop(ending);
        chaos.done
    });
    let summary = load.summary();
    println!("{summary}{chaos}");
    scene.end();
    check(&summary);
    chaos.check();
}

const MINUTE: Duration = Duration::from_mins(1);

/// No violation, and nothing that did not happen.
fn check(summary: &Summary) {
    assert!(summary.violations.is_empty(), "{summary}");
    for (what, count) in summary.landings() {
        assert!(count > 0, "not one connection {what}: {summary}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
