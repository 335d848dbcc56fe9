//! Bytes at the very beginning.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use osm_tests::sys;
use osm_tests::traffic::{Kind, Route, Scene, accept, by_tcp};
use socket2::Socket;

use crate::compare::{
    self, DIRECT, LIMIT, connect, finish, is_on, read_exactly, read_stream, send_all, spec, stream,
    used,
};

const EVERYWHERE: [Route; 3] = [Route::Bypassed, Route::Outbound, Route::Local];

#[test]
fn bytes_sent_before_accept_are_read_after_it() {
    let Some(scene) = compare::scene() else {
        return;
    };
    for (route, kind) in EVERYWHERE
        .iter()
        .flat_map(|it| compare::kinds(*it).map(|kind| (*it, kind)))
    {
        let pair = scene.connect_with(route, kind, |client| {
            send_all(client, &stream(5, 10_000));
        });
        let pair = pair.expect("a connection");
        compare::limit(&pair.server);
        compare::limit(&pair.client);
        let early = read_exactly(&pair.server, 5_000);
        assert_eq!(early, stream(5, 5_000), "{route:?} {kind:?}");
        send_all(&pair.server, b"answer");
        assert_eq!(
            read_exactly(&pair.client, 6),
            b"answer",
            "{route:?} {kind:?}"
        );
        send_all(&pair.client, b"late");
        finish(&pair.client);
        let rest = read_exactly(&pair.server, 5_004);
        assert_eq!(
            rest[..5_000],
            stream(5, 10_000)[5_000..],
            "{route:?} {kind:?}"
        );
        assert_eq!(rest[5_000..], *b"late", "{route:?} {kind:?}");
    }
}

#[test]
fn server_that_speaks_first_is_heard() {
    let Some(scene) = compare::scene() else {
        return;
    };
    for (route, kind) in EVERYWHERE
        .iter()
        .flat_map(|it| compare::kinds(*it).map(|kind| (*it, kind)))
    {
        let pair = connect(&scene, route, kind);
        send_all(&pair.server, &stream(1, 50_000));
        finish(&pair.server);
        let read = read_stream(&pair.client, 1);
        assert_eq!(read, "50000 bytes, then the end", "{route:?} {kind:?}");
    }
}

/// A socket of the route's dialler that has not dialled: [`Route::Local`] is dialled by who holds the
/// socket, and this process is not the sidecar.
fn undialled(scene: &Scene, route: Route) -> (Socket, SocketAddr) {
    let (socket, to) = scene.dialling(route).expect("a socket");
    compare::limit(&socket);
    (socket, to)
}

#[test]
fn bytes_in_the_syn_come_first() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    for route in [Route::Bypassed, Route::Outbound] {
        let listener = scene.listener(route).expect("the listener");
        let queue = 16_i32.to_ne_bytes();
        let set = sys::setsockopt(
            listener.as_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            &queue,
        );
        set.expect("TCP_FASTOPEN");
        scene.world.pod.netns.sysctl("net/ipv4/tcp_fastopen", "3");
        // The first one gets the cookie, the next ones use it.
        for turn in 0..3 {
            let (client, to) = undialled(&scene, route);
            let bytes = stream(2, 60_000);
            let SocketAddr::V4(to) = to else {
                panic!("{to} is not of IPv4");
            };
            let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
            let first = sendto(
                client.as_raw_fd(),
                &bytes[..900],
                &SockaddrIn::from(to),
                flags,
            );
            let first = first.unwrap_or_else(|error| panic!("{route:?} {turn}: {error}"));
            for piece in bytes[first..].chunks(5_000) {
                send_all(&client, piece);
            }
            finish(&client);
            let server = accept_from(&listener, &client);
            thread::sleep(compare::SETTLE);
            let read = read_stream(&server, 2);
            assert_eq!(read, "60000 bytes, then the end", "{route:?} {turn}");
        }
    }
}

/// What the listener accepts from this client; nothing else is on its way.
fn accept_from(listener: &Socket, client: &Socket) -> Socket {
    let local = client.local_addr().expect("an address").as_socket();
    let (server, peer) = accept(listener, false).expect("a connection");
    assert_eq!(Some(peer.port()), local.map(|it| it.port()));
    compare::limit(&server);
    server
}

/// connect() on a socket whose calls do not block.
fn connect_without_waiting(client: &Socket, to: SocketAddr) {
    client.set_nonblocking(true).expect("O_NONBLOCK");
    let begun = client.connect(&to.into());
    let is_begun = |error: io::Error| error.raw_os_error() == Some(libc::EINPROGRESS);
    assert!(begun.is_ok() || begun.is_err_and(is_begun), "{to}");
    let mut wanted = [PollFd::new(client.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut wanted, PollTimeout::from(5_000_u16));
    assert_eq!(ready, Ok(1), "{to}");
    assert!(client.take_error().expect("SO_ERROR").is_none(), "{to}");
}

#[test]
fn non_blocking_connect_can_be_written_to_at_once() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    for route in [Route::Bypassed, Route::Outbound] {
        let listener = scene.listener(route).expect("the listener");
        let (client, to) = undialled(&scene, route);
        connect_without_waiting(&client, to);
        let server = accept_from(&listener, &client);
        send_all(&client, &stream(3, 9_000));
        finish(&client);
        let read = read_stream(&server, 3);
        assert_eq!(read, "9000 bytes, then the end", "{route:?}");
        let tcp = by_tcp(&client).expect("TCP_INFO");
        let wanted = is_on() && DIRECT.contains(&route);
        assert_eq!(tcp.sent_nothing(), wanted, "{route:?}: {tcp:?}");
    }
}

#[test]
fn bytes_of_a_thread_that_sends_while_connecting_come_first() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    for route in [Route::Bypassed, Route::Outbound] {
        let listener = scene.listener(route).expect("the listener");
        // With its queue full, the listener lets nobody in for a while.
        listener.listen(0).expect("listen");
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (socket, to) = undialled(&scene, route);
                socket.set_nonblocking(true).expect("O_NONBLOCK");
                let _ = socket.connect(&to.into());
                socket
            })
            .collect();
        thread::sleep(compare::SETTLE);
        let (client, to) = undialled(&scene, route);
        let read = thread::scope(|scope| {
            scope.spawn(|| client.connect_timeout(&to.into(), LIMIT));
            thread::sleep(compare::SETTLE);
            scope.spawn(|| {
                for piece in stream(4, 1 << 20).chunks(64 << 10) {
                    send_all(&client, piece);
                }
                finish(&client);
            });
            thread::sleep(compare::SETTLE);
            for _ in &waiting {
                let _ = accept(&listener, false).expect("one that waited");
                thread::sleep(compare::SETTLE);
            }
            let (server, _) = accept(&listener, false).expect("the connection");
            compare::limit(&server);
            thread::sleep(compare::SETTLE);
            read_stream(&server, 4)
        });
        listener.listen(16_384).expect("listen");
        assert_eq!(read, "1048576 bytes, then the end", "{route:?}");
    }
}

#[test]
fn ten_thousand_connections_are_open_at_once() {
    const COUNT: u32 = 10_000;
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    let servers = scene.echo_many(Route::Outbound, COUNT, 100);
    let servers = servers.expect("ten thousand connections");
    let by_shortcut = servers.iter().filter(|server| {
        let tcp = by_tcp(server).expect("TCP_INFO");
        tcp.sent_nothing()
    });
    assert_eq!(by_shortcut.count(), if is_on() { 10_000 } else { 0 });
    drop(servers);
    drop(used(&scene, Route::Outbound, Kind::NON_BLOCKING));
}

/// The kernel keeps what the shortcut handed over and nobody read, and would give it to the reader of the
/// socket's next connection.
#[test]
fn socket_that_took_the_shortcut_is_refused_another_connection() {
    let Some(scene) = compare::scene() else {
        return;
    };
    for route in [Route::Bypassed, Route::Outbound] {
        let pair = used(&scene, route, Kind::NON_BLOCKING);
        send_all(&pair.server, b"never read");
        thread::sleep(compare::SETTLE);
        sys::disconnect(pair.client.as_fd()).expect("AF_UNSPEC");
        let (_, to) = scene.dialling(route).expect("an address");
        let again = pair.client.connect(&to.into());
        let code = again.err().and_then(|error| error.raw_os_error());
        let wanted = if is_on() && route == Route::Outbound {
            libc::EPERM
        } else {
            libc::EINPROGRESS
        };
        assert_eq!(code, Some(wanted), "{route:?}");
    }
}

#[test]
fn zero_copy_asked_for_before_connecting_is_left_to_tcp() {
    let Some(scene) = Scene::new(spec()) else {
        return;
    };
    for route in [Route::Bypassed, Route::Outbound] {
        let listener = scene.listener(route).expect("the listener");
        let (client, to) = undialled(&scene, route);
        let on = 1_i32.to_ne_bytes();
        let set = sys::setsockopt(client.as_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, &on);
        set.expect("SO_ZEROCOPY");
        connect_without_waiting(&client, to);
        let server = accept_from(&listener, &client);
        let bytes = stream(6, 100_000);
        let taken = client.send_with_flags(&bytes, libc::MSG_ZEROCOPY);
        assert_eq!(taken.expect("sending"), bytes.len(), "{route:?}");
        assert_eq!(read_exactly(&server, bytes.len()), bytes, "{route:?}");
        let tcp = by_tcp(&client).expect("TCP_INFO");
        assert!(!tcp.less_than(100_000), "{route:?}: {tcp:?}");
        let done = crate::differences::completions(&client, 1);
        assert_eq!(done, 1, "{route:?}: one send, one completion");
    }
}
