//! Waiting for bytes, and for room.

use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use osm_tests::sys::{self, Question};
use osm_tests::traffic::{Kind, Pair, Pattern, Route};
use socket2::{Socket, TcpKeepalive};

use crate::compare::{
    self, DIRECT, expect_same, finish, read_exactly, said, send_all, stream, take, take_up_to,
};

/// More than a writer can send whose reader does not read: 64 MiB by the shortcut, and then what TCP's largest
/// buffers take (`tcp_wmem`, `tcp_rmem`).
const TOO_MUCH: usize = 128 << 20;

fn watch(socket: &Socket, wanted: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let event = EpollEvent::new(wanted, 0);
    epoll.add(socket.as_fd(), event).expect("epoll");
    epoll
}

/// What happens within a time that is long enough for what happens at all.
fn events(epoll: &Epoll) -> String {
    let mut events = [EpollEvent::empty()];
    let limit = EpollTimeout::from(200_u16);
    match epoll.wait(&mut events, limit).expect("epoll") {
        0 => "nothing".to_owned(),
        _ => format!("{:?}", events[0].events()),
    }
}

#[test]
fn level_trigger_says_readable_as_long_as_there_is_something() {
    expect_same(|pair| {
        let epoll = watch(&pair.server, EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        let idle = events(&epoll);
        send_all(&pair.client, b"abcd");
        let [one, two] = [(); 2].map(|()| events(&epoll));
        let part = take_up_to(&pair.server, 2, 0);
        let still = events(&epoll);
        let rest = take(&pair.server, 0);
        let empty = events(&epoll);
        finish(&pair.client);
        let end = events(&epoll);
        format!("{idle} {one} {two} {part} {still} {rest} {empty} {end}")
    });
}

#[test]
fn edge_trigger_comes_with_every_arrival() {
    expect_same(|pair| {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let epoll = watch(&pair.server, flags);
        let idle = events(&epoll);
        send_all(&pair.client, b"abcd");
        let first = events(&epoll);
        let part = take_up_to(&pair.server, 2, 0);
        let none = events(&epoll);
        send_all(&pair.client, b"e");
        let second = events(&epoll);
        let rest = take(&pair.server, 0);
        finish(&pair.client);
        let end = events(&epoll);
        format!("{idle} {first} {part} {none} {second} {rest} {end}")
    });
}

#[test]
fn edge_triggered_reader_that_reads_all_never_stalls() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let epoll = watch(server, EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
        thread::scope(|scope| {
            scope.spawn(|| {
                for (turn, piece) in stream(1, 400_000).chunks(1_231).enumerate() {
                    send_all(client, piece);
                    if turn % 16 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                finish(client);
            });
            let (pattern, mut done) = (Pattern::new(1), 0);
            loop {
                match compare::receive(server, 700, libc::MSG_DONTWAIT) {
                    Ok(bytes) if bytes.is_empty() => return format!("{done} bytes"),
                    Ok(bytes) => {
                        if let Err(mismatch) = pattern.check(done, &bytes) {
                            return mismatch.to_string();
                        }
                        done += bytes.len() as u64;
                    }
                    Err(_) => {
                        let limit = EpollTimeout::from(10_000_u16);
                        if epoll.wait(&mut [EpollEvent::empty()], limit) != Ok(1) {
                            return format!("stalls after {done} bytes");
                        }
                    }
                }
            }
        })
    });
}

#[test]
fn writer_that_was_told_to_wait_is_told_to_go_on() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let epoll = watch(client, EpollFlags::EPOLLOUT | EpollFlags::EPOLLET);
        let _ = events(&epoll);
        let piece = vec![7; 64 << 10];
        let mut sent = 0;
        let told = loop {
            match client.send_with_flags(&piece, libc::MSG_DONTWAIT) {
                Ok(length) => sent += length,
                Err(error) => break sys::error_name(&error),
            }
            if sent > TOO_MUCH {
                break "never".to_owned();
            }
        };
        let full = events(&epoll);
        let all = read_exactly(server, sent).iter().all(|it| *it == 7);
        format!("{told}, {full}, {all}, then {}", events(&epoll))
    });
}

#[test]
fn slow_reader_holds_the_writer_back_within_bounds() {
    for size in [16, 4 << 10, 256 << 10] {
        let Some(scene) = compare::scene() else {
            return;
        };
        for route in [Route::Bypassed].into_iter().chain(DIRECT) {
            let pair = compare::used(&scene, route, Kind::NON_BLOCKING);
            let (memory, sent, error) = fill(&pair, size);
            println!("{route:?}, {size} bytes a write: {sent} bytes, then {error}; {memory} KiB");
            assert!(
                sent < TOO_MUCH && error == "EAGAIN",
                "{route:?}: {sent} bytes in writes of {size}, then {error}"
            );
            // Whoever reads then gets all of it, and the writer goes on.
            let all = read_exactly(&pair.server, sent).iter().all(|it| *it == 9);
            send_all(&pair.client, b"on");
            assert!(all, "{route:?}: other bytes than were sent");
            assert_eq!(read_exactly(&pair.server, 2), b"on");
        }
    }
}

/// Writes until the socket takes no more: kernel memory that it took, bytes, why it ended.
fn fill(pair: &Pair, size: usize) -> (i64, usize, String) {
    let piece = vec![9; size];
    let (before, mut sent) = (free_memory(), 0);
    let error = loop {
        match pair.client.send(&piece) {
            Ok(length) => sent += length,
            Err(error) => break sys::error_name(&error),
        }
        if sent > TOO_MUCH {
            break "nothing".to_owned();
        }
    };
    (before - free_memory(), sent, error)
}

/// The machine's free memory in KiB: others use it too, so it is only shown.
fn free_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemFree:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.unwrap_or(0)
}

#[test]
fn blocked_writer_goes_on_as_the_reader_reads() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            scope.spawn(|| {
                send_all(client, &stream(2, 24 << 20));
                finish(client);
            });
            thread::sleep(Duration::from_millis(100));
            compare::read_stream(server, 2)
        })
    });
}

#[test]
fn unread_bytes_are_counted() {
    expect_same(|pair| {
        let mut counts = Vec::new();
        for piece in [&b"abc"[..], b"defgh"] {
            send_all(&pair.client, piece);
            thread::sleep(Duration::from_millis(10));
            counts.push(said(sys::ask(pair.server.as_fd(), Question::Unread)));
        }
        let _ = take_up_to(&pair.server, 2, 0);
        counts.push(said(sys::ask(pair.server.as_fd(), Question::Unread)));
        // TCP may take a while to acknowledge.
        let waiting = || said(sys::ask(pair.client.as_fd(), Question::Unacknowledged));
        let is_over = (0..100).any(|_| {
            waiting() == "0" || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        });
        format!("{counts:?}, all acknowledged {is_over}")
    });
}

#[test]
fn read_timeout_is_kept() {
    expect_same(|pair| {
        let short = Some(Duration::from_millis(100));
        pair.server.set_read_timeout(short).expect("SO_RCVTIMEO");
        let start = Instant::now();
        let early = take(&pair.server, 0);
        let waited = start.elapsed() >= Duration::from_millis(90);
        send_all(&pair.client, b"late");
        format!(
            "{early} after the time: {waited}, {}",
            take(&pair.server, 0)
        )
    });
}

#[test]
fn idle_connection_lives_on_with_keepalive() {
    let seconds = std::env::var("OSM_SHORTCUT_IDLE").ok();
    let seconds = seconds.and_then(|it| it.parse().ok()).unwrap_or(5);
    let Some(scene) = compare::scene() else {
        return;
    };
    let pairs = [Route::Bypassed, Route::Outbound, Route::Local].map(|route| {
        let pair = compare::used(&scene, route, Kind::NON_BLOCKING);
        let probes = TcpKeepalive::new()
            .with_time(Duration::from_secs(1))
            .with_interval(Duration::from_secs(1))
            .with_retries(2);
        pair.client.set_tcp_keepalive(&probes).expect("keepalive");
        pair.server.set_tcp_keepalive(&probes).expect("keepalive");
        pair
    });
    thread::sleep(Duration::from_secs(seconds));
    for pair in pairs {
        for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
            send_all(from, b"still there");
            assert_eq!(read_exactly(to, 11), b"still there");
        }
    }
}
