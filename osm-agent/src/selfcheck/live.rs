//! The same for a pod in use, whose real sidecar listens, or should.
//!
//! Its listeners are never taken, nor is it given an interface: what is made in the pod is one
//! listener on a port that the kernel chooses, and connections that end with a reset. The sidecar
//! sees those that are redirected to it, from addresses and to destinations that are nobody's.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use osm_ebpf_common::{INBOUND_PORT, maps::PolicyWord};

use super::{
    ARRIVES_WITHIN, Finding, Outcome, RESETS, Seen,
    dial::{DialError, dial},
    name,
    plan::{Caller, Network as _},
    pod_network::PodNetwork,
    redirected, try_all, unheard, was_reset,
    witness::{Arrival, Witness},
};
use crate::{error::Result, pod, policy::Policy};

/// A pod in use. The calling process is in its network namespace; behind eBPF, in its cgroup too.
#[derive(Debug)]
pub struct Live<'a> {
    /// What the pod goes by.
    pub policy: &'a Policy,
    /// Its own addresses.
    pub own: Vec<IpAddr>,
    /// The sidecar's user, as this process numbers it.
    pub sidecar_uid: u32,
    /// Whether the sidecar is known by its cgroup too, in which the calling process is not.
    pub goes_by_cgroup: bool,
    /// A network namespace that reaches the pod, from which inbound connections are tried.
    pub from: Option<&'a File>,
}

impl Live<'_> {
    /// Makes the connections. It takes half a second, and longer only where something is wrong.
    ///
    /// # Errors
    /// Where it can't listen, or something else than the sidecar has its ports.
    pub fn run(self) -> Result<Vec<Finding>> {
        let dual = self.policy.word(0).has(PolicyWord::DUAL_STACK);
        let network = PodNetwork::new(self.own);
        let mut witness = Witness::watch(dual, self.sidecar_uid)?;
        witness.is_elsewhere = self.goes_by_cgroup;
        let mut findings = try_all(self.policy, &network, &witness);
        for is_v6 in [false, true] {
            let ip = network.own().iter().find(|ip| ip.is_ipv6() == is_v6);
            let Some(ip) = ip.filter(|_| !is_v6 || dual) else {
                continue;
            };
            findings.push(Finding {
                path: name("inbound", is_v6),
                outcome: inbound(*ip, self.from, &witness),
            });
        }
        Ok(findings)
    }
}

/// Connects to a port of the pod on which only this process listens.
fn inbound(ip: IpAddr, from: Option<&File>, witness: &Witness) -> Outcome {
    let Some(from) = from else {
        return Outcome::Unproven(
            "nobody outside of the pod is there to try it: give a network namespace that reaches \
             it with --from"
                .into(),
        );
    };
    let to = SocketAddr::new(ip, witness.quiet.0);
    let mut seen = dial_from(from, to, witness);
    for _ in 0..RESETS {
        if !matches!(seen, Ok((None, true))) {
            break;
        }
        seen = dial_from(from, to, witness);
    }
    let seen: Seen = match seen {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Outcome::Unproven(format!(
                "{to} does not answer the one that tries from outside"
            ));
        }
        Ok((None, true)) => return Outcome::Unproven(was_reset(to)),
        seen => seen.map(|(arrival, _)| arrival),
    };
    unheard(to, INBOUND_PORT, &seen, witness).unwrap_or_else(|| redirected(to, INBOUND_PORT, seen))
}

/// Where it arrived, and whether the other end reset it.
fn dial_from(
    from: &File,
    to: SocketAddr,
    witness: &Witness,
) -> io::Result<(Option<Arrival>, bool)> {
    let connection = pod::inside(from, || {
        let dialled = dial(Caller::App, witness.sidecar, to, ARRIVES_WITHIN);
        dialled.map_err(|error| match error {
            DialError::User(why) => io::Error::other(why),
            DialError::Connect(error) => error,
        })
    })?;
    let arrival = witness.arrival_of(&connection, false, Instant::now() + ARRIVES_WITHIN);
    Ok((arrival, connection.is_reset()))
}
