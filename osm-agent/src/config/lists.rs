//! The four lists that mesh and pod both have.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// Exclusions and inclusions, of the mesh, of one pod, or of both together.
///
/// Parsed ranges have their host bits cleared, and IPv4 is never v4-mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lists {
    /// Destinations that are not intercepted, whatever the inclusions say.
    pub outbound_ranges_excluded: BTreeSet<IpNet>,
    /// If there are any of a family: the only destinations of it that are intercepted.
    pub outbound_ranges_included: BTreeSet<IpNet>,
    /// Ports that the pod reaches directly. 1 to 65535, host byte order.
    pub outbound_ports_excluded: BTreeSet<u16>,
    /// Ports on which the pod is reached directly. 1 to 65535, host byte order.
    pub inbound_ports_excluded: BTreeSet<u16>,
}

impl Lists {
    /// What is in force for a pod: everything that one of the two says. A pod can add to the
    /// lists of its mesh and not take away.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            outbound_ranges_excluded: &self.outbound_ranges_excluded
                | &other.outbound_ranges_excluded,
            outbound_ranges_included: &self.outbound_ranges_included
                | &other.outbound_ranges_included,
            outbound_ports_excluded: &self.outbound_ports_excluded | &other.outbound_ports_excluded,
            inbound_ports_excluded: &self.inbound_ports_excluded | &other.inbound_ports_excluded,
        }
    }
}
