//! What an init container and the node agent say to each other, over the agent's Unix socket.
//!
//! One request and one response, each one line of JSON of at most [`MAX_LINE`] bytes with its
//! line feed, then the agent closes:
//!
//! ```text
//! → {"version":1,"request":"enrol"}
//! ← {"version":1,"mode":"ebpf"}
//! ← {"version":1,"refused":"this kernel has no sk_lookup"}
//! ```
//!
//! * **Nobody says who they are.** The agent takes the pod from the kernel: the peer
//!   credentials of the socket, then the network namespace and the cgroup of that process
//!   (with `SO_PEERPIDFD` where there is one, so that a number that is given to another
//!   process in between does not matter). Neither are lists sent: those of the mesh and of the
//!   pod's annotations count, and no process of the pod can change them.
//! * **The response comes when it is true**: `mode` once the pod is intercepted that way.
//! * **Versions.** Fields that are not known are left aside. What changes the meaning of a known
//!   one raises [`VERSION`]; an agent refuses a version that it does not know, and a client
//!   takes another version than its own for no answer.
//!
//! [`cni`] has the messages of the CNI plugin, which go the same way over a socket of their own.

pub mod cni;

use std::{
    io::{self, BufRead as _, BufReader, Read},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};

/// The version of what is written here.
pub const VERSION: u32 = 1;

/// Where the agent listens unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/osm/agent.sock";

/// The longest line that either side reads, in bytes, its line feed included.
pub const MAX_LINE: u64 = 4096;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// What for.
    pub request: Wanted,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// To intercept the pod that the asking process is in.
    Enrol,
}

/// What the agent responds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// See [`VERSION`].
    pub version: u32,
    /// What became of the request.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The pod is intercepted, in this way.
    Mode(Mode),
    /// It is not, and why.
    Refused(String),
}

/// The ways in which an agent intercepts a pod for an init container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// eBPF.
    Ebpf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody is there, or the connection broke.
    #[error(transparent)]
    Connection(#[from] io::Error),
    /// There was none in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The other side closed without a word.
    #[error("it closed without an answer")]
    Closed,
    /// The line does not end.
    #[error("it sent more than {MAX_LINE} bytes")]
    TooLong,
    /// The line is none of this protocol.
    #[error("it sent what is not of this protocol ({0})")]
    Odd(serde_json::Error),
    /// The line is of another version.
    #[error("it speaks version {0} of the protocol, and this program version {VERSION}")]
    OtherVersion(u32),
}

/// Asks the agent to intercept the pod that this process is in. Returns within about `limit`,
/// whatever the other side does.
///
/// # Errors
/// Where there is no answer.
pub fn enrol(socket: &Path, limit: Duration) -> Result<Answer, NoAnswer> {
    let request = Request {
        version: VERSION,
        request: Wanted::Enrol,
    };
    let response: Response = exchange(socket, limit, &request, |_| Ok(()))?;
    Ok(response.answer)
}

/// Sends one message to who listens on a socket and `may` be asked, and reads the response.
fn exchange<T: DeserializeOwned>(
    socket: &Path,
    limit: Duration,
    request: &impl Serialize,
    may: impl FnOnce(&UnixStream) -> io::Result<()>,
) -> Result<T, NoAnswer> {
    let deadline = Instant::now() + limit;
    let result = connect(socket, limit).and_then(|mut stream| {
        may(&stream)?;
        match write_line(&mut stream, request) {
            // Who refuses at once has said why before it closed.
            Err(NoAnswer::Connection(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        let mut line = Vec::new();
        BufReader::new(Patient { stream, deadline }.take(MAX_LINE)).read_until(b'\n', &mut line)?;
        parse(&line)
    });
    result.map_err(|error| match error {
        NoAnswer::Connection(error) if is_timeout(&error) => NoAnswer::TimedOut(limit),
        error => error,
    })
}

/// Reads one message of [`VERSION`] from a line, its line feed included.
///
/// # Errors
/// Where it is none.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, NoAnswer> {
    // The version first: of another one, nothing else need be understood.
    let value: serde_json::Value = read_line(line)?;
    let version: AnyVersion = from_value(value.clone())?;
    if version.version != VERSION {
        return Err(NoAnswer::OtherVersion(version.version));
    }
    from_value(value)
}

/// Writes one message.
///
/// # Errors
/// Where it can't be written.
pub fn write_line(mut stream: impl io::Write, message: &impl Serialize) -> Result<(), NoAnswer> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

/// One message as a line; empty, so that the peer takes it for none, where it has no JSON.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    match write_line(&mut line, message) {
        Ok(()) => line,
        Err(_) => Vec::new(),
    }
}

/// Reads one message.
///
/// # Errors
/// Where there is none.
pub fn read_line<T: DeserializeOwned>(stream: impl Read) -> Result<T, NoAnswer> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\n") {
        Some(line) => serde_json::from_slice(line).map_err(NoAnswer::Odd),
        None if line.len() as u64 == MAX_LINE => Err(NoAnswer::TooLong),
        None => Err(NoAnswer::Closed),
    }
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, NoAnswer> {
    serde_json::from_value(value).map_err(NoAnswer::Odd)
}

/// Connecting blocks where the agent's backlog is full, for as long as may be sent.
fn connect(path: &Path, limit: Duration) -> Result<UnixStream, NoAnswer> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A stream that is read until a moment, however slowly it drips.
struct Patient {
    stream: UnixStream,
    deadline: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_the_module_says() {
        let request = Request {
            version: VERSION,
            request: Wanted::Enrol,
        };
        let refused = Response {
            version: VERSION,
            answer: Answer::Refused("why".into()),
        };
        let ebpf = Response {
            version: VERSION,
            answer: Answer::Mode(Mode::Ebpf),
        };
        let mut lines = Vec::new();
        write_line(&mut lines, &request).expect("a vector takes it");
        write_line(&mut lines, &refused).expect("a vector takes it");
        write_line(&mut lines, &ebpf).expect("a vector takes it");
        assert_eq!(
            String::from_utf8_lossy(&lines),
            "{\"version\":1,\"request\":\"enrol\"}\n\
             {\"version\":1,\"refused\":\"why\"}\n\
             {\"version\":1,\"mode\":\"ebpf\"}\n"
        );
        let mut lines = lines.split_inclusive(|byte| *byte == b'\n');
        let mut next = || lines.next().expect("three lines");
        assert_eq!(read_line::<Request>(next()).expect("a request"), request);
        assert_eq!(read_line::<Response>(next()).expect("a response"), refused);
        assert_eq!(read_line::<Response>(next()).expect("a response"), ebpf);
    }

    #[test]
    fn lines_that_are_no_message_are_told_apart() {
        let read = |text: &str| read_line::<Response>(text.as_bytes());
        assert!(matches!(read(""), Err(NoAnswer::Closed)));
        assert!(matches!(read("{\"version\":1"), Err(NoAnswer::Closed)));
        assert!(matches!(read("hello\n"), Err(NoAnswer::Odd(_))));
        assert!(matches!(read("{\"version\":1}\n"), Err(NoAnswer::Odd(_))));
        assert!(matches!(read(&"x".repeat(5000)), Err(NoAnswer::TooLong)));
        let more = "{\"version\":1,\"mode\":\"ebpf\",\"since\":3}\n";
        assert!(read(more).is_ok(), "unknown fields are left aside");
    }
}
