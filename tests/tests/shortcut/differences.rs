//! Where the shortcut is not like TCP: what is known, and what is detected and left to TCP.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Duration;

use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use osm_tests::sys::{self, Question};
use osm_tests::traffic::Pair;
use socket2::Socket;

use crate::compare::{
    SETTLE, expect_different, expect_same, finish, read_stream, said, send_all, stream, take,
    take_up_to, until,
};

fn set(socket: &Socket, level: i32, name: i32, value: i32) -> String {
    said(sys::setsockopt(socket.as_fd(), level, name, &value.to_ne_bytes()).map(|()| "set"))
}

fn readable(socket: &Socket) -> String {
    let mut wanted = [PollFd::new(
        socket.as_fd(),
        PollFlags::POLLIN | PollFlags::POLLPRI,
    )];
    let ready = poll(&mut wanted, PollTimeout::from(200_u16));
    let found = wanted[0].revents().unwrap_or(PollFlags::empty());
    let names: Vec<_> = found.iter_names().map(|(name, _)| name).collect();
    let ready = said(ready.map_err(Into::into));
    format!("{ready} {}", names.join("|"))
}

#[test]
fn splice_from_the_socket_gets_nothing() {
    let scenario = |pair: &mut Pair| {
        let short = Some(Duration::from_millis(300));
        pair.server.set_read_timeout(short).expect("SO_RCVTIMEO");
        send_all(&pair.client, b"hello");
        let (_from, to) = nix::unistd::pipe().expect("a pipe");
        let empty = SpliceFFlags::empty();
        let moved = splice(&pair.server, None, to.as_fd(), None, 100, empty);
        let rest = take(&pair.server, libc::MSG_DONTWAIT);
        format!("{} {rest}", said(moved.map_err(Into::into)))
    };
    expect_different(scenario, "5 EAGAIN", "EAGAIN \"hello\"");
}

#[test]
fn read_that_waits_for_all_gets_all() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SETTLE);
                send_all(client, b"abc");
                thread::sleep(SETTLE);
                send_all(client, b"defg");
            });
            take_up_to(server, 7, libc::MSG_WAITALL)
        })
    });
}

#[test]
fn urgent_byte_is_one_among_others() {
    let scenario = |pair: &mut Pair| {
        let sent = said(pair.client.send_out_of_band(b"abc"));
        thread::sleep(SETTLE);
        let ready = readable(&pair.server);
        let all = take(&pair.server, libc::MSG_DONTWAIT);
        let mark = said(sys::ask(pair.server.as_fd(), Question::AtMark));
        format!("{sent}, {ready}, {all}, at mark: {mark}")
    };
    expect_different(
        scenario,
        "3, 1 POLLIN|POLLPRI, \"ab\", at mark: 1",
        "3, 1 POLLIN, \"abc\", at mark: 0",
    );
}

#[test]
fn waiting_reader_learns_of_a_reset() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let first = take(server, 0);
                format!("{first}, {}", take(server, 0))
            });
            thread::sleep(SETTLE);
            // Sends a RST, as the socket's other copies stay open.
            client.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            sys::disconnect(client.as_fd()).expect("AF_UNSPEC");
            reader.join().expect("the reader")
        })
    });
}

#[test]
fn waiting_reader_learns_of_its_own_shutdown() {
    expect_same(|pair| {
        let server = &pair.server;
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let first = take(server, 0);
                format!("{first}, {}", take(server, 0))
            });
            thread::sleep(SETTLE);
            server.shutdown(std::net::Shutdown::Both).expect("shutdown");
            reader.join().expect("the reader")
        })
    });
}

#[test]
fn closing_with_unread_bytes_is_no_reset() {
    let scenario = |pair: &mut Pair| {
        send_all(&pair.client, b"never read");
        thread::sleep(SETTLE);
        let none = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        drop(std::mem::replace(&mut pair.server, none.expect("a socket")));
        thread::sleep(SETTLE);
        take(&pair.client, 0)
    };
    expect_different(scenario, "ECONNRESET", "\"\"");
}

#[test]
fn completions_of_zero_copy_come() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let option = set(client, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
        let bytes = stream(1, 200_000);
        let mut sends = 0;
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_stream(server, 1));
            for piece in bytes.chunks(50_000) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let sent = until(client, PollFlags::POLLOUT, || {
                        client.send_with_flags(rest, libc::MSG_ZEROCOPY)
                    });
                    rest = &rest[sent.expect("sending")..];
                    sends += 1;
                }
            }
            finish(client);
            let read = reader.join().expect("the reader");
            // Where the option is set on a connection that has joined the shortcut, there are more than
            // sends: the kernel sends each in parts, which it numbers.
            let enough = completions(client, sends) >= sends;
            format!("{option}, {read}, enough completions: {enough}")
        })
    });
}

/// How many sends the kernel says it is done with (`MSG_ZEROCOPY` in the kernel's documentation).
pub fn completions(socket: &Socket, wanted: u32) -> u32 {
    let mut done = 0;
    for _ in 0..100 {
        let mut control = nix::cmsg_space!([u8; 64]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut [], Some(&mut control), flags);
        match message {
            Ok(message) => {
                for part in message.cmsgs().expect("control messages") {
                    if let ControlMessageOwned::Ipv4RecvErr(error, _) = part {
                        done += error.ee_data - error.ee_info + 1;
                    }
                }
            }
            Err(_) if done >= wanted => break,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    done
}

#[test]
fn low_water_mark_is_kept() {
    expect_same(|pair| {
        let option = set(&pair.server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 10);
        send_all(&pair.client, b"abc");
        let early = readable(&pair.server);
        send_all(&pair.client, b"defghijklm");
        let late = readable(&pair.server);
        format!("{option} {early} {late} {}", take(&pair.server, 0))
    });
}

#[test]
fn kernel_tls_is_refused_or_works() {
    expect_same(|pair| {
        let Pair { client, server } = pair;
        let mut said_to = Vec::new();
        for end in [&*client, &*server] {
            let set = sys::setsockopt(end.as_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, b"tls");
            said_to.push(said(set.map(|()| "set")));
        }
        if said_to == ["set", "set"] {
            for (end, direction) in [(&*client, TLS_TX), (&*server, TLS_RX)] {
                let keys = tls_keys();
                let set = sys::setsockopt(end.as_fd(), libc::SOL_TLS, direction, &keys);
                said_to.push(said(set.map(|()| "keys set")));
            }
        }
        send_all(client, b"secret");
        said_to.push(take(server, 0));
        format!("{said_to:?}")
    });
}

/// `TLS_TX` and `TLS_RX` (`linux/tls.h`).
const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;

/// `struct tls12_crypto_info_aes_gcm_128`: TLS 1.2, that cipher, and zeros for keys on both sides.
fn tls_keys() -> Vec<u8> {
    let (version, cipher) = (0x0303_u16, 51_u16);
    let mut keys = [version.to_ne_bytes(), cipher.to_ne_bytes()].concat();
    keys.extend([0; 8 + 16 + 4 + 8]);
    keys
}
