//! The harness itself, without any interception: what it shows is what the kernel does, and it
//! leaves nothing behind.

mod guards;
mod sidecar;

use std::time::Duration;

use osm_tests::world::BLACKHOLE;
use osm_tests::{Dial, Event, Family, Fastopen, Listener, Many, Need, World, canonical, missing};

const SO_ORIGINAL_DST: i32 = 80;

#[test]
fn app_dials_remote_reaches_it_with_its_own_address() {
    let Some(world) = World::new() else { return };
    let mut remote = world
        .outside
        .server("remote", &["198.51.100.10:80", "198.51.100.11:81"]);
    let mut app = world.pod.app();
    for (dial, to) in [
        (Dial::to("198.51.100.10:80"), "198.51.100.10:80"),
        (
            Dial::to("198.51.100.11:81").nonblocking(),
            "198.51.100.11:81",
        ),
        (
            Dial::to("198.51.100.10:80")
                .reuseaddr()
                .bind("0.0.0.0:40000"),
            "198.51.100.10:80",
        ),
        (
            Dial::to("198.51.100.10:80").device("eth0"),
            "198.51.100.10:80",
        ),
        (
            Dial::to("198.51.100.10:80").payload("ping"),
            "198.51.100.10:80",
        ),
    ] {
        let payload = dial.payload.clone();
        let connection = app.connect(dial);
        assert_eq!(connection.answered_by(), "remote");
        assert_eq!(connection.peer().to_string(), to);
        assert_eq!(connection.local().ip(), world.pod.ip4());
        assert_eq!(connection.greeting().peer, connection.local());
        assert_eq!(connection.greeting().local, connection.peer());
        assert_eq!(connection.echoed, payload);
        let accepted = remote.next_accepted();
        assert_eq!(accepted.listener, Listener::Plain);
        assert_eq!(accepted.peer, connection.local());
        assert_eq!(accepted.peer_from_accept, connection.local());
        assert_eq!(accepted.local, connection.peer());
        assert_eq!(accepted.listen, connection.peer());
    }
    remote.expect_no_connection();
}

#[test]
fn app_dials_v4_mapped_reaches_the_v4_listener() {
    let Some(world) = World::new() else { return };
    let mut remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let connection = app.connect(Dial::to("198.51.100.10:80").v6());
    assert_eq!(connection.answered_by(), "remote");
    assert_eq!(connection.peer().to_string(), "[::ffff:198.51.100.10]:80");
    assert_eq!(remote.next_accepted().peer, canonical(connection.local()));
}

#[test]
fn app_dials_native_v6_reaches_it() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let mut remote = world
        .outside
        .server("remote", &["[2001:db8::10]:80", "[::]:81,v6only"]);
    let mut app = world.pod.app();
    for to in ["[2001:db8::10]:80", "[2001:db8::11]:81"] {
        let connection = app.connect(to);
        assert_eq!(connection.answered_by(), "remote");
        assert_eq!(connection.local().ip(), world.pod.ip6());
        assert_eq!(remote.next_accepted().peer, connection.local());
    }
    assert_eq!(app.connect("198.51.100.10:81").error(), "ECONNREFUSED");
}

#[test]
fn app_dials_by_unusual_calls_reaches_remote() {
    if missing(&[Need::IoUring, Need::Mptcp]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let mut remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let dial = || Dial::to("198.51.100.10:80").payload("early");
    for dial in [
        dial().io_uring(),
        dial().mptcp(),
        dial().fastopen(Fastopen::Connect),
        dial().fastopen(Fastopen::Sendto),
    ] {
        let connection = app.connect(dial.clone());
        assert_eq!(connection.error, None, "{dial:?}");
        assert_eq!(connection.answered_by(), "remote", "{dial:?}");
        assert_eq!(connection.echoed.as_deref(), Some("early"), "{dial:?}");
        assert_eq!(
            connection.peer().to_string(),
            "198.51.100.10:80",
            "{dial:?}"
        );
        assert_eq!(remote.next_accepted().peer, connection.local(), "{dial:?}");
    }
}

#[test]
fn connection_that_fails_reports_the_error_and_the_socket_dials_again() {
    let Some(world) = World::new() else { return };
    let _remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let closed = app.connect("198.51.100.10:9");
    assert!(!closed.connected);
    assert_eq!(closed.error(), "ECONNREFUSED");
    assert_eq!(
        app.reconnect(closed.id, "198.51.100.10:80").answered_by(),
        "remote"
    );
    assert_eq!(app.send(closed.id, "again").text, "again");
    app.disconnect(closed.id);
    assert_eq!(app.names(closed.id).peer, None);
    assert_eq!(
        app.reconnect(closed.id, "198.51.100.10:80").answered_by(),
        "remote"
    );
    let limit = Duration::from_millis(200);
    let silent = format!("{BLACKHOLE}:80");
    for dial in [
        Dial::to(&silent),
        Dial::to(&silent).nonblocking(),
        Dial::to(&silent).io_uring(),
    ] {
        assert_eq!(app.connect(dial.timeout(limit)).error(), "timeout");
    }
}

#[test]
fn udp_to_remote_is_echoed() {
    let Some(world) = World::new() else { return };
    let mut remote = world.outside.server("remote", &["udp:198.51.100.10:53"]);
    let mut app = world.pod.app();
    let echo = app.udp("198.51.100.10:53", "question");
    assert_eq!(echo.error, None);
    assert_eq!(echo.text, "question");
    assert_eq!(
        echo.from.map(|it| it.to_string()).as_deref(),
        Some("198.51.100.10:53")
    );
    let peer = remote.wait_for("a datagram", |event| match event {
        Event::Datagram { peer, text, .. } if text == "question" => Some(*peer),
        _ => None,
    });
    assert_eq!(peer.ip(), world.pod.ip4());
}

#[test]
fn outside_dials_pod_is_seen_with_its_own_address() {
    let Some(world) = World::new() else { return };
    let mut server = world.pod.server("app", &["0.0.0.0:8080", "127.0.0.1:8081"]);
    let mut client = world.outside.client();
    let connection = client.connect(Dial::to("10.77.1.2:8080").bind("203.0.113.7:0"));
    assert_eq!(connection.answered_by(), "app");
    assert_eq!(connection.greeting().peer.ip().to_string(), "203.0.113.7");
    assert_eq!(server.next_accepted().peer, connection.local());
    assert_eq!(client.connect("10.77.1.2:8081").error(), "ECONNREFUSED");
}

#[test]
fn pods_of_one_world_reach_each_other() {
    let Some(world) = World::new() else { return };
    let second = world.add_pod();
    world.pod.add_interface(&world.outside, "net1", 5);
    let _server = second.server("second", &["0.0.0.0:80"]);
    let connection = world.pod.app().connect("10.77.2.2:80");
    assert_eq!(connection.greeting().peer.ip(), world.pod.ip4());
    let _far = world.outside.server("far", &["10.78.5.1:80"]);
    let connection = world.pod.app().connect("10.78.5.1:80");
    assert_eq!(connection.local().ip().to_string(), "10.78.5.2");
    assert_ne!(world.pod.netns.cookie(), second.netns.cookie());
}

#[test]
fn original_destination_without_interception_is_an_error() {
    let Some(world) = World::new() else { return };
    let mut remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let connection = app.connect("198.51.100.10:80");
    let of_client = app.getsockopt(connection.id, libc::SOL_IP, SO_ORIGINAL_DST, 16);
    let of_server = remote.next_accepted().original_destination;
    // ENOPROTOOPT without conntrack, ENOENT with it.
    for error in [of_client.error, of_server.err()] {
        let error = error.expect("nothing was redirected");
        assert!(
            ["ENOPROTOOPT", "ENOENT"].contains(&error.as_str()),
            "{error}"
        );
    }
}

#[test]
fn transfer_and_half_close_bring_everything_back() {
    let Some(world) = World::new() else { return };
    let _remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let id = app.connect("198.51.100.10:80").id;
    let moved = app.transfer(id, 3_000_001);
    assert_eq!((moved.sent, moved.received), (3_000_001, 3_000_001));
    assert!(moved.intact, "{moved:?}");
    let rest = app.finish(id);
    assert_eq!((rest.text.as_str(), rest.error), ("", None));
    app.close(id);
}

#[test]
fn many_connections_are_all_counted() {
    let Some(world) = World::new() else { return };
    let mut remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut app = world.pod.app();
    let tally = app.many(Many::to("198.51.100.10:80", 200).concurrency(8).hold());
    assert_eq!(tally.succeeded, 200);
    assert_eq!(tally.roles.get("remote"), Some(&200));
    assert_eq!(tally.wrong_peer, 0);
    app.release();
    let accepted = |event: &Event| matches!(event, Event::Accepted(_));
    assert_eq!(remote.drain().into_iter().filter(accepted).count(), 200);
    let tally = app.many(Many::to("198.51.100.10:9", 3));
    assert_eq!(tally.succeeded, 0);
    assert_eq!(tally.failed.get("ECONNREFUSED"), Some(&3));
}

#[test]
fn socket_of_another_process_connects_from_the_giver_s_namespace() {
    let Some(world) = World::new() else { return };
    let _remote = world.outside.server("remote", &["198.51.100.10:80"]);
    let mut giver = world.outside.client();
    let mut taker = world.pod.app();
    let socket = taker.take_socket(&mut giver, Family::V4);
    assert!(!socket.connected);
    let connection = taker.reconnect(socket.id, "198.51.100.10:80");
    assert_eq!(connection.greeting().peer.ip().to_string(), "198.51.100.10");
}

#[test]
fn client_listens_and_accepts() {
    let Some(world) = World::new() else { return };
    let mut server = world.pod.app();
    let listener = server.listen("0.0.0.0:7000");
    assert!(listener.connected, "{listener:?}");
    let mut client = world.pod.sidecar_client();
    let dialled = client.connect(Dial::to("127.0.0.1:7000").no_greeting());
    assert_eq!(server.accept(listener.id).peer(), dialled.local());
    assert_eq!(server.listen("0.0.0.0:7000").error(), "EADDRINUSE");
}
