//! What each end sees of a connection.

use std::net::{IpAddr, SocketAddr};

use osm_ebpf_common::{
    INBOUND_PORT, OUTBOUND_PORT,
    address::Address,
    decision::{Direction, Verdict},
};
use serde::Serialize;

use super::{Question, meant};
use crate::ebpf::view::Asked;

/// What both ends are shown, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// By who dials: `getpeername`.
    pub by_dialler: String,
    /// By who accepts: `accept` and `getpeername`, and for the sidecar `SO_ORIGINAL_DST`.
    pub by_acceptor: String,
}

/// Where the connection ends up.
pub(super) fn outcome(question: Question, verdict: Verdict) -> String {
    let destination = question.destination();
    match verdict {
        Verdict::Pass(_) => format!("goes to {destination} directly"),
        Verdict::Redirect(direction, _) => {
            let (which, port) = listener(direction);
            format!("goes to the sidecar's {which} listener, port {port}")
        }
        Verdict::ToPodAddress(_) => {
            format!("goes to the pod's own address, port {}", destination.port())
        }
    }
}

impl Seen {
    pub(super) fn of(asked: &Asked<'_>, question: Question, verdict: Verdict) -> Self {
        let destination = question.destination();
        let dialler = match question {
            Question::Inbound { client, .. } => client.to_string(),
            Question::Outbound { .. } => source(asked, destination),
        };
        let by_dialler = format!("its peer is {destination}");
        let by_acceptor = match verdict {
            Verdict::Redirect(..) => {
                format!("the sidecar's peer is {dialler}, its original destination {destination}")
            }
            Verdict::Pass(_) => format!("its peer is {dialler}; the sidecar sees nothing of it"),
            Verdict::ToPodAddress(_) => "the application's peer is 127.0.0.1".into(),
        };
        Self {
            by_dialler,
            by_acceptor,
        }
    }
}

/// From where the pod speaks to a destination.
fn source(asked: &Asked<'_>, destination: SocketAddr) -> String {
    let meant = meant(destination.ip());
    if meant.is_loopback() {
        return Address::localhost(meant.is_v4()).to_string();
    }
    match asked.source(meant.is_v4()) {
        Some(own) => IpAddr::from(own).to_string(),
        None => "the pod".into(),
    }
}

const fn listener(direction: Direction) -> (&'static str, u16) {
    match direction {
        Direction::Outbound => ("outbound", OUTBOUND_PORT),
        Direction::Inbound => ("inbound", INBOUND_PORT),
    }
}
