//! Many connections at once.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use osm_tests::answer::Tally;
use osm_tests::canonical;
use osm_tests::event::Greeting;
use osm_tests::request::{Many, STEP};
use osm_tests::sys;
use socket2::{Domain, SockRef, Socket, Type};

use crate::connect::{micros, step_error};

/// What one thread has seen.
#[derive(Default)]
struct Share {
    micros: Vec<u64>,
    failed: BTreeMap<String, u64>,
    roles: BTreeMap<String, u64>,
    wrong_peer: u64,
    around: u64,
    held: Vec<TcpStream>,
}

/// Makes the connections; returns those that are to stay open.
pub fn run(many: &Many) -> (Tally, Vec<TcpStream>) {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let shares: Vec<Share> = thread::scope(|scope| {
        let workers: Vec<_> = (0..many.concurrency.max(1))
            .map(|_| scope.spawn(|| work(many, &next)))
            .collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(Result::unwrap_or_default).collect()
    });
    sum_up(shares, micros(start))
}

/// The same as several users at once. Threads that a thread starts are those of its user.
pub fn as_users(orders: &[(u32, Many)]) -> io::Result<Vec<Tally>> {
    let all_there = Barrier::new(orders.len());
    thread::scope(|scope| {
        let users: Vec<_> = orders
            .iter()
            .map(|(user, many)| {
                let all_there = &all_there;
                scope.spawn(move || {
                    let became = sys::become_user_on_this_thread(*user);
                    all_there.wait();
                    became.map(|()| run(many).0)
                })
            })
            .collect();
        let joined = users.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|tally| tally.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
            .collect()
    })
}

fn work(many: &Many, next: &AtomicU64) -> Share {
    let mut share = Share::default();
    let pace = Duration::from_micros(many.pace_micros);
    let mut due = Instant::now();
    while next.fetch_add(1, Ordering::Relaxed) < many.count {
        if let Err(error) = share.one(many) {
            *share.failed.entry(step_error(&error)).or_default() += 1;
        }
        due += pace;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    share
}

impl Share {
    fn one(&mut self, many: &Many) -> io::Result<()> {
        if many.abort {
            return self.abort(many);
        }
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&many.to, STEP)?;
        stream.set_read_timeout(Some(STEP))?;
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.micros.push(micros(start));
        let greeting: Greeting = serde_json::from_str(&line)?;
        *self.roles.entry(greeting.role).or_default() += 1;
        // Had somebody stood in between, the server would have seen another port.
        self.around += u64::from(canonical(greeting.peer) == canonical(stream.local_addr()?));
        self.wrong_peer += u64::from(stream.peer_addr()? != many.to);
        if !many.fin {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        if many.hold {
            self.held.push(stream);
        }
        Ok(())
    }

    fn abort(&mut self, many: &Many) -> io::Result<()> {
        let start = Instant::now();
        let socket = Socket::new(
            Domain::for_address(many.to),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&many.to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            result => result?,
        }
        self.micros.push(micros(start));
        Ok(())
    }
}

fn sum_up(shares: Vec<Share>, micros: u64) -> (Tally, Vec<TcpStream>) {
    let mut tally = Tally {
        micros,
        ..Tally::default()
    };
    let mut held = Vec::new();
    let mut times = Vec::new();
    for share in shares {
        held.extend(share.held);
        times.extend(share.micros);
        tally.wrong_peer += share.wrong_peer;
        tally.around += share.around;
        for (error, count) in share.failed {
            *tally.failed.entry(error).or_default() += count;
        }
        for (role, count) in share.roles {
            *tally.roles.entry(role).or_default() += count;
        }
    }
    times.sort_unstable();
    tally.succeeded = times.len() as u64;
    tally.p50_micros = times.get(times.len() / 2).copied().unwrap_or_default();
    tally.p99_micros = times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    (tally, held)
}
