//! Two lists of ranges become one set of prefixes of which the longest match is final.

use std::collections::BTreeSet;

use ipnet::IpNet;
use osm_ebpf_common::{
    address::Address,
    maps::{Origin, RangeEntry},
};

use super::Range;
use crate::config::Lists;

/// A range in the 128-bit form. The order puts a range before those inside it and, of two
/// equal ranges, the excluded one first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    /// The first address. As a number, since [`Address`] does not order as addresses do.
    bits: u128,
    length: u8,
    rule: Rule,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Excluded,
    Included,
    /// Neither: hides what a shorter prefix says.
    Neutral,
}

/// `::ffff:0:0/96`, where IPv4 is.
const V4: Prefix = Prefix {
    bits: 0xffff_0000_0000,
    length: 96,
    rule: Rule::Neutral,
    origin: Origin::NONE,
};

/// The entries for the lists of mesh and pod together, by address in network order, then by length.
pub(super) fn compile(mesh: &Lists, pod: &Lists) -> Vec<Range> {
    let mut all = Vec::new();
    for (lists, origin) in [(mesh, Origin::MESH), (pod, Origin::POD)] {
        let both: [(&BTreeSet<IpNet>, Rule); 2] = [
            (&lists.outbound_ranges_excluded, Rule::Excluded),
            (&lists.outbound_ranges_included, Rule::Included),
        ];
        for (list, rule) in both {
            all.extend(list.iter().map(|it| Prefix::new(*it, rule, origin)));
        }
    }
    all.sort_unstable();
    // One that is on both lists.
    all.dedup_by(|next, first| {
        let is_same = next.bits == first.bits && next.length == first.length;
        let is_same = is_same && next.rule == first.rule;
        if is_same {
            first.origin = first.origin.and(next.origin);
        }
        is_same
    });

    // The families do not see each other, though one's addresses lie among the other's.
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(|prefix| V4.holds(prefix));
    let (mut kept, v6) = (without_redundant(v4), without_redundant(v6));
    let has_whole_v4 = kept.first().is_some_and(|first| first.length == V4.length);
    if !has_whole_v4 && v6.iter().any(|prefix| prefix.holds(&V4)) {
        kept.push(V4);
    }
    kept.extend(v6);
    kept.sort_unstable();
    kept.into_iter().map(Range::from).collect()
}

/// Whether it is a range of IPv4, however it is written.
pub(super) fn is_v4(range: &IpNet) -> bool {
    V4.holds(&Prefix::new(*range, Rule::Neutral, Origin::NONE))
}

/// The first address of the range that is `length` bits long and holds `address`.
pub(super) fn first_of(address: Address, length: u8) -> Address {
    Address::from_octets((u128::from_be_bytes(address.octets()) & mask(length)).to_be_bytes())
}

impl Prefix {
    fn new(range: IpNet, rule: Rule, origin: Origin) -> Self {
        let length = match range {
            IpNet::V4(v4) => V4.length + v4.prefix_len(),
            IpNet::V6(v6) => v6.prefix_len(),
        };
        let address = Address::from(range.addr());
        Self {
            bits: u128::from_be_bytes(address.octets()) & mask(length),
            length,
            rule,
            origin,
        }
    }

    /// Whether `other` is inside this range, or is the same.
    const fn holds(&self, other: &Self) -> bool {
        self.length <= other.length && other.bits & mask(self.length) == self.bits
    }
}

impl From<Prefix> for Range {
    fn from(prefix: Prefix) -> Self {
        Self {
            address: Address::from_octets(prefix.bits.to_be_bytes()),
            length: prefix.length,
            entry: match prefix.rule {
                Rule::Excluded => RangeEntry::EXCLUDED,
                Rule::Included => RangeEntry::INCLUDED,
                Rule::Neutral => RangeEntry::NEUTRAL,
            },
            origin: prefix.origin,
        }
    }
}

/// Leaves out what the nearest range around it says already, or overrules: anything inside
/// an exclusion, and inclusions inside an inclusion.
fn without_redundant(sorted: Vec<Prefix>) -> Vec<Prefix> {
    let mut kept = Vec::with_capacity(sorted.len());
    // The kept ranges that hold the one at hand, the nearest last.
    let mut around: Vec<Prefix> = Vec::new();
    for prefix in sorted {
        while around.pop_if(|range| !range.holds(&prefix)).is_some() {}
        let is_redundant = around
            .last()
            .is_some_and(|range| range.rule == Rule::Excluded || range.rule == prefix.rule);
        if !is_redundant {
            around.push(prefix);
            kept.push(prefix);
        }
    }
    kept
}

/// The first `length` of 128 bits.
const fn mask(length: u8) -> u128 {
    match u128::MAX.checked_shl(128 - length as u32) {
        Some(mask) => mask,
        None => 0,
    }
}
