//! `osm-agent status`

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::out::{plain, say};
use crate::{
    daemon::status::{PodStatus, State, Status},
    error::{Error, Result, Tried as _},
};

/// How long the agent may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Asks the node agent of this machine over HTTP, and prints what it found at its last pass,
/// pods with problems first.
#[derive(Args, Debug)]
#[command(after_help = "Exit status: 0 if the agent answers, else 1.

Examples:
  osm-agent status
  osm-agent status -o json | jq -r '.pods[] | select(.state == \"failed\") | .name'")]
pub struct StatusCommand {
    /// Where the agent listens: the address of its --listen
    #[arg(long, value_name = "URL", env = "OSM_AGENT_URL", default_value = "http://127.0.0.1:15905",
        value_parser = authority)]
    agent_url: String,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

impl StatusCommand {
    pub(super) fn run(self) -> Result<()> {
        let agent = &self.agent_url;
        let body = get(agent, "/status").map_err(|error| Error::System {
            tried: format!("ask the node agent at http://{agent}"),
            source: error.into(),
            advice: "; is `osm-agent run` running? Its --listen has to be this address: give it \
                     with --agent-url"
                .into(),
        })?;
        let odd = || format!("understand the answer of http://{agent}");
        match self.output {
            Format::Table => {
                let status: Status = serde_json::from_str(&body).tried(odd)?;
                say(format_args!("{}", table(status).trim_end()));
            }
            Format::Json => {
                let value: serde_json::Value = serde_json::from_str(&body).tried(odd)?;
                say(format_args!("{value:#}"));
            }
        }
        Ok(())
    }
}

/// `HOST:PORT` of a URL.
fn authority(url: &str) -> Result<String, String> {
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
fn get(authority: &str, path: &str) -> io::Result<String> {
    let deadline = Instant::now() + LIMIT;
    let mut stream = connect(authority)?;
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
        .ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))?;
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (version, code) = (words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(io::Error::other("what answers there does not speak HTTP"));
    }
    if code != Some("200") {
        let line = plain(line);
        return Err(io::Error::other(format!("it answers {line:?}")));
    }
    Ok(body.into())
}

fn table(mut status: Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    if !status.is_synced {
        let _ = writeln!(
            text,
            "The sources of pods and configuration have not all spoken yet."
        );
    }
    if let Some(problem) = &status.mesh_problem {
        let _ = writeln!(
            text,
            "The mesh's configuration is wrong, the last good one is in force: {}",
            plain(problem)
        );
    }
    status.pods.sort_by_key(urgency);
    let names: Vec<_> = status.pods.iter().map(|pod| plain(&pod.name)).collect();
    let widths = names.iter().map(|name| name.chars().count());
    let width = widths.max().unwrap_or_default().max("POD".len());
    let mut line = |name: &str, state: &str, detail: &str| {
        let line = format!("{name:width$}  {state:11}  {detail}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    if !status.pods.is_empty() {
        line("POD", "STATE", "DETAIL");
    }
    for (name, pod) in names.iter().zip(&status.pods) {
        line(name, pod.state.name(), &detail(pod));
    }
    let _ = writeln!(text, "{} pods: {}.", status.pods.len(), status.counts());
    text
}

/// What is wrong comes first.
fn urgency(pod: &PodStatus) -> u8 {
    match pod.state {
        State::Failed(_) => 0,
        _ if pod.lists_problem.is_some() => 1,
        State::Refused(_) => 2,
        State::Waiting(_) => 3,
        State::Intercepted(_) => 4,
    }
}

fn detail(pod: &PodStatus) -> String {
    let detail = match &pod.state {
        State::Intercepted(means) => format!("by {}", means.name()),
        State::Waiting(why) | State::Failed(why) | State::Refused(why) => plain(why),
    };
    match &pod.lists_problem {
        Some(problem) => format!("{detail}; last good lists: {}", plain(problem)),
        None => detail,
    }
}
