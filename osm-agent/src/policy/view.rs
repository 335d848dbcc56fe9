//! A policy asked as the BPF programs ask the maps.

use osm_ebpf_common::{
    address::Address,
    decision::{Direction, Pod, RangeRule},
    maps::{PolicyWord, RangeEntry},
};

use super::Policy;

/// A pod under a compiled policy. As in the kernel, a list is only asked if its flag is set.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    policy: &'a Policy,
    own_addresses: &'a [Address],
}

impl<'a> View<'a> {
    /// The pod that has these addresses of its own, loopback left aside.
    #[must_use]
    pub const fn new(policy: &'a Policy, own_addresses: &'a [Address]) -> Self {
        Self {
            policy,
            own_addresses,
        }
    }

    const fn word(&self) -> PolicyWord {
        self.policy.word(0)
    }
}

impl Pod for View<'_> {
    fn is_dual_stack(&self) -> bool {
        self.word().has(PolicyWord::DUAL_STACK)
    }

    fn owns(&self, address: &Address) -> bool {
        self.own_addresses.contains(address)
    }

    fn range(&self, destination: &Address) -> RangeRule {
        if !self.word().has(PolicyWord::RANGES) {
            return RangeRule::Intercepted;
        }
        let found = self.policy.longest_match(destination);
        RangeEntry::rule(found.map(super::Range::entry), self.word(), destination)
    }

    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        let flag = match direction {
            Direction::Outbound => PolicyWord::OUTBOUND_PORTS,
            Direction::Inbound => PolicyWord::INBOUND_PORTS,
        };
        self.word().has(flag) && self.policy.excludes_port(direction, port)
    }

    // Which interfaces there are and where routes lead is for a datapath to know.
    fn leaves_by_excluded_interface(&self, _destination: &Address) -> bool {
        false
    }

    fn excludes_interface(&self, _index: u32) -> bool {
        false
    }

    fn local_host_is_pod_address(&self) -> bool {
        self.word().has(PolicyWord::POD_IP)
    }

    fn guards_ports(&self) -> bool {
        !self.word().has(PolicyWord::OPEN_PORTS)
    }
}
