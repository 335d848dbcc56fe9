//! Random traffic.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use nix::poll::PollFlags;
use osm_tests::traffic::{Ending, Kind, Pair, Plan, Route, Scene, Storm, Summary};
use socket2::Socket;

use crate::compare::{self, is_on, spec, stream};

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
    let seconds = number("OSM_SHORTCUT_SECONDS");
    let storm = Storm {
        seed: number("OSM_SHORTCUT_SEED").unwrap_or(1),
        parallel: number("OSM_SHORTCUT_PARALLEL").unwrap_or(60),
        connections: if seconds.is_some() { u64::MAX } else { 250 },
        time: Duration::from_secs(seconds.unwrap_or(25)),
        routes: &ROUTES,
    };
    if let Some(only) = number("OSM_SHORTCUT_CONNECTION") {
        let played = storm.one(&scene, only);
        println!("{:?}\n{played:?}", Plan::new(storm.seed, only));
        return assert!(played.is_ok(), "{played:?}");
    }
    let summary = storm.run(&scene);
    check(&storm, &summary);
    for route in ["Outbound", "Local"] {
        let (connections, ends) = summary.routes[route];
        assert_eq!(ends > connections / 2, is_on(), "{route}: {summary}");
    }
}

#[test]
fn random_traffic_survives_changes_and_switching() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    let seconds = number("OSM_SHORTCUT_SECONDS");
    let storm = Storm {
        seed: number("OSM_SHORTCUT_SEED").unwrap_or(2),
        parallel: number("OSM_SHORTCUT_PARALLEL").unwrap_or(40),
        connections: if seconds.is_some() { u64::MAX } else { 150 },
        time: Duration::from_secs(seconds.unwrap_or(20)),
        routes: &ROUTES,
    };
    let summary = storm.run_disturbed(&scene, |turn| {
        let switch = if is_on() && turn % 3 != 2 {
            "sidecar: {shortcut: true}"
        } else {
            "sidecar: {}"
        };
        let lists = format!("traffic: {{outboundPortExclusionList: [{}]}}", 6_000 + turn);
        for outcome in scene.attach(&format!("{{{lists}, {switch}}}")) {
            let _ = outcome.succeeded();
        }
    });
    check(&storm, &summary);
}

#[test]
fn bytes_that_are_changed_on_the_way_are_found() {
    let Some(scene) = compare::scene() else {
        return;
    };
    for at in [0, 1, 77_777, 99_999] {
        let pair = compare::connect(&scene, Route::Outbound, Kind::NON_BLOCKING);
        let mut bytes = stream(1, 100_000);
        bytes[at] ^= 1;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                compare::send_all(&pair.client, &bytes);
                compare::finish(&pair.client);
            });
            let read = compare::read_stream(&pair.server, 1);
            assert!(
                read.contains(&format!("wrong byte at offset {at}:")),
                "{read}"
            );
        });
    }
}

#[test]
fn storm_finds_a_byte_that_a_relay_changes_loses_or_doubles() {
    let Some(scene) = compare::scene() else {
        return;
    };
    let sound = |_: &mut Vec<u8>| {};
    let changed = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
    let lost = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
    let doubled = |bytes: &mut Vec<u8>| bytes.push(bytes[0]);
    let tampers: [(&str, Tamper); 4] = [
        ("sound", sound),
        ("changed", changed),
        ("lost", lost),
        ("doubled", doubled),
    ];
    for (name, tamper) in tampers {
        // An orderly connection on which the client sends something.
        let plan = (0..1_000).map(|number| Plan::new(9, number)).find(|plan| {
            plan.ending == Ending::Orderly && (1_000..50_000).contains(&plan.client.length)
        });
        let plan = plan.expect("there are plenty");
        let [one, other] = [(); 2].map(|()| compare::connect(&scene, Route::Bypassed, plan.kind));
        let relay = std::thread::spawn(move || relay(&one.server, &other.client, tamper));
        let pair = Pair {
            client: one.client,
            server: other.server,
        };
        let played = osm_tests::traffic::play(&plan, Route::ProxiedIn, pair);
        relay.join().expect("the relay");
        assert_eq!(played.is_ok(), name == "sound", "{name}: {played:?}");
    }
}

/// What is done to some bytes on their way.
type Tamper = fn(&mut Vec<u8>);

/// Passes bytes on in both directions; the first that the client sends are tampered with.
fn relay(near: &Socket, far: &Socket, tamper: Tamper) {
    let pass = |from: &Socket, to: &Socket, mut tamper: Option<Tamper>| {
        while let Ok(mut bytes) = compare::receive(from, 4_096, 0) {
            if bytes.is_empty() {
                break;
            }
            if let Some(tamper) = tamper.take() {
                tamper(&mut bytes);
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match compare::until(to, PollFlags::POLLOUT, || to.send(rest)) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(_) => return,
                }
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| pass(near, far, Some(tamper)));
        pass(far, near, None);
    });
}

/// Says what came of it; panics if anything was wrong.
#[track_caller]
fn check(storm: &Storm<'_>, summary: &Summary) {
    let (seed, seconds) = (storm.seed, storm.time.as_secs());
    println!(
        "seed {seed}, {seconds} s, {} at once: {summary}",
        storm.parallel
    );
    assert!(summary.faults.is_empty(), "seed {seed}: {summary}");
}

fn number<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    let value = value.parse();
    Some(value.unwrap_or_else(|error| panic!("{name}: {error}")))
}
