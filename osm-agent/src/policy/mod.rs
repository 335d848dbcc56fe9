//! From lists to what the kernel looks up. Pure: equal lists give the equal policy.
//!
//! * [`Policy`]: the normal form, which the datapath writes into maps,
//! * [`View`]: a policy asked as the kernel asks it, for `explain` and for tests,
//! * [`Naive`]: the lists asked as `spec.md` puts it, the reference for both.

mod naive;
mod ranges;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use osm_ebpf_common::{
    address::Address,
    decision::Direction,
    maps::{Origin, PolicyWord, PortPage, RangeEntry},
};
use sha2::{Digest, Sha256};

use crate::config::{Lists, LocalProxyMode, MeshConfig, SidecarIdentity};

pub use naive::Naive;
pub use view::View;

/// The lists of one or many pods in the form in which the kernel looks them up.
///
/// It holds no id: [`Self::word`] joins it with the one under which its entries are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    ranges: Vec<Range>,
    /// The prefix lengths that occur, the longest first. Follows from `ranges`.
    lengths: Vec<u8>,
    /// By direction, and by the number of the page.
    pages: BTreeMap<(Direction, u16), PortPage>,
    /// By name: what they are called is the same in all pods, what they are numbered is not.
    excluded_interfaces: BTreeSet<String>,
    flags: u32,
}

/// One entry of the ranges: the longest that holds an address is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    address: Address,
    length: u8,
    entry: RangeEntry,
    origin: Origin,
}

impl Range {
    /// The first address of the range.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// How many bits of the 128-bit form count, 0 to 128: 96 more than IPv4 people write. In
    /// the kernel's key the 32 bits of the policy's id come before them.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// What it says of the addresses it holds.
    #[must_use]
    pub const fn entry(&self) -> RangeEntry {
        self.entry
    }

    /// The same with whose list says so: what is stored.
    #[must_use]
    pub const fn stored(&self) -> RangeEntry {
        self.entry.of(self.origin)
    }
}

impl Policy {
    /// The policy of a pod in its mesh; `pod` is what its annotations add to the lists.
    #[must_use]
    pub fn of_pod(mesh: &MeshConfig, pod: &Lists, dual_stack: bool) -> Self {
        let policy = Self::compile_both(&mesh.lists, pod, dual_stack)
            .with_excluded_interfaces(mesh.excluded_interfaces.clone())
            .with_shortcut(mesh.shortcut)
            .with_open_ports(mesh.open_ports)
            .with_sidecar_cgroup(mesh.sidecar_identity == SidecarIdentity::UidAndCgroup);
        match mesh.local_proxy_mode {
            LocalProxyMode::Localhost => policy,
            LocalProxyMode::PodIp => policy.with_pod_ip(),
        }
    }

    /// The same from lists of the mesh alone, and nothing but lists.
    #[must_use]
    pub fn compile(lists: &Lists, dual_stack: bool) -> Self {
        Self::compile_both(lists, &Lists::default(), dual_stack)
    }

    /// Compiles the effective lists, the union of mesh and pod.
    ///
    /// Exclusion beats inclusion: what lies in an excluded range is not stored, nor is an
    /// inclusion in an inclusion. An IPv6 range that reaches across the v4-mapped addresses,
    /// such as `::/0`, is kept from IPv4 by a neutral entry. Inclusions limit their own family
    /// only. `dual_stack` says whether native IPv6 is intercepted as well.
    fn compile_both(mesh: &Lists, pod: &Lists, dual_stack: bool) -> Self {
        let lists = &mesh.union(pod);
        let ranges = ranges::compile(mesh, pod);
        // By the list, not by the entries: an inclusion that is excluded as a whole leaves no
        // entry, but goes on excluding everything else of its family.
        let mut included = lists.outbound_ranges_included.iter().map(ranges::is_v4);
        let flags = [
            (PolicyWord::RANGES, !ranges.is_empty()),
            (
                PolicyWord::INCLUSION_V4,
                included.clone().any(|is_v4| is_v4),
            ),
            (PolicyWord::INCLUSION_V6, included.any(|is_v4| !is_v4)),
            (
                PolicyWord::OUTBOUND_PORTS,
                !lists.outbound_ports_excluded.is_empty(),
            ),
            (
                PolicyWord::INBOUND_PORTS,
                !lists.inbound_ports_excluded.is_empty(),
            ),
            (PolicyWord::DUAL_STACK, dual_stack),
        ];
        Self {
            lengths: lengths(&ranges),
            ranges,
            pages: pages(mesh, pod),
            excluded_interfaces: BTreeSet::new(),
            flags: flags
                .into_iter()
                .filter_map(|(flag, is_set)| is_set.then_some(flag))
                .fold(0, |flags, flag| flags | flag),
        }
    }

    /// The policy that these entries were written for, as they are stored: ranges with their
    /// lengths, and pages with their directions and first ports.
    #[must_use]
    pub(crate) fn of_stored(
        ranges: impl IntoIterator<Item = (Address, u8, RangeEntry)>,
        pages: impl IntoIterator<Item = (Direction, u16, PortPage)>,
        excluded_interfaces: BTreeSet<String>,
        flags: u32,
    ) -> Self {
        let range = |(address, length, entry): (_, _, RangeEntry)| Range {
            address,
            length,
            entry: entry.kind(),
            origin: entry.origin(),
        };
        let mut ranges: Vec<Range> = ranges.into_iter().map(range).collect();
        ranges.sort_unstable_by_key(|range| (range.address.octets(), range.length));
        let page = |(direction, first, page)| ((direction, first / PortPage::PORTS), page);
        Self {
            lengths: lengths(&ranges),
            ranges,
            pages: pages.into_iter().map(page).collect(),
            excluded_interfaces,
            flags,
        }
    }

    /// The same, with traffic by way of these interfaces left alone.
    #[must_use]
    pub fn with_excluded_interfaces(mut self, names: BTreeSet<String>) -> Self {
        self.flags &= !PolicyWord::INTERFACES;
        if !names.is_empty() {
            self.flags |= PolicyWord::INTERFACES;
        }
        self.excluded_interfaces = names;
        self
    }

    /// The same, with bytes between app and sidecar handed over from socket to socket, or not.
    #[must_use]
    pub const fn with_shortcut(self, is_wanted: bool) -> Self {
        self.with_flag(PolicyWord::SHORTCUT, is_wanted)
    }

    /// The same, with the sidecar's ports open to anybody, or for the sidecar alone.
    #[must_use]
    pub const fn with_open_ports(self, are_open: bool) -> Self {
        self.with_flag(PolicyWord::OPEN_PORTS, are_open)
    }

    /// The same, with who runs as the sidecar's user taken for it in its own cgroup only, or anywhere.
    #[must_use]
    pub const fn with_sidecar_cgroup(self, is_asked: bool) -> Self {
        self.with_flag(PolicyWord::SIDECAR_CGROUP, is_asked)
    }

    const fn with_flag(mut self, flag: u32, is_set: bool) -> Self {
        self.flags &= !flag;
        if is_set {
            self.flags |= flag;
        }
        self
    }

    /// Whether the sidecar is to be told from others of its user by its cgroup.
    #[must_use]
    pub const fn asks_for_cgroup(&self) -> bool {
        self.flags & PolicyWord::SIDECAR_CGROUP != 0
    }

    /// Whether bytes between app and sidecar are to be handed over from socket to socket.
    #[must_use]
    pub const fn takes_shortcut(&self) -> bool {
        self.flags & PolicyWord::SHORTCUT != 0
    }

    /// The same, with the sidecar's calls to the local host going to the pod's address.
    #[must_use]
    pub fn with_pod_ip(mut self) -> Self {
        self.flags |= PolicyWord::POD_IP;
        self
    }

    /// The names of the interfaces whose traffic is left alone.
    #[must_use]
    pub const fn excluded_interfaces(&self) -> &BTreeSet<String> {
        &self.excluded_interfaces
    }

    /// The range entries, by address in network order, then by length.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The pages that hold a port, each with its direction and the first port it can hold
    /// (host byte order).
    pub fn port_pages(&self) -> impl Iterator<Item = (Direction, u16, &PortPage)> {
        self.pages
            .iter()
            .map(|((direction, page), bits)| (*direction, page * PortPage::PORTS, bits))
    }

    /// The excluded ports of a direction, in ascending order (host byte order).
    pub fn excluded_ports(&self, direction: Direction) -> impl Iterator<Item = u16> {
        self.port_pages()
            .filter(move |(of, ..)| *of == direction)
            .flat_map(|(_, first, bits)| {
                (first..=first + (PortPage::PORTS - 1)).filter(|port| bits.contains(*port))
            })
    }

    /// Whether there is nothing to look up: the flags say it all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.pages.is_empty() && self.excluded_interfaces.is_empty()
    }

    /// The flags; see [`PolicyWord`].
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags
    }

    /// The word that puts this policy in force for a pod, once its entries are written under
    /// `id`.
    #[must_use]
    pub const fn word(&self, id: u32) -> PolicyWord {
        PolicyWord::new(id, self.flags)
    }

    /// SHA-256 of the whole policy: equal for equal policies, across restarts and machines.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"osm-agent policy, form 2\0");
        hash.update(self.flags.to_be_bytes());
        // The count divides ranges from ports; each of either has one length.
        hash.update((self.ranges.len() as u64).to_be_bytes());
        for range in &self.ranges {
            hash.update(range.address.octets());
            let origin = range.origin.bits();
            hash.update([range.length, name_byte(range.entry), origin]);
        }
        for (direction, first, page) in self.port_pages() {
            for port in (first..=first + (PortPage::PORTS - 1)).filter(|it| page.contains(*it)) {
                hash.update((direction as u16).to_be_bytes());
                hash.update(port.to_be_bytes());
                hash.update([page.origin(port).bits()]);
            }
        }
        for name in &self.excluded_interfaces {
            hash.update(name.as_bytes());
            hash.update(b"\0");
        }
        hash.finalize().into()
    }

    /// The entry that decides on an address: of those that hold it, the one with the greatest
    /// length.
    #[must_use]
    pub fn longest_match(&self, address: &Address) -> Option<&Range> {
        self.lengths.iter().find_map(|length| {
            let wanted = (ranges::first_of(*address, *length).octets(), *length);
            let found = self
                .ranges
                .binary_search_by_key(&wanted, |range| (range.address.octets(), range.length));
            found.ok().and_then(|index| self.ranges.get(index))
        })
    }

    fn excludes_port(&self, direction: Direction, port: u16) -> bool {
        self.pages
            .get(&(direction, port / PortPage::PORTS))
            .is_some_and(|page| page.contains(port))
    }
}

fn pages(mesh: &Lists, pod: &Lists) -> BTreeMap<(Direction, u16), PortPage> {
    let mut pages = BTreeMap::new();
    for (lists, origin) in [(mesh, Origin::MESH), (pod, Origin::POD)] {
        for (direction, ports) in [
            (Direction::Outbound, &lists.outbound_ports_excluded),
            (Direction::Inbound, &lists.inbound_ports_excluded),
        ] {
            for port in ports {
                pages
                    .entry((direction, port / PortPage::PORTS))
                    .or_insert(PortPage::EMPTY)
                    .insert(*port, origin);
            }
        }
    }
    pages
}

fn lengths(ranges: &[Range]) -> Vec<u8> {
    let lengths: BTreeSet<u8> = ranges.iter().map(|range| range.length).collect();
    lengths.into_iter().rev().collect()
}

const fn name_byte(entry: RangeEntry) -> u8 {
    match entry {
        RangeEntry::EXCLUDED => b'x',
        RangeEntry::INCLUDED => b'i',
        _ => b'n',
    }
}
