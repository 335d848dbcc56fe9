//! Bytes, by every way in and out.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::PollFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use osm_tests::traffic::Pair;

use crate::compare::{
    expect_same, finish, read_exactly, read_stream, said, send_all, stream, take, take_up_to, until,
};

const LENGTH: usize = 1_000_000;

#[test]
fn peeked_bytes_come_again() {
    expect_same(|pair| {
        send_all(&pair.client, b"hello");
        send_all(&pair.client, b"world");
        let [all, part] = [100, 3].map(|length| take_up_to(&pair.server, length, libc::MSG_PEEK));
        let first = take_up_to(&pair.server, 4, 0);
        let rest = take(&pair.server, libc::MSG_PEEK);
        let read = take(&pair.server, 0);
        format!("{all} {part} {first} {rest} {read}")
    });
}

#[test]
fn file_sent_by_sendfile_arrives() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = memfd_create(c"file", MFdFlags::MFD_CLOEXEC).expect("a file");
                let mut file = std::fs::File::from(file);
                file.write_all(&stream(1, LENGTH)).expect("our own file");
                file.seek(SeekFrom::Start(0)).expect("our own file");
                let mut left = LENGTH;
                while left > 0 {
                    let sent = until(client, PollFlags::POLLOUT, || {
                        Ok(sendfile(&*client, &file, None, left)?)
                    });
                    left -= sent.expect("sendfile");
                }
                finish(client);
            });
            read_stream(server, 1)
        })
    });
}

#[test]
fn pipe_spliced_into_the_socket_arrives() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let bytes = stream(2, LENGTH);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (from, to) = nix::unistd::pipe().expect("a pipe");
                for piece in bytes.chunks(40_000) {
                    assert_eq!(nix::unistd::write(&to, piece), Ok(piece.len()));
                    let mut left = piece.len();
                    while left > 0 {
                        let flags = SpliceFFlags::empty();
                        let moved = until(client, PollFlags::POLLOUT, || {
                            Ok(splice(from.as_fd(), None, &*client, None, left, flags)?)
                        });
                        left -= moved.expect("splice");
                    }
                }
                finish(client);
            });
            read_stream(server, 2)
        })
    });
}

#[test]
fn pieces_sent_with_msg_more_are_read_together() {
    expect_same(|pair| {
        let more = pair.client.send_with_flags(b"hello", libc::MSG_MORE);
        let last = pair.client.send(b"world");
        thread::sleep(Duration::from_millis(250));
        let (more, last) = (said(more), said(last));
        format!("{more} {last} {}", take(&pair.server, 0))
    });
}

#[test]
fn corked_bytes_arrive_once_the_cork_is_off() {
    expect_same(|pair| {
        pair.client.set_tcp_cork(true).expect("TCP_CORK");
        send_all(&pair.client, b"hel");
        send_all(&pair.client, b"lo");
        pair.client.set_tcp_cork(false).expect("TCP_CORK");
        String::from_utf8_lossy(&read_exactly(&pair.server, 5)).into_owned()
    });
}

#[test]
fn empty_writes_and_reads_do_nothing() {
    expect_same(|pair| {
        let sent = said(pair.client.send(b""));
        let nothing = take(&pair.server, libc::MSG_DONTWAIT);
        send_all(&pair.client, b"x");
        let empty = take_up_to(&pair.server, 0, 0);
        format!("{sent} {nothing} {empty} {}", take(&pair.server, 0))
    });
}

#[test]
fn one_large_write_through_a_small_buffer_arrives() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        client.set_send_buffer_size(4096).expect("SO_SNDBUF");
        thread::scope(|scope| {
            scope.spawn(|| {
                send_all(client, &stream(3, LENGTH));
                finish(client);
            });
            read_stream(server, 3)
        })
    });
}

#[test]
fn both_directions_at_once_do_not_mix() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            for (end, key) in [(&*client, 4), (&*server, 5)] {
                scope.spawn(move || {
                    for piece in stream(key, LENGTH).chunks(777) {
                        send_all(end, piece);
                    }
                    finish(end);
                });
            }
            let other = scope.spawn(|| read_stream(client, 5));
            let one = read_stream(server, 4);
            format!("{one}; {}", other.join().expect("the other reader"))
        })
    });
}

#[test]
fn socket_of_another_process_sends_and_reads() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let mut command = osm_tests::actor::victim(server);
        command.arg("--echo");
        let mut child = osm_tests::process::spawn(command).expect("a child");
        thread::scope(|scope| {
            scope.spawn(|| {
                send_all(client, &stream(6, 300_000));
                finish(client);
            });
            // The last copy of the other end is here.
            let ended = scope.spawn(|| {
                let ended = child.wait();
                finish(server);
                ended
            });
            let read = read_stream(client, 6);
            let ended = ended.join().expect("the waiting thread");
            format!("{read}, {}", said(ended))
        })
    });
}
