//! What happens on one connection: a function of a seed.

use fastrand::Rng;

use super::{End, Kind, Pattern};

/// How a system call is made to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteBy {
    /// write(2).
    Write,
    /// writev(2), in up to five parts.
    Writev,
    /// sendmsg(2), in up to five parts.
    Sendmsg,
    /// send(2) with `MSG_MORE`.
    SendMore,
    /// sendfile(2) from a file in memory.
    Sendfile,
    /// splice(2) from a pipe.
    Splice,
}

/// How a system call is made to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBy {
    /// read(2).
    Read,
    /// readv(2), into up to five parts.
    Readv,
    /// recvmsg(2), into up to five parts.
    Recvmsg,
    /// recv(2) with `MSG_PEEK`, then the same once more without.
    Peek,
    /// recv(2) with `MSG_WAITALL`; what comes short is asked for again.
    WaitAll,
}

/// How an end waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the call.
    Blocking,
    /// In epoll, level-triggered.
    Level,
    /// In epoll, edge-triggered.
    Edge,
}

/// What one end does.
#[derive(Clone, Debug)]
pub struct Half {
    /// How many bytes it sends.
    pub length: u64,
    /// How it waits.
    pub mode: Mode,
    /// How it writes; one is drawn for each call.
    pub write_by: Vec<WriteBy>,
    /// The largest piece that it writes.
    pub write_max: usize,
    /// How it reads; one is drawn for each call.
    pub read_by: Vec<ReadBy>,
    /// The largest piece that it reads.
    pub read_max: usize,
    /// One in so many writes is followed by a pause.
    pub write_pause: Option<u32>,
    /// One in so many reads is followed by a pause.
    pub read_pause: Option<u32>,
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `TCP_CORK`, set before and taken off after some writes.
    pub cork: bool,
    /// Says that it is done (`shutdown`) as soon as it is, not only when the other one has.
    pub ends_early: bool,
    /// Draws what is drawn on the way.
    pub seed: u64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both send all and close; nothing may be missing.
    Orderly,
    /// An end sends so many bytes, reads none and resets.
    Reset(End, u64),
    /// An end sends so many bytes, reads none and closes.
    Close(End, u64),
    /// An end's process sends as fast as it can, and is killed after so many milliseconds.
    KillSender(End, u64),
    /// An end's process reads slowly, and is killed after so many milliseconds.
    KillReader(End, u64),
}

impl Ending {
    /// With no more bytes than the end writes in a reasonable time.
    fn limited(self, client: &Half, server: &Half) -> Self {
        let limit = |end| match end {
            End::Client => client.write_max as u64 * 4_000,
            End::Server => server.write_max as u64 * 4_000,
        };
        match self {
            Self::Reset(end, length) => Self::Reset(end, length.min(limit(end))),
            Self::Close(end, length) => Self::Close(end, length.min(limit(end))),
            other => other,
        }
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's seed and the connection's number: they give the same plan again.
    pub seed: u64,
    /// See `seed`.
    pub number: u64,
    /// The end that dialled.
    pub client: Half,
    /// The end that accepted.
    pub server: Half,
    /// How it ends.
    pub ending: Ending,
    /// Which of its ends wait in their calls.
    pub kind: Kind,
}

impl Plan {
    /// The plan of this connection of this run.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let mut rng = Rng::with_seed(Pattern::new(seed).key() ^ number.wrapping_mul(0x9e37_79b9));
        let ending = ending(&mut rng);
        let lengths = [length(&mut rng), length(&mut rng)];
        let [mut client, mut server] = lengths.map(|it| half(&mut rng, it));
        // Megabytes in single bytes would take all the time there is.
        let [by_client, by_server] = lengths.map(|it| usize::try_from(it / 4_000).unwrap_or(1));
        for (half, sent, read) in [
            (&mut client, by_client, by_server),
            (&mut server, by_server, by_client),
        ] {
            half.write_max = half.write_max.max(sent);
            half.read_max = half.read_max.max(read);
        }
        let ending = ending.limited(&client, &server);
        // What a victim sends is as much as there is room for.
        if matches!(ending, Ending::KillSender(..)) {
            client.read_max = client.read_max.max(4_096);
            server.read_max = server.read_max.max(4_096);
        }
        // If each waited for the other's end, none would come.
        if !client.ends_early && !server.ends_early {
            *rng.choice([&mut client.ends_early, &mut server.ends_early])
                .expect("one of two") = true;
        }
        let kind = Kind::new(client.mode == Mode::Blocking, server.mode == Mode::Blocking);
        Self {
            seed,
            number,
            client,
            server,
            ending,
            kind,
        }
    }

    /// What an end does.
    #[must_use]
    pub fn half(&self, end: End) -> &Half {
        match end {
            End::Client => &self.client,
            End::Server => &self.server,
        }
    }

    /// What an end sends.
    #[must_use]
    pub fn pattern(&self, end: End) -> Pattern {
        let direction = match end {
            End::Client => 0x5555,
            End::Server => 0xaaaa_0000,
        };
        let mut rng = Rng::with_seed(self.seed ^ direction ^ self.number.rotate_left(20));
        Pattern::new(rng.u64(..))
    }
}

fn ending(rng: &mut Rng) -> Ending {
    let end = if rng.bool() { End::Client } else { End::Server };
    match rng.u32(0..100) {
        0..80 => Ending::Orderly,
        80..88 => Ending::Reset(end, rng.u64(0..400_000)),
        88..96 => Ending::Close(end, rng.u64(0..400_000)),
        96..98 => Ending::KillSender(end, rng.u64(1..60)),
        _ => Ending::KillReader(end, rng.u64(1..60)),
    }
}

fn length(rng: &mut Rng) -> u64 {
    match rng.u32(0..100) {
        0..10 => 0,
        10..40 => rng.u64(1..2_000),
        40..80 => rng.u64(1..100_000),
        80..97 => rng.u64(1..1_000_000),
        _ => rng.u64(1..8_000_000),
    }
}

fn half(rng: &mut Rng, length: u64) -> Half {
    Half {
        length,
        mode: pick(
            rng,
            &[
                Mode::Blocking,
                Mode::Level,
                Mode::Level,
                Mode::Edge,
                Mode::Edge,
                Mode::Edge,
            ],
        ),
        write_by: some(
            rng,
            &[
                WriteBy::Write,
                WriteBy::Writev,
                WriteBy::Sendmsg,
                WriteBy::SendMore,
                WriteBy::Sendfile,
                WriteBy::Splice,
            ],
        ),
        write_max: pick(rng, &[1, 7, 64, 1_500, 16_384, 65_536, 262_144]),
        read_by: some(
            rng,
            &[
                ReadBy::Read,
                ReadBy::Readv,
                ReadBy::Recvmsg,
                ReadBy::Peek,
                ReadBy::WaitAll,
            ],
        ),
        read_max: pick(rng, &[1, 7, 64, 1_500, 16_384, 65_536, 262_144]),
        write_pause: maybe(rng),
        read_pause: maybe(rng),
        no_delay: rng.bool(),
        cork: rng.u32(0..5) == 0,
        ends_early: rng.bool(),
        seed: rng.u64(..),
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// One of them, or all.
fn some<T: Copy>(rng: &mut Rng, from: &[T]) -> Vec<T> {
    if rng.bool() {
        return from.to_vec();
    }
    vec![pick(rng, from)]
}

fn maybe(rng: &mut Rng) -> Option<u32> {
    (rng.u32(0..4) == 0).then(|| rng.u32(20..200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_and_number_give_the_same_plan() {
        for number in 0..50 {
            let [one, other] = [(); 2].map(|()| format!("{:?}", Plan::new(3, number)));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn directions_and_connections_have_streams_of_their_own() {
        let keys = (0..200).flat_map(|number| {
            let plan = Plan::new(4, number);
            [End::Client, End::Server].map(|end| plan.pattern(end).key())
        });
        let keys: std::collections::HashSet<_> = keys.collect();
        assert_eq!(keys.len(), 400);
    }

    #[test]
    fn some_end_always_says_first_that_it_is_done() {
        for number in 0..200 {
            let plan = Plan::new(5, number);
            assert!(
                plan.client.ends_early || plan.server.ends_early,
                "{number}: nobody would ever be done"
            );
        }
    }
}
