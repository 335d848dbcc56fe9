//! Random traffic.

use std::time::Duration;

use osm_tests::traffic::{Plan, Route, Storm};

use crate::compare::{self, is_on};

const ROUTES: [Route; 5] = [
    Route::Outbound,
    Route::Local,
    Route::ProxiedIn,
    Route::ProxiedOut,
    Route::Bypassed,
];

#[test]
fn random_traffic_is_byte_exact() {
    let Some(scene) = compare::scene() else {
        return;
    };
    let storm = Storm {
        seed: number("OSM_SHORTCUT_SEED").unwrap_or(1),
        parallel: 60,
        connections: 400,
        time: Duration::from_secs(25),
        routes: &ROUTES,
    };
    if let Some(only) = number("OSM_SHORTCUT_CONNECTION") {
        let played = storm.one(&scene, only);
        println!("{:?}\n{played:?}", Plan::new(storm.seed, only));
        return assert!(played.is_ok(), "{played:?}");
    }
    let summary = storm.run(&scene);
    println!("seed {}: {summary}", storm.seed);
    assert!(summary.faults.is_empty(), "seed {}: {summary}", storm.seed);
    for route in ["Outbound", "Local"] {
        let (connections, ends) = summary.routes[route];
        assert_eq!(ends > connections, is_on(), "{route}: {summary}");
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
