//! Asks the node agent over HTTP.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use crate::{cli::out::plain, daemon::status::Status};

/// How long the agent may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// What came of asking.
#[derive(Debug)]
pub enum Answer {
    /// It runs, and says so.
    Status(Status),
    /// Nobody listens there.
    Absent(io::Error),
    /// Somebody does, and what it says is not the agent's; or it says nothing in time.
    Odd(String),
}

/// Asks the agent at `HOST:PORT`.
pub fn ask(authority: &str) -> Answer {
    let stream = match connect(authority) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Answer::Odd("it does not answer in time".into());
        }
        Err(error) => return Answer::Absent(error),
    };
    let body = match get(stream, authority, "/status") {
        Ok(body) => body,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Answer::Odd("it does not answer in time".into());
        }
        Err(error) => return Answer::Odd(error.to_string()),
    };
    match serde_json::from_str(&body) {
        Ok(status) => Answer::Status(status),
        Err(error) => Answer::Odd(format!("its answer can't be understood: {error}")),
    }
}

/// `HOST:PORT` of a URL.
pub fn authority(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port && !authority.contains(['/', '@', '?', '#']) {
        Ok(authority.into())
    } else {
        Err("expected http://ADDRESS:PORT".into())
    }
}

/// The body of what an HTTP server answers, if it says that all is well.
fn get(mut stream: TcpStream, authority: &str, path: &str) -> io::Result<String> {
    let deadline = Instant::now() + LIMIT;
    stream.set_write_timeout(Some(LIMIT))?;
    // Of HTTP/1.0, so that the body comes as it is and ends with the connection. In one piece:
    // who closes after the first has answered all the same.
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::other("the answer does not end"));
        }
    }
    body(&answer)
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn body(answer: &[u8]) -> io::Result<String> {
    let text = str::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("it does not speak HTTP"))?;
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (version, code) = (words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(io::Error::other("it does not speak HTTP"));
    }
    if code != Some("200") {
        let line = plain(line);
        return Err(io::Error::other(format!("it answers {line:?}")));
    }
    Ok(body.into())
}
