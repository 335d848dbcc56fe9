//! The documented rule set for a policy. Pure.

use std::{fmt::Write as _, net::IpAddr};

use osm_ebpf_common::{
    DIRECT_INBOUND_PORTS, INBOUND_PORT, OUTBOUND_PORT, SIDECAR_UID,
    decision::Direction,
    maps::{PolicyWord, RangeEntry},
};

use super::{canonical, save::Saved, transaction::transaction};
use crate::{
    error::{Error, Result},
    policy::{Policy, Range},
};

pub(super) const INBOUND: &str = "PROXY_INBOUND";
pub(super) const IN_REDIRECT: &str = "PROXY_IN_REDIRECT";
pub(super) const OUTPUT: &str = "PROXY_OUTPUT";
pub(super) const REDIRECT: &str = "PROXY_REDIRECT";

/// Our chains.
pub const CHAINS: [&str; 4] = [INBOUND, IN_REDIRECT, OUTPUT, REDIRECT];

/// Whence which of them is jumped to.
pub(super) const HOOKS: [(&str, &str); 2] = [("PREROUTING", INBOUND), ("OUTPUT", OUTPUT)];

/// The most ports that one multiport match takes (`XT_MULTI_PORTS` in the kernel).
const MULTIPORT: usize = 15;

/// An address family, each with a table and tools of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, also of IPv6 sockets.
    V4,
    /// Native IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// What its tools' names begin with.
    #[must_use]
    pub const fn tool(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    const fn localhost(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    const fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == matches!(self, Self::V4)
    }

    /// The flag of a policy that has inclusions of this family.
    const fn inclusion(self) -> u32 {
        match self {
            Self::V4 => PolicyWord::INCLUSION_V4,
            Self::V6 => PolicyWord::INCLUSION_V6,
        }
    }

    /// The range as people write it, where it is of this family.
    fn range(self, range: &Range) -> Option<String> {
        let is_v4 = range.address().is_v4() && range.length() >= 96;
        let length = range.length() - if is_v4 { 96 } else { 0 };
        let is_own = is_v4 == (self == Self::V4);
        is_own.then(|| format!("{}/{length}", range.address()))
    }
}

/// The rules of all families that are intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    v4: Rules,
    v6: Option<Rules>,
}

impl RuleSet {
    /// The rules for a pod under a policy. `addresses` are the pod's own; only
    /// `localProxyMode: PodIP` needs them, the first of each family.
    ///
    /// # Errors
    /// Where an interface's name can't be written so that iptables takes it for that name, or
    /// the address that the sidecar is to call is not known.
    pub fn new(policy: &Policy, addresses: &[IpAddr]) -> Result<Self> {
        for name in policy.excluded_interfaces() {
            check_interface(name)?;
        }
        if has(policy, PolicyWord::POD_IP) && addresses.is_empty() {
            return Err(Error::input(
                "spec.sidecar.localProxyMode",
                "PodIP needs the pod's address, which is not known",
                "give --pod-address, or run it after the pod's network is set up",
            ));
        }
        let is_dual = has(policy, PolicyWord::DUAL_STACK);
        Ok(Self {
            v4: Rules::new(policy, Family::V4, addresses),
            v6: is_dual.then(|| Rules::new(policy, Family::V6, addresses)),
        })
    }

    /// The rules of both families, the second where it is intercepted.
    pub(super) const fn of_families(v4: Rules, v6: Option<Rules>) -> Self {
        Self { v4, v6 }
    }

    /// The rules of one family; none where it is not intercepted.
    #[must_use]
    pub const fn of(&self, family: Family) -> Option<&Rules> {
        match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// What the tools are fed in a namespace that holds nothing of ours: for each family one
    /// text, which begins with a comment that names the tool.
    #[must_use]
    pub fn render(&self) -> String {
        Family::ALL
            .into_iter()
            .filter_map(|family| transaction(family, &Saved::default(), self.of(family)))
            .collect()
    }
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    chains: [Vec<String>; 4],
}

impl Rules {
    pub(super) fn new(policy: &Policy, family: Family, addresses: &[IpAddr]) -> Self {
        Self::of_chains(inbound(policy), output(policy, family, addresses))
    }

    /// With these rules of the two chains that differ from list to list.
    pub(super) fn of_chains(inbound: Vec<String>, output: Vec<String>) -> Self {
        let in_redirect = vec![redirect("to the inbound listener", INBOUND_PORT)];
        let digests = [&inbound, &in_redirect, &output].map(|chain| digest(chain));
        let outbound = vec![outbound_redirect(&digests)];
        Self {
            chains: [inbound, in_redirect, output, outbound],
        }
    }

    /// The chains by name, each with its rules in order: what follows `-A CHAIN `.
    pub fn chains(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        CHAINS
            .into_iter()
            .zip(self.chains.iter().map(Vec::as_slice))
    }
}

/// The one rule of `PROXY_REDIRECT`, with the digests of the chains before it.
pub(super) fn outbound_redirect(digests: &[String; 3]) -> String {
    let purpose = format!("to the outbound listener; rules {}", digests.join(" "));
    redirect(&purpose, OUTBOUND_PORT)
}

/// What tells one chain's rules from others, however iptables prints them.
pub(super) fn digest<S: AsRef<str>>(rules: &[S]) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for rule in rules {
        hash.update(canonical::canonical(rule.as_ref()));
        hash.update(b"\n");
    }
    let mut digest = String::new();
    for byte in hash.finalize().iter().take(6) {
        // Writing to a string does not fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// The jump into a chain, from where `HOOKS` says.
pub(super) fn jump(chain: &str) -> String {
    rule("-p tcp", "all TCP", chain)
}

fn inbound(policy: &Policy) -> Vec<String> {
    let ports: Vec<u16> = policy.excluded_ports(Direction::Inbound).collect();
    let mut rules = Vec::new();
    rules.extend(return_ports(&ports, "excluded inbound ports"));
    for name in policy.excluded_interfaces() {
        rules.push(rule(&format!("-i {name}"), "excluded interface", "RETURN"));
    }
    rules.extend(return_ports(&DIRECT_INBOUND_PORTS, "probes and metrics"));
    rules.push(rule("", "all other inbound", IN_REDIRECT));
    rules
}

fn output(policy: &Policy, family: Family, addresses: &[IpAddr]) -> Vec<String> {
    let localhost = family.localhost();
    let sidecar = format!("-m owner --uid-owner {SIDECAR_UID}");
    let own = addresses.iter().find(|address| family.has(**address));
    let mut rules = Vec::new();
    if let Some(own) = own.filter(|_| has(policy, PolicyWord::POD_IP)) {
        rules.push(rule(
            &format!("-d {localhost} -o lo -p tcp {sidecar}"),
            "sidecar to localhost goes to the pod's address",
            &format!("DNAT --to-destination {own}"),
        ));
    }
    rules.extend([
        rule(
            &format!("! -d {localhost} -o lo {sidecar}"),
            "sidecar to its pod",
            IN_REDIRECT,
        ),
        rule(
            &format!("-o lo -m owner ! --uid-owner {SIDECAR_UID}"),
            "inside the pod",
            "RETURN",
        ),
        rule(&sidecar, "sidecar", "RETURN"),
        rule(&format!("-d {localhost}"), "localhost", "RETURN"),
    ]);
    for name in policy.excluded_interfaces() {
        rules.push(rule(&format!("-o {name}"), "excluded interface", "RETURN"));
    }
    // Longest matches are made for a list in order: nothing included lies in a range that is
    // excluded, so all exclusions may come first.
    rules.extend(ranges(
        policy,
        family,
        RangeEntry::EXCLUDED,
        "excluded range",
        "RETURN",
    ));
    let ports: Vec<u16> = policy.excluded_ports(Direction::Outbound).collect();
    rules.extend(return_ports(&ports, "excluded outbound ports"));
    if has(policy, family.inclusion()) {
        rules.extend(ranges(
            policy,
            family,
            RangeEntry::INCLUDED,
            "included range",
            REDIRECT,
        ));
        rules.push(rule("", "outside of the included ranges", "RETURN"));
    } else {
        rules.push(rule("", "all other outbound", REDIRECT));
    }
    rules
}

fn ranges(
    policy: &Policy,
    family: Family,
    entry: RangeEntry,
    purpose: &str,
    target: &str,
) -> impl Iterator<Item = String> {
    policy
        .ranges()
        .iter()
        .filter(move |range| range.entry() == entry)
        .filter_map(move |range| family.range(range))
        .map(move |range| rule(&format!("-d {range}"), purpose, target))
}

fn return_ports(ports: &[u16], purpose: &str) -> impl Iterator<Item = String> {
    ports.chunks(MULTIPORT).map(move |ports| {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let ports = format!("-p tcp -m multiport --dports {}", ports.join(","));
        rule(&ports, purpose, "RETURN")
    })
}

fn redirect(purpose: &str, port: u16) -> String {
    rule("-p tcp", purpose, &format!("REDIRECT --to-ports {port}"))
}

/// A rule in the order in which `iptables-save` prints its parts.
fn rule(matches: &str, purpose: &str, target: &str) -> String {
    let space = if matches.is_empty() { "" } else { " " };
    format!("{matches}{space}-m comment --comment \"osm-agent: {purpose}\" -j {target}")
}

fn has(policy: &Policy, flag: u32) -> bool {
    policy.word(0).has(flag)
}

/// Refuses names that mean something else to iptables, or that can't stand in its files.
/// White space is refused with the configuration.
fn check_interface(name: &str) -> Result<()> {
    let problem = if name.ends_with('+') {
        "ends with a plus sign, which iptables takes for any name that begins so"
    } else if name.starts_with(['-', '!']) || name.contains(['"', '\'', '\\']) {
        "can't be written as an iptables rule"
    } else {
        return Ok(());
    };
    Err(Error::input(
        format!("spec.traffic.networkInterfaceExclusionList: {name:?}"),
        problem,
        "rename the interface, or use eBPF interception",
    ))
}
