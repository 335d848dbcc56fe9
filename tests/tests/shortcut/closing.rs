//! How connections end.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use osm_tests::traffic::{Kind, Pair, Pattern, Route};
use socket2::Socket;
use std::os::fd::AsFd as _;

use crate::compare::{
    self, SETTLE, expect_same, finish, read_stream, said, send_all, stream, take,
};

const LENGTH: usize = 100_000;

/// Ends the connection at once: the peer gets a RST.
fn reset(pair: Pair, client: bool) -> Socket {
    let (gone, left) = if client {
        (pair.client, pair.server)
    } else {
        (pair.server, pair.client)
    };
    gone.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    drop(gone);
    thread::sleep(SETTLE);
    left
}

/// The pair itself, in place of one that is not connected.
fn owned(pair: &mut Pair) -> Pair {
    let none = || Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let empty = Pair {
        client: none().expect("a socket"),
        server: none().expect("a socket"),
    };
    std::mem::replace(pair, empty)
}

#[test]
fn client_that_is_done_still_gets_the_answer() {
    expect_same(|pair| {
        send_all(&pair.client, &stream(1, LENGTH));
        finish(&pair.client);
        let request = read_stream(&pair.server, 1);
        send_all(&pair.server, &stream(2, LENGTH));
        finish(&pair.server);
        format!("{request}; {}", read_stream(&pair.client, 2))
    });
}

#[test]
fn client_that_is_done_reads_what_a_closed_server_left() {
    expect_same(|pair| {
        let Pair { client, server } = owned(pair);
        finish(&client);
        send_all(&server, &stream(3, LENGTH));
        drop(server);
        thread::sleep(SETTLE);
        read_stream(&client, 3)
    });
}

#[test]
fn server_that_closes_first_loses_nothing() {
    expect_same(|pair| {
        let Pair { client, server } = owned(pair);
        send_all(&server, &stream(4, LENGTH));
        drop(server);
        thread::sleep(SETTLE);
        finish(&client);
        thread::sleep(SETTLE);
        read_stream(&client, 4)
    });
}

#[test]
fn both_done_before_either_reads_lose_nothing() {
    expect_same(|pair| {
        send_all(&pair.client, &stream(5, LENGTH));
        finish(&pair.client);
        send_all(&pair.server, &stream(6, LENGTH));
        finish(&pair.server);
        thread::sleep(SETTLE);
        let request = read_stream(&pair.server, 5);
        format!("{request}; {}", read_stream(&pair.client, 6))
    });
}

#[test]
fn reader_that_shuts_its_side_down_still_gets_what_came() {
    expect_same(|pair| {
        send_all(&pair.client, &stream(7, LENGTH));
        finish(&pair.client);
        thread::sleep(SETTLE);
        pair.server.shutdown(Shutdown::Read).expect("shutdown");
        read_stream(&pair.server, 7)
    });
}

#[test]
fn reset_by_either_end_follows_the_bytes_before_it() {
    for by_client in [true, false] {
        expect_same(|pair| {
            let pair = owned(pair);
            let gone = if by_client {
                &pair.client
            } else {
                &pair.server
            };
            send_all(gone, b"last words");
            let left = reset(pair, by_client);
            let mut wanted = [PollFd::new(left.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wanted, PollTimeout::from(1000_u16)).map_err(Into::into);
            let ready = format!("{} {:?}", said(ready), wanted[0].revents());
            let calls = [(); 3].map(|()| take(&left, 0));
            format!("{ready} {calls:?} {}", said(left.send(b"x")))
        });
    }
}

#[test]
fn writer_learns_that_the_reader_is_gone() {
    expect_same(|pair| {
        let Pair { client, server } = owned(pair);
        drop(server);
        thread::sleep(SETTLE);
        let mut said_to = Vec::new();
        for _ in 0..3 {
            said_to.push(said(client.send_with_flags(b"x", libc::MSG_NOSIGNAL)));
            thread::sleep(SETTLE);
        }
        format!("{said_to:?} {}", take(&client, 0))
    });
}

#[test]
fn one_end_shuts_down_while_the_other_writes() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let piece = stream(8, 4096);
                loop {
                    if let Err(error) = client.send_with_flags(&piece, libc::MSG_NOSIGNAL) {
                        return osm_tests::sys::error_name(&error);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            thread::sleep(SETTLE);
            client.shutdown(Shutdown::Write).expect("shutdown");
            let writer = writer.join().expect("the writer");
            let mut rest = 0;
            let end = loop {
                match compare::receive(server, 4096, 0) {
                    Ok(bytes) if bytes.is_empty() => break "the end".to_owned(),
                    Ok(bytes) => rest += bytes.len(),
                    Err(error) => break osm_tests::sys::error_name(&error),
                }
            };
            format!("writer: {writer}; whole pieces: {}; {end}", rest % 4096)
        })
    });
}

#[test]
fn killed_sender_leaves_a_clean_beginning() {
    expect_same(|pair| {
        let Pair { client, server } = owned(pair);
        let key = 9_u64.to_string();
        let mut command = osm_tests::actor::victim(&client);
        command.args(["--key", &key]);
        let mut child = osm_tests::process::spawn(command).expect("a victim");
        drop(client);
        let reader = thread::spawn(move || read_stream(&server, 9));
        thread::sleep(Duration::from_millis(200));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let read = reader.join().expect("the reader");
        let (count, end) = read.split_once(' ').expect("a count and an end");
        let some = count.parse::<u64>().is_ok_and(|count| count > 0);
        format!("some: {some}, {end}")
    });
}

#[test]
fn bytes_that_a_closed_writer_left_wait_for_the_reader() {
    let Some(scene) = compare::scene() else {
        return;
    };
    let waiting = [Route::Bypassed, Route::Outbound, Route::Local].map(|route| {
        let pair = compare::used(&scene, route, Kind::NON_BLOCKING);
        // Until there is no more room: some by the shortcut, and the last by TCP.
        let (pattern, mut sent) = (Pattern::new(10), 0);
        let mut piece = [0; 64];
        loop {
            pattern.fill(sent, &mut piece);
            match pair.client.send(&piece) {
                Ok(length) => sent += length as u64,
                Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        (route, pair.server, sent)
    });
    // Longer than a sender that is gone may be given up early.
    thread::sleep(Duration::from_secs(6));
    for (route, server, sent) in waiting {
        let read = read_stream(&server, 10);
        let all = format!("{sent} bytes, then the end");
        assert_eq!(read, all, "{route:?}");
    }
}
