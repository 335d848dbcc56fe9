//! The reference: the lists as `spec.md` reads, sentence by sentence, and nothing clever.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use osm_ebpf_common::{
    address::Address,
    decision::{Direction, Pod, RangeRule},
};

use crate::config::Lists;

/// A pod under lists that are searched from end to end. Compiled policies, and the datapaths
/// that are made from them, must answer as this does.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each setting that is on or off"
)]
pub struct Naive {
    /// The effective lists.
    pub lists: Lists,
    /// The pod's own addresses, loopback left aside.
    pub own_addresses: Vec<Address>,
    /// Whether native IPv6 is intercepted as well.
    pub dual_stack: bool,
    /// Whether the sidecar's calls to the local host go to the pod's address.
    pub pod_ip: bool,
    /// Whether anybody may be bound to the sidecar's ports.
    pub open_ports: bool,
    /// Whether the sidecar is known by its cgroup too.
    pub by_cgroup: bool,
}

impl Naive {
    /// Whether a process is the sidecar's: who runs as its user and, where that counts, in its container.
    #[must_use]
    pub const fn is_sidecar(&self, is_of_its_user: bool, is_in_its_cgroup: bool) -> bool {
        is_of_its_user && (is_in_its_cgroup || !self.by_cgroup)
    }
}

impl Pod for Naive {
    fn is_dual_stack(&self) -> bool {
        self.dual_stack
    }

    fn owns(&self, address: &Address) -> bool {
        self.own_addresses.contains(address)
    }

    fn range(&self, destination: &Address) -> RangeRule {
        let excluded = &self.lists.outbound_ranges_excluded;
        let included = &self.lists.outbound_ranges_included;
        // Ranges concern their own family only: without any of it, all of it is intercepted.
        let is_limited = included
            .iter()
            .any(|range| is_v4(range) == destination.is_v4());
        if any_holds(excluded, *destination) {
            RangeRule::Excluded
        } else if is_limited && !any_holds(included, *destination) {
            RangeRule::NotIncluded
        } else {
            RangeRule::Intercepted
        }
    }

    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        match direction {
            Direction::Outbound => self.lists.outbound_ports_excluded.contains(&port),
            Direction::Inbound => self.lists.inbound_ports_excluded.contains(&port),
        }
    }

    // Which interfaces there are and where routes lead is for a datapath to know.
    fn leaves_by_excluded_interface(&self, _destination: &Address) -> bool {
        false
    }

    fn excludes_interface(&self, _index: u32) -> bool {
        false
    }

    fn local_host_is_pod_address(&self) -> bool {
        self.pod_ip
    }

    fn guards_ports(&self) -> bool {
        !self.open_ports
    }
}

fn any_holds(ranges: &BTreeSet<IpNet>, address: Address) -> bool {
    ranges.iter().any(|range| holds(range, address))
}

/// A range holds addresses of its own family only.
fn holds(range: &IpNet, address: Address) -> bool {
    is_v4(range) == address.is_v4()
        && match (range, IpAddr::from(address)) {
            (IpNet::V4(range), IpAddr::V4(address)) => range.contains(&address),
            (IpNet::V6(range), IpAddr::V6(address)) => range.contains(&address),
            (IpNet::V6(range), IpAddr::V4(address)) => range.contains(&address.to_ipv6_mapped()),
            (IpNet::V4(_), IpAddr::V6(_)) => false,
        }
}

/// Whether it is a range of IPv4, which may also be written v4-mapped, with a length from 96
/// on.
fn is_v4(range: &IpNet) -> bool {
    match range {
        IpNet::V4(_) => true,
        IpNet::V6(range) => range.prefix_len() >= 96 && range.addr().to_ipv4_mapped().is_some(),
    }
}
