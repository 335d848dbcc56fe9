//! What becomes of one connection of a pod, and why: decided by [`decision`] over the pod's maps as they
//! are in the kernel.

pub mod connection;
mod rule;
mod seen;

use std::net::{IpAddr, SocketAddr};

use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, Inbound, Outbound, Verdict},
};
use serde::Serialize;

use crate::{
    ebpf::view::{Asked, PodView},
    error::Result,
};

pub use rule::Rule;
pub use seen::Seen;

/// A connection that is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    /// A process of the pod dials.
    Outbound {
        /// What it dials.
        destination: SocketAddr,
        /// As which user, as the initial user namespace numbers it; none for any but the sidecar's.
        uid: Option<u32>,
        /// In which cgroup; none for the sidecar's.
        cgroup: Option<u64>,
    },
    /// Somebody dials the pod.
    Inbound {
        /// Who.
        client: IpAddr,
        /// The pod's address and port.
        destination: SocketAddr,
        /// The number, in the pod, of the interface that it comes in by, where that is known.
        interface: Option<u32>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `redirect`, `pass` or `refuse`.
    pub verdict: &'static str,
    /// What is counted for it.
    pub reason: &'static str,
    /// Where the connection ends up, in words.
    pub outcome: String,
    /// What made it so.
    pub rule: Rule,
    /// What each end sees; none where there is no connection.
    pub seen: Option<Seen>,
    /// What makes it otherwise at the moment, in words.
    pub but: Vec<String>,
}

/// Answers for a pod.
///
/// # Errors
/// Where its maps can't be read.
pub fn explain(pod: &PodView, asked: &Asked<'_>, question: Question) -> Result<Explanation> {
    let verdict = match question {
        Question::Outbound {
            destination,
            uid,
            cgroup,
        } => decision::outbound(
            asked,
            &Outbound {
                destination: meant(destination.ip()),
                port: destination.port(),
                by_sidecar: uid.is_some_and(|uid| asked.is_sidecar(uid, cgroup)),
            },
        ),
        Question::Inbound {
            client,
            destination,
            interface,
        } => decision::inbound(
            asked,
            &Inbound {
                client: client.into(),
                destination: destination.ip().into(),
                port: destination.port(),
                interface,
            },
        ),
    };
    let verdict = asked.checked(verdict)?;
    let rule = Rule::of(asked, question, verdict)?;
    let mut but: Vec<_> = pod.problems.clone();
    let listener = match verdict {
        Verdict::Redirect(direction, _) => Some(direction),
        Verdict::Pass(_) | Verdict::ToPodAddress(_) => None,
    };
    let is_refused = listener.is_some_and(|direction| match direction {
        Direction::Outbound => pod.listeners.outbound == 0,
        Direction::Inbound => pod.listeners.inbound == 0,
    });
    if is_refused {
        but.push(
            "the sidecar does not listen there: the connection is refused until it does".into(),
        );
    }
    Ok(Explanation {
        verdict: match verdict {
            Verdict::Redirect(..) if is_refused => "refuse",
            Verdict::Redirect(..) => "redirect",
            Verdict::Pass(_) | Verdict::ToPodAddress(_) => "pass",
        },
        reason: verdict.reason().name(),
        outcome: seen::outcome(question, verdict),
        rule,
        seen: (!is_refused).then(|| Seen::of(asked, question, verdict)),
        but,
    })
}

/// An unspecified address is the local host to connect().
fn meant(dialled: IpAddr) -> Address {
    let address = Address::from(dialled);
    if address.is_unspecified() {
        Address::localhost(address.is_v4())
    } else {
        address
    }
}

impl Question {
    /// What is dialled.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        match self {
            Self::Outbound { destination, .. } | Self::Inbound { destination, .. } => *destination,
        }
    }
}
