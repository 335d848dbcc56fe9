//! The harness's sidecar.

use std::net::SocketAddr;

use osm_tests::{Dial, Event, Listener, Many, Need, SIDECAR_UID, World, canonical, missing};

#[test]
fn sidecar_without_original_destination_resets() {
    let Some(world) = World::new() else { return };
    let mut sidecar = world.pod.sidecar();
    let mut app = world.pod.app();
    for (to, kind) in [
        ("127.0.0.1:15001", Listener::Outbound),
        ("127.0.0.1:15003", Listener::Inbound),
    ] {
        let connection = app.connect(to);
        assert!(connection.connected);
        assert_eq!(connection.greeting_error.as_deref(), Some("ECONNRESET"));
        assert_eq!(sidecar.next_accepted_by(kind).peer, connection.local());
        sidecar.wait_for("no original destination", |event| {
            matches!(event, Event::NoOriginalDestination { listener, .. } if *listener == kind)
                .then_some(())
        });
    }
}

/// Plain REDIRECT rules in the pod's own namespace: the harness's sidecar against the kernel's
/// oldest way to tell an original destination.
#[test]
fn sidecar_behind_a_redirect_forwards_to_the_original_destination() {
    if missing(&[
        Need::Root,
        Need::Program("iptables"),
        Need::Program("ip6tables"),
        Need::Ipv6,
    ]) {
        return;
    }
    let Some(world) = World::new() else { return };
    redirect(&world, "iptables", "127.0.0.0/8");
    redirect(&world, "ip6tables", "::1/128");
    let mut sidecar =
        world
            .pod
            .sidecar_with(&["--outbound", "[::]:15001", "--inbound", "[::]:15003"]);
    let mut remote = world
        .outside
        .server("remote", &["198.51.100.10:80", "[2001:db8::10]:80"]);
    let mut local = world.pod.server("local", &["127.0.0.1:8080", "[::1]:8080"]);
    let mut app = world.pod.app();
    for (dial, wanted) in [
        (Dial::to("198.51.100.10:80"), "198.51.100.10:80"),
        (Dial::to("198.51.100.10:80").v6(), "198.51.100.10:80"),
        (Dial::to("[2001:db8::10]:80"), "[2001:db8::10]:80"),
    ] {
        let connection = app.connect(dial);
        assert_eq!(connection.answered_by(), "remote");
        let seen = sidecar.next_accepted_by(Listener::Outbound);
        assert_eq!(seen.original_destination().to_string(), wanted);
        // The remote was dialled by the sidecar, from another port.
        assert_ne!(remote.next_accepted().peer, canonical(connection.local()));
        assert!(app.transfer(connection.id, 500_000).intact);
        assert_eq!(app.finish(connection.id).error, None);
    }
    let mut client = world.outside.client();
    for to in ["10.77.1.2:8080", "[fd77:1::2]:8080"] {
        let connection = client.connect(to);
        assert_eq!(connection.answered_by(), "local");
        let seen = sidecar.next_accepted_by(Listener::Inbound);
        assert_eq!(seen.original_destination().to_string(), to);
        assert_eq!(canonical(seen.peer), connection.local());
        assert!(local.next_accepted().local.ip().is_loopback());
    }
    let unreachable = app.connect("198.51.100.10:9");
    assert!(unreachable.connected);
    assert_eq!(unreachable.greeting_error.as_deref(), Some("ECONNRESET"));
    let error = sidecar.wait_for("a failure", |event| match event {
        Event::NotForwarded { error, .. } => Some(error.clone()),
        _ => None,
    });
    assert_eq!(error, "ECONNREFUSED");
    let own = client.connect("10.77.1.2:15003");
    assert_eq!(own.greeting_error.as_deref(), Some("ECONNRESET"));
    let tally = app.many(Many::to("198.51.100.10:80", 300).concurrency(4));
    assert_eq!(tally.roles.get("remote"), Some(&300), "{tally:?}");
}

#[test]
fn sidecar_workers_share_their_ports() {
    let Some(world) = World::new() else { return };
    let first = world.pod.sidecar_with(&["--workers", "2", "--quiet"]);
    let ports: Vec<_> = first.listen().iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [15001, 15003]);
    let flags = ["--outbound", "0.0.0.0:15001,reuseport", "--no-inbound"];
    let second = world.pod.sidecar_with(&flags);
    assert_eq!(second.listen().len(), 1);
}

fn redirect(world: &World, iptables: &str, loopback: &str) {
    for rule in [
        "-A PREROUTING -p tcp -j REDIRECT --to-ports 15003".to_owned(),
        format!("-A OUTPUT -p tcp -m owner --uid-owner {SIDECAR_UID} -j RETURN"),
        format!("-A OUTPUT -p tcp -d {loopback} -j RETURN"),
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 15001".to_owned(),
    ] {
        let args: Vec<_> = ["-w", "-t", "nat"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        let output = world.pod.netns.command(iptables, &args);
        assert!(output.status.success(), "{iptables} {rule}: {output:?}");
    }
}
