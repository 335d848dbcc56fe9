//! Takes connections, and answers each once.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    cni::Cni,
    enrol::Enrol,
    gate::{Gate, Limits, Pass},
    outcome::{Outcome, Refusal},
    socket::Socket,
    who::Who,
};
use crate::{
    daemon::source::Event,
    error::{Result, Tried as _},
    protocol::{MAX_LINE, NoAnswer},
};

/// How long is waited where the kernel does not hand over a connection, for want of files or
/// memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a peer may take to take its line. A socket has room for one.
const WRITE: Duration = Duration::from_secs(1);

/// The longest text that a response carries, in characters of at most four bytes.
const MAX_TEXT: usize = 900;

/// Is told of every connection what became of it.
pub type Report = Arc<dyn Fn(Outcome) + Send + Sync>;

/// Serves one socket.
pub struct Server {
    socket: Socket,
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.socket).finish()
    }
}

/// What is behind one kind of socket.
pub(super) trait Service: Send + Sync {
    /// Whether this peer may ask at all.
    fn may(&self, who: &Who) -> Result<(), Refusal>;

    /// Reads a request and hands it to the loop. May wait for the file system.
    fn begin(&self, who: &Who, line: &[u8]) -> Result<Waiting, Refusal>;

    /// The response to who is not let in or not answered.
    fn refusal(&self, refusal: &Refusal) -> Vec<u8>;
}

/// The response, once the loop has one; none where the loop is gone.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

struct Shared {
    service: Box<dyn Service>,
    gate: Arc<Gate>,
    report: Report,
}

impl Server {
    /// For init containers.
    pub fn enrol(
        socket: Socket,
        limits: Limits,
        events: mpsc::Sender<Event>,
        report: Report,
    ) -> Self {
        Self::new(socket, limits, Box::new(Enrol::new(events)), report)
    }

    /// For the CNI plugin.
    pub fn cni(
        socket: Socket,
        limits: Limits,
        events: mpsc::Sender<Event>,
        report: Report,
    ) -> Self {
        Self::new(socket, limits, Box::new(Cni::new(events)), report)
    }

    fn new(socket: Socket, limits: Limits, service: Box<dyn Service>, report: Report) -> Self {
        Self {
            socket,
            shared: Arc::new(Shared {
                service,
                gate: Arc::new(Gate::new(limits, Instant::now())),
                report,
            }),
        }
    }

    /// Serves until `stop` is over; then removes the socket. What is answered then still is, as
    /// long as the runtime lives.
    ///
    /// # Errors
    /// Where it can't start.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let path = self.socket.path().to_owned();
        let parts = self.socket.into_parts();
        let (listener, _file) =
            parts.tried(|| format!("wait for connections to {}", path.display()))?;
        tokio::select! {
            () = stop => Ok(()),
            never = accept(listener, Arc::clone(&self.shared)) => never,
        }
    }
}

/// One at a time, so that who is refused takes no more than its moment.
async fn accept<T>(listener: UnixListener, shared: Arc<Shared>) -> T {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            (shared.report)(Outcome::NotAccepted);
            sleep(PAUSE).await;
            continue;
        };
        let admitting = Arc::clone(&shared);
        let admitted = spawn_blocking(move || match admitting.admit(&stream) {
            Ok((who, pass)) => Some((stream, who, pass)),
            Err(refusal) => {
                // It was just connected: there is room for a line, or nobody to read it.
                let _ = stream.try_write(&admitting.service.refusal(&refusal));
                (admitting.report)(refusal.outcome);
                None
            }
        });
        if let Ok(Some((stream, who, pass))) = admitted.await {
            tokio::spawn(serve(Arc::clone(&shared), stream, who, pass));
        }
    }
}

impl Shared {
    fn admit(&self, stream: &UnixStream) -> Result<(Who, Pass), Refusal> {
        let who = Who::of(stream)?;
        self.service.may(&who)?;
        let pass = self.gate.admit(&who, Instant::now())?;
        Ok((who, pass))
    }
}

async fn serve(shared: Arc<Shared>, mut stream: UnixStream, who: Who, pass: Pass) {
    let mut pass = Some(pass);
    let result = ask(&shared, &mut stream, who, &mut pass).await;
    let (mut outcome, line) = match result {
        Ok(line) => (Outcome::Answered, line),
        Err(refusal) => (refusal.outcome, shared.service.refusal(&refusal)),
    };
    let written = timeout(WRITE, stream.write_all(&line)).await;
    if !matches!(written, Ok(Ok(()))) && outcome == Outcome::Answered {
        outcome = Outcome::Left;
    }
    drop(stream);
    drop(pass);
    (shared.report)(outcome);
}

async fn ask(
    shared: &Arc<Shared>,
    stream: &mut UnixStream,
    who: Who,
    pass: &mut Option<Pass>,
) -> Result<Vec<u8>, Refusal> {
    let limits = *shared.gate.limits();
    let arrived = timeout(limits.request, read(stream)).await;
    let line = arrived
        .map_err(|_| slow(limits.request))?
        .map_err(|_| incomplete())?;
    let beginning = Arc::clone(shared);
    let begun = spawn_blocking(move || beginning.service.begin(&who, &line)).await;
    let mut waiting = begun.map_err(|_| stopping())??;
    if let Ok(answer) = timeout(limits.answer, &mut waiting).await {
        return answer.ok_or_else(stopping);
    }
    // The loop has it still: until it has looked at it, it counts as the pod's.
    let pass = pass.take();
    tokio::spawn(async move {
        let _ = waiting.await;
        drop(pass);
    });
    Err(late(limits.answer))
}

fn slow(limit: Duration) -> Refusal {
    let text = format!("no request within {} s", limit.as_secs_f32());
    Refusal::new(Outcome::Slow, text)
}

fn late(limit: Duration) -> Refusal {
    let text = format!(
        "the agent did not get to it within {} s; try again, and see the agent's log",
        limit.as_secs_f32()
    );
    Refusal::new(Outcome::Late, text)
}

/// A line, or as much of one as there may be.
async fn read(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(512, stream.take(MAX_LINE));
    reader.read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// What is wrong with a request.
pub(super) fn wrong(error: &NoAnswer) -> Refusal {
    let (outcome, text) = match error {
        NoAnswer::TooLong => {
            let text = format!("the request is longer than {MAX_LINE} bytes");
            (Outcome::TooLong, text)
        }
        NoAnswer::OtherVersion(version) => {
            let own = crate::protocol::VERSION;
            let text = format!(
                "the request is of version {version} of the protocol, and this agent speaks \
                 version {own}: use the agent's own image for osm-agent init"
            );
            (Outcome::OtherVersion, text)
        }
        NoAnswer::Odd(error) => {
            let text = format!("the request is not of this protocol ({error})");
            (Outcome::Garbage, text)
        }
        NoAnswer::Closed | NoAnswer::Connection(_) | NoAnswer::TimedOut(_) => return incomplete(),
    };
    Refusal::new(outcome, text)
}

pub(super) fn stopping() -> Refusal {
    Refusal::new(Outcome::Stopping, "the agent is stopping; try again")
}

fn incomplete() -> Refusal {
    Refusal::new(Outcome::Incomplete, "the request does not end")
}

/// A text in one line that fits a response, whatever it was.
pub(super) fn fitting(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_TEXT).map(plain).collect()
}
