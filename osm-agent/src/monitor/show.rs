//! How events look: a line each, for people or for programs.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use jiff::Timestamp;
use osm_ebpf_common::{
    address::Address,
    decision::Direction,
    maps::{Caller, Event},
    reason::{Kind, Reason},
};
use serde::Serialize;

use super::names::Names;
use crate::{
    cli::{
        out::{plain, warn},
        style,
    },
    ebpf::events::{Missed, since_boot},
};

/// How events look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, in columns.
    Table,
    /// One JSON object a line.
    Json,
}

/// Longer names of pods push the rest of their lines to the right.
const WIDEST_NAME: usize = 24;

/// Writes events.
pub(super) struct Show {
    format: Format,
    names: Names,
    width: usize,
}

/// One event, as programs read it. What is of no meaning is null.
#[derive(Serialize)]
struct Told {
    time: String,
    pod: String,
    netns_cookie: u64,
    direction: &'static str,
    verdict: Option<&'static str>,
    reason: Option<&'static str>,
    destination: SocketAddr,
    client: Option<SocketAddr>,
    process: Option<u32>,
    command: Option<String>,
    uid: Option<u32>,
}

#[derive(Serialize)]
struct Lost {
    lost: u64,
}

impl Show {
    pub(super) fn new(format: Format, names: Names) -> Self {
        let lengths = names.all().into_iter().map(|name| name.chars().count());
        let width = lengths.max().unwrap_or_default().clamp(3, WIDEST_NAME);
        Self {
            format,
            names,
            width,
        }
    }

    pub(super) const fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// What the columns are.
    pub(super) fn head(&self, out: &mut impl Write) -> io::Result<()> {
        if self.format == Format::Table {
            let line = self.line(["TIME", "POD", "FROM", "UID", "TO"], "VERDICT AND REASON");
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    pub(super) fn event(&mut self, out: &mut impl Write, event: &Event) -> io::Result<()> {
        let told = self.told(event);
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut *out, &told)?;
                writeln!(out)
            }
            Format::Table => writeln!(out, "{}", self.row(&told)),
        }
    }

    /// What was lost since the last time.
    pub(super) fn missed(&self, out: &mut impl Write, missed: Missed) -> io::Result<()> {
        if missed.lost > 0 {
            if self.format == Format::Json {
                serde_json::to_writer(&mut *out, &Lost { lost: missed.lost })?;
                writeln!(out)?;
            }
            warn(format_args!("{} events were lost", missed.lost));
        }
        if !missed.unheard.is_zero() {
            warn(format_args!(
                "this process did not run for {} s: what happened then is not known",
                missed.unheard.as_secs() + 1
            ));
        }
        Ok(())
    }

    fn told(&mut self, event: &Event) -> Told {
        let ends = event.ends();
        let caller = event.caller();
        let client = ends.client();
        Told {
            time: time(event),
            pod: self.names.of(event.netns_cookie()).into_owned(),
            netns_cookie: event.netns_cookie(),
            direction: match ends.direction() {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
            },
            verdict: event.reason().map(|reason| reason.kind().name()),
            reason: event.reason().map(Reason::name),
            destination: socket(ends.destination(), ends.port()),
            client: client.map(|(address, port)| socket(address, port)),
            process: caller.map(Caller::process),
            command: caller.map(|caller| plain(&String::from_utf8_lossy(caller.command()))),
            uid: caller.map(Caller::user),
        }
    }

    fn row(&self, told: &Told) -> String {
        let from = match (&told.command, told.process, told.client) {
            (Some(command), Some(process), _) => format!("{command}({process})"),
            (_, _, Some(client)) => client.to_string(),
            _ => "-".into(),
        };
        let uid = told.uid.map_or_else(|| "-".into(), |uid| uid.to_string());
        let to = told.destination.to_string();
        let reason = told.reason.unwrap_or("unknown");
        let clock = told.time.get(11..23).unwrap_or(&told.time);
        self.line(
            [clock, &told.pod, &from, &uid, &to],
            &in_colour(reason, told.verdict),
        )
    }

    fn line(&self, [time, pod, from, uid, to]: [&str; 5], reason: &str) -> String {
        let width = self.width;
        format!("{time:12}  {pod:width$}  {from:16}  {uid:>4}  {to:17}  {reason}")
    }
}

fn in_colour(reason: &str, verdict: Option<&str>) -> String {
    let is = |kind: Kind| verdict == Some(kind.name());
    if is(Kind::Redirect) {
        style::good(reason)
    } else if is(Kind::Refuse) {
        style::bad(reason)
    } else {
        reason.into()
    }
}

fn socket(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port)
}

/// When it happened, as the clock on the wall has it now: to the millisecond, in UTC.
fn time(event: &Event) -> String {
    let ago = since_boot()
        .unwrap_or_default()
        .saturating_sub(std::time::Duration::from_nanos(event.time()));
    let then = SystemTime::now().checked_sub(ago);
    let then = then.and_then(|then| Timestamp::try_from(then).ok());
    then.map_or_else(String::new, |then| format!("{then:.3}"))
}
