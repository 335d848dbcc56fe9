//! While connections live: switched off and on, changed, restarted.

use osm_tests::traffic::{Broker, Kind, Pair, Route, Scene, accept, by_tcp};
use osm_tests::{APP_UID, Node, SIDECAR_UID, World};

use crate::compare::{
    self, DIRECT, OFF, ON, finish, is_on, read_exactly, read_stream, send_all, spec, stream, used,
};

/// A few bytes in both directions.
#[track_caller]
fn exchange(pair: &Pair) {
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        send_all(from, b"and now");
        assert_eq!(read_exactly(to, 7), b"and now");
    }
}

#[test]
fn bypassed_connections_never_take_the_shortcut() {
    let Some(scene) = compare::scene() else {
        return;
    };
    for route in [Route::Bypassed, Route::Excluded] {
        let pair = compare::connect(&scene, route, Kind::NON_BLOCKING);
        for (from, to, key) in [
            (&pair.client, &pair.server, 1),
            (&pair.server, &pair.client, 2),
        ] {
            let bytes = stream(key, 5_000);
            send_all(from, &bytes);
            assert_eq!(read_exactly(to, bytes.len()), bytes);
            let tcp = by_tcp(from).expect("TCP_INFO");
            assert!(!tcp.less_than(5_000), "{route:?}: {tcp:?}");
            let other = by_tcp(to).expect("TCP_INFO");
            assert!(other.received >= 5_000, "{route:?}: {other:?}");
        }
    }
}

#[test]
fn application_that_waits_in_its_calls_never_takes_the_shortcut() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    for turn in 0..4 {
        let pair = compare::connect(&scene, Route::Local, Kind::new(false, true));
        for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
            send_all(from, b"hello");
            assert_eq!(read_exactly(to, 5), b"hello");
            let tcp = by_tcp(from).expect("TCP_INFO");
            assert!(!tcp.sent_nothing(), "turn {turn}: {tcp:?}");
        }
    }
}

#[test]
fn shortcut_switched_off_and_on_while_in_use_loses_nothing() {
    if !is_on() {
        return;
    }
    let Some(scene) = Scene::new(ON) else {
        return;
    };
    let pairs = DIRECT.map(|route| used(&scene, route, Kind::NON_BLOCKING));
    for (from, to) in [(ON, OFF), (OFF, ON)] {
        // Unread bytes wait while it is switched.
        let waiting = DIRECT.map(|route| {
            let pair = compare::connect(&scene, route, Kind::NON_BLOCKING);
            send_all(&pair.client, &stream(3, 20_000));
            pair
        });
        for outcome in scene.attach(to) {
            let _ = outcome.succeeded();
        }
        for pair in &pairs {
            exchange(pair);
        }
        for pair in waiting {
            send_all(&pair.client, &[]);
            finish(&pair.client);
            let read = read_stream(&pair.server, 3);
            assert_eq!(read, "20000 bytes, then the end", "from {from} to {to}");
        }
        for route in DIRECT {
            let pair = compare::connect(&scene, route, Kind::NON_BLOCKING);
            exchange(&pair);
            let tcp = by_tcp(&pair.client).expect("TCP_INFO");
            assert_eq!(
                tcp.sent_nothing(),
                to == ON,
                "{route:?} after {to}: {tcp:?}"
            );
        }
    }
}

#[test]
fn connections_outlive_detaching() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    let pairs = DIRECT.map(|route| used(&scene, route, Kind::NON_BLOCKING));
    for pair in &pairs {
        send_all(&pair.client, b"before ");
    }
    for outcome in scene.detach() {
        let _ = outcome.succeeded();
    }
    for pair in &pairs {
        send_all(&pair.client, b"after");
        assert_eq!(read_exactly(&pair.server, 12), b"before after");
        exchange(pair);
    }
}

#[test]
fn connections_outlive_the_agent() {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    node.mesh(spec());
    node.add_pod(pod, &[]);
    node.start();
    node.wait_intercepted(pod);
    let mut sidecar = Broker::start("sidecar", &pod.place(SIDECAR_UID));
    let mut app = Broker::start("app", &pod.place(APP_UID));
    let listener = sidecar.listen("0.0.0.0:15001".parse().expect("an address"), 16);
    let listener = listener.expect("the listener");
    let mut pairs: Vec<Pair> = Vec::new();
    for turn in 0..3 {
        let client = app.connect("198.51.100.10:80".parse().expect("an address"), false);
        let client = client.expect("a redirected connection");
        let (server, _) = accept(&listener, false).expect("the connection");
        compare::limit(&client);
        compare::limit(&server);
        pairs.push(Pair { client, server });
        for pair in &pairs {
            exchange(pair);
            let tcp = by_tcp(&pair.client).expect("TCP_INFO");
            assert_eq!(tcp.sent_nothing(), is_on(), "turn {turn}: {tcp:?}");
            send_all(&pair.client, b"unread");
        }
        node.kill();
        for pair in &pairs {
            assert_eq!(read_exactly(&pair.server, 6), b"unread");
            exchange(pair);
        }
        node.start();
        node.wait_intercepted(pod);
    }
}
