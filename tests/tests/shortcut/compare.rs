//! The same scenario over plain TCP and over the shortcut.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use osm_tests::sys::error_name;
use osm_tests::traffic::{Kind, Pair, Pattern, Route, Scene, by_tcp};
use socket2::Socket;

/// Asks for the shortcut.
pub const ON: &str = "{sidecar: {shortcut: true}}";

/// Asks for none.
pub const OFF: &str = "{}";

/// Both ends in the pod, and nobody between them.
pub const DIRECT: [Route; 2] = [Route::Outbound, Route::Local];

/// More than any scenario takes that does not hang.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Long enough for anything that does happen to have happened.
pub const SETTLE: Duration = Duration::from_millis(50);

/// Is the shortcut to be had, or is everything played without?
pub fn is_on() -> bool {
    std::env::var_os("OSM_SHORTCUT").is_none_or(|value| value != "off")
}

/// The `spec` of the mesh.
pub fn spec() -> &'static str {
    if is_on() { ON } else { OFF }
}

/// The scene that all tests share that run at the same time; none where they have to be skipped.
pub fn scene() -> Option<Arc<Scene>> {
    static SHARED: Mutex<Weak<Scene>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(scene) = shared.upgrade() {
        return Some(scene);
    }
    let scene = Arc::new(Scene::new(spec())?);
    *shared = Arc::downgrade(&scene);
    Some(scene)
}

/// A connection with timeouts.
#[track_caller]
pub fn connect(scene: &Scene, route: Route, kind: Kind) -> Pair {
    let pair = scene.connect(route, kind);
    let pair = pair.unwrap_or_else(|error| panic!("{route:?}: {error}"));
    limit(&pair.client);
    limit(&pair.server);
    pair
}

/// Makes calls end that hang.
pub fn limit(socket: &Socket) {
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.set_write_timeout(Some(LIMIT)).expect("a timeout");
}

/// Whether the ends wait in their calls: the application may, a sidecar never does.
pub const fn kinds(route: Route) -> [Kind; 2] {
    let app_waits = match route {
        Route::Local => Kind::new(false, true),
        _ => Kind::new(true, false),
    };
    [Kind::NON_BLOCKING, app_waits]
}

/// A connection of which both ends have sent something: by the shortcut where neither ever waits in its
/// calls, by TCP where nobody intercepts it or the application waits.
#[track_caller]
pub fn used(scene: &Scene, route: Route, kind: Kind) -> Pair {
    let pair = connect(scene, route, kind);
    // What is sent arrives at once, one piece after the other.
    for end in [&pair.client, &pair.server] {
        end.set_tcp_nodelay(true).expect("TCP_NODELAY");
    }
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        send_all(from, b"hello");
        assert_eq!(read_exactly(to, 5), b"hello");
        let tcp = by_tcp(from).expect("TCP_INFO");
        let may = is_on() && DIRECT.contains(&route);
        if !may || kind == Kind::NON_BLOCKING {
            assert_eq!(tcp.sent_nothing(), may, "{route:?} of {kind:?}: {tcp:?}");
        } else if tcp.sent_nothing() {
            // The application waits. What it is sent goes by TCP, what it sends need not.
            let is_from_app = (route == Route::Local) == std::ptr::eq(from, &raw const pair.server);
            assert!(is_from_app, "{route:?} of {kind:?}: {tcp:?}");
        }
    }
    pair
}

/// Panics unless the scenario looks the same over plain TCP and over every connection that may take the
/// shortcut. The ends have already used it.
#[track_caller]
pub fn expect_same(scenario: impl Fn(&mut Pair) -> String) {
    let Some(scene) = scene() else {
        return;
    };
    let mut wrong = Vec::new();
    for (route, kind) in DIRECT
        .iter()
        .flat_map(|it| kinds(*it).map(|kind| (*it, kind)))
    {
        let plain = scenario(&mut used(&scene, Route::Bypassed, kind));
        let found = scenario(&mut used(&scene, route, kind));
        println!("{route:?}, {kind:?}: {found}");
        if found != plain {
            wrong.push(format!("{route:?}, {kind:?}: {found}\n by TCP: {plain}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not like plain TCP:\n{}",
        wrong.join("\n")
    );
}

/// Panics unless the scenario, between ends that never wait, looks like this over plain TCP, and like that
/// over the shortcut: a known difference, written down in `ARCHITECTURE.md`.
#[track_caller]
pub fn expect_different(scenario: impl Fn(&mut Pair) -> String, plain: &str, shortcut: &str) {
    let Some(scene) = scene() else {
        return;
    };
    let found = scenario(&mut used(&scene, Route::Bypassed, Kind::NON_BLOCKING));
    assert_eq!(found, plain, "plain TCP");
    for route in DIRECT {
        let found = scenario(&mut used(&scene, route, Kind::NON_BLOCKING));
        let expected = if is_on() { shortcut } else { plain };
        assert_eq!(found, expected, "{route:?}");
    }
}

/// Makes the call until it says something else than that it would block. A socket that waits by itself
/// is not asked twice.
///
/// # Errors
/// The call's; that it would block where nothing happens within the socket's own limit.
pub fn until<T>(
    socket: &Socket,
    wanted: PollFlags,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && socket.nonblocking()? => {
                let limit = socket.read_timeout()?.unwrap_or(LIMIT);
                let limit = PollTimeout::try_from(limit).map_err(io::Error::other)?;
                if poll(&mut [PollFd::new(socket.as_fd(), wanted)], limit)? == 0 {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// What a call said, as programmers know it.
pub fn said<T: ToString>(result: io::Result<T>) -> String {
    result.map_or_else(|error| error_name(&error), |value| value.to_string())
}

/// One read of up to 100 bytes, with flags: the bytes as text, or the error.
pub fn take(socket: &Socket, flags: i32) -> String {
    take_up_to(socket, 100, flags)
}

/// One read of up to so many bytes, with flags: the bytes as text, or the error.
pub fn take_up_to(socket: &Socket, length: usize, flags: i32) -> String {
    match receive(socket, length, flags) {
        Ok(bytes) => format!("{:?}", String::from_utf8_lossy(&bytes)),
        Err(error) => error_name(&error),
    }
}

/// One read of up to so many bytes, with flags.
pub fn receive(socket: &Socket, length: usize, flags: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let flags = MsgFlags::from_bits_retain(flags);
    let mut call = || Ok(recv(socket.as_raw_fd(), &mut bytes, flags)?);
    let filled = if flags.contains(MsgFlags::MSG_DONTWAIT) {
        call()
    } else {
        until(socket, PollFlags::POLLIN, call)
    };
    bytes.truncate(filled?);
    Ok(bytes)
}

/// Sends all of it.
#[track_caller]
pub fn send_all(socket: &Socket, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = until(socket, PollFlags::POLLOUT, || socket.send(rest));
        rest = &rest[sent.expect("sending")..];
    }
}

/// Reads exactly so many bytes.
#[track_caller]
pub fn read_exactly(socket: &Socket, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let more = receive(socket, length - bytes.len(), 0).expect("reading");
        assert!(!more.is_empty(), "the end after {} bytes", bytes.len());
        bytes.extend(more);
    }
    bytes
}

/// The first bytes of a stream.
pub fn stream(key: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(key).fill(0, &mut bytes);
    bytes
}

/// Reads to the end, checking every byte: how many came, and how it ended.
pub fn read_stream(socket: &Socket, key: u64) -> String {
    let pattern = Pattern::new(key);
    let mut done = 0;
    loop {
        match receive(socket, 64 << 10, 0) {
            Ok(bytes) if bytes.is_empty() => return format!("{done} bytes, then the end"),
            Ok(bytes) => match pattern.check(done, &bytes) {
                Ok(()) => done += bytes.len() as u64,
                Err(mismatch) => return mismatch.to_string(),
            },
            Err(error) => return format!("{done} bytes, then {}", error_name(&error)),
        }
    }
}

/// Says that no more comes.
pub fn finish(socket: &Socket) {
    socket.shutdown(Shutdown::Write).expect("shutdown");
}
