//! Two lists of ranges become one set of prefixes of which the longest match is final.

use std::collections::BTreeSet;

use ipnet::IpNet;
use osm_ebpf_common::{address::Address, maps::RangeEntry};

use super::Range;

/// A range in the 128-bit form. The order puts a range before those inside it and, of two
/// equal ranges, the excluded one first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    /// The first address. As a number, since [`Address`] does not order as addresses do.
    bits: u128,
    length: u8,
    rule: Rule,
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
};

/// The entries for two lists, by address in network order, then by length.
pub(super) fn compile(excluded: &BTreeSet<IpNet>, included: &BTreeSet<IpNet>) -> Vec<Range> {
    let prefixes = |list, rule| {
        let list: &BTreeSet<IpNet> = list;
        list.iter().map(move |range| Prefix::new(*range, rule))
    };
    let mut all: Vec<Prefix> = prefixes(excluded, Rule::Excluded)
        .chain(prefixes(included, Rule::Included))
        .collect();
    all.sort_unstable();

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
    V4.holds(&Prefix::new(*range, Rule::Neutral))
}

/// The first address of the range that is `length` bits long and holds `address`.
pub(super) fn first_of(address: Address, length: u8) -> Address {
    Address::from_octets((u128::from_be_bytes(address.octets()) & mask(length)).to_be_bytes())
}

impl Prefix {
    fn new(range: IpNet, rule: Rule) -> Self {
        let length = match range {
            IpNet::V4(v4) => V4.length + v4.prefix_len(),
            IpNet::V6(v6) => v6.prefix_len(),
        };
        let address = Address::from(range.addr());
        Self {
            bits: u128::from_be_bytes(address.octets()) & mask(length),
            length,
            rule,
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
