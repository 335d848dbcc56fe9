//! The pod a program runs for, as the maps describe it.

use core::ptr;

use aya_ebpf::maps::lpm_trie::Key;
use osm_ebpf_common::{
    address::Address,
    decision::{self, Direction, RangeRule},
    maps::{
        InterceptedPair, InterfaceKey, LocalKey, PodEntry, PolicyWord, PortPageKey, RangeEntry,
        RangeKey, RouteEntry, RouteKey,
    },
};

use crate::{
    kernel,
    maps::{INTERCEPTED, INTERFACES, LOCALS, PODS, POLICY_IN_FORCE, PORT_PAGES, RANGES, ROUTES},
};

/// A pod and the one policy that this run of the program goes by.
pub struct Pod {
    /// What does not change while the pod lives.
    pub entry: PodEntry,
    policy: PolicyWord,
}

impl Pod {
    /// The pod of a network namespace; none where the namespace is not enrolled.
    #[inline(always)]
    #[must_use]
    pub fn find(netns_cookie: u64) -> Option<Self> {
        let entry = PODS.get_ptr(netns_cookie)?;
        // SAFETY: an element stays readable until the program ends.
        let entry = unsafe { entry.read() };
        // While it is read, the kernel may give the memory of a removed pod to another one.
        if entry.netns_cookie() != netns_cookie {
            return None;
        }
        let policy = POLICY_IN_FORCE.get_ptr(entry.slot())?;
        // SAFETY: an element of an array stays; the agent replaces the word in one store.
        let policy = unsafe { ptr::read_volatile(policy) };
        Some(Self { entry, policy })
    }

    /// Whether the process that runs the program is the sidecar's. For programs of connect() and bind().
    #[inline(always)]
    #[must_use]
    pub fn is_caller_the_sidecar(&self) -> bool {
        let user = kernel::current_uid();
        self.entry
            .is_sidecar(self.policy, user, kernel::current_cgroup)
    }

    /// Whether the sidecar is told from others of its user.
    #[inline(always)]
    #[must_use]
    pub const fn goes_by_cgroup(&self) -> bool {
        self.entry.goes_by_cgroup(self.policy)
    }

    /// Whether the sidecar's identity is to be by cgroup as well: 0 or 1, which no branch makes known to the verifier.
    #[inline(always)]
    #[must_use]
    pub const fn wants_cgroup(&self) -> u64 {
        self.policy.bit(PolicyWord::SIDECAR_CGROUP)
    }

    /// Whether its connections to and from the sidecar take the loopback shortcut.
    #[inline(always)]
    #[must_use]
    pub const fn takes_shortcut(&self) -> bool {
        self.policy.has(PolicyWord::SHORTCUT)
    }

    /// The address that connections to `destination` come from; none where the kernel
    /// chooses it as for any other connection.
    #[inline(always)]
    #[must_use]
    pub fn source_for(&self, destination: &Address) -> Option<Address> {
        if destination.is_loopback() {
            return None;
        }
        if decision::Pod::owns(self, destination) {
            return Some(*destination);
        }
        self.address(destination.is_v4())
    }

    /// The pod's first address of a family.
    #[inline(always)]
    #[must_use]
    pub fn address(&self, v4: bool) -> Option<Address> {
        let own = if v4 {
            self.entry.address_v4()
        } else {
            self.entry.address_v6()
        };
        (!own.is_unspecified()).then_some(own)
    }
}

impl decision::Pod for Pod {
    #[inline(always)]
    fn is_dual_stack(&self) -> bool {
        self.policy.has(PolicyWord::DUAL_STACK)
    }

    #[inline(always)]
    fn owns(&self, address: &Address) -> bool {
        *address == self.entry.address_v4()
            || *address == self.entry.address_v6()
            || (self.entry.has_more_addresses()
                && LOCALS
                    .get_ptr(LocalKey::new(self.entry.netns_cookie(), *address))
                    .is_some())
    }

    #[inline(always)]
    fn range(&self, destination: &Address) -> RangeRule {
        if !self.policy.has(PolicyWord::RANGES) {
            return RangeEntry::rule(None, self.policy, destination);
        }
        let pair = InterceptedPair::new(self.policy.id(), destination);
        let kept = pair.and_then(|pair| INTERCEPTED.get_ptr_mut(pair.place()));
        // SAFETY: an element of an array stays, and is read and written as one word.
        let found = kept.map(|kept| unsafe { kept.read_volatile() });
        if found.is_some() && found == pair {
            return RangeRule::Intercepted;
        }
        let key = RangeKey::new(self.policy.id(), *destination);
        let found = RANGES.get(&Key::new(RangeKey::FULL_LENGTH, key)).copied();
        let rule = RangeEntry::rule(found, self.policy, destination);
        if rule == RangeRule::Intercepted
            && let (Some(kept), Some(pair)) = (kept, pair)
        {
            // SAFETY: as above.
            unsafe { kept.write_volatile(pair) };
        }
        rule
    }

    #[inline(always)]
    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        let flag = match direction {
            Direction::Outbound => PolicyWord::OUTBOUND_PORTS,
            Direction::Inbound => PolicyWord::INBOUND_PORTS,
        };
        if !self.policy.has(flag) {
            return false;
        }
        let key = PortPageKey::new(self.policy.id(), direction, port);
        let Some(page) = PORT_PAGES.get_ptr(key) else {
            return false;
        };
        // SAFETY: an element stays readable until the program ends.
        unsafe { &*page }.contains(port)
    }

    #[inline(always)]
    fn leaves_by_excluded_interface(&self, destination: &Address) -> bool {
        if !self.policy.has(PolicyWord::INTERFACES) {
            return false;
        }
        let key = RouteKey::new(self.entry.netns_cookie(), self.policy.id(), *destination);
        ROUTES.get(&Key::new(RouteKey::FULL_LENGTH, key)) == Some(&RouteEntry::EXCLUDED)
    }

    #[inline(always)]
    fn excludes_interface(&self, index: u32) -> bool {
        self.policy.has(PolicyWord::INTERFACES)
            && INTERFACES
                .get_ptr(InterfaceKey::new(
                    self.entry.netns_cookie(),
                    self.policy.id(),
                    index,
                ))
                .is_some()
    }

    #[inline(always)]
    fn local_host_is_pod_address(&self) -> bool {
        self.policy.has(PolicyWord::POD_IP)
    }

    #[inline(always)]
    fn guards_ports(&self) -> bool {
        !self.policy.has(PolicyWord::OPEN_PORTS)
    }
}
