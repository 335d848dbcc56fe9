//! Lists of ports.

use super::Origin;
use crate::decision::Direction;

/// The key of 512 neighbouring ports of one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortPageKey {
    policy: u32,
    direction: u16,
    page: u16,
}

impl PortPageKey {
    /// The page that holds `port`.
    #[inline(always)]
    #[must_use]
    pub const fn new(policy: u32, direction: Direction, port: u16) -> Self {
        Self {
            policy,
            direction: direction as u16,
            page: port / PortPage::PORTS,
        }
    }

    /// The first port that the page can hold.
    #[must_use]
    pub const fn first_port(self) -> u16 {
        self.page * PortPage::PORTS
    }

    /// Whether it is a list for connections of that direction.
    #[must_use]
    pub const fn is_for(self, direction: Direction) -> bool {
        self.direction == direction as u16
    }

    /// The policy the list belongs to.
    #[must_use]
    pub const fn policy(self) -> u32 {
        self.policy
    }
}

/// Two bits for each of 512 neighbouring ports: whether it is on the mesh's list, and whether on the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortPage {
    mesh: [u64; 8],
    pod: [u64; 8],
}

impl PortPage {
    /// How many ports one page holds.
    pub const PORTS: u16 = 512;
    /// A page with no port.
    pub const EMPTY: Self = Self {
        mesh: [0; 8],
        pod: [0; 8],
    };

    /// Puts a port on these lists.
    pub const fn insert(&mut self, port: u16, origin: Origin) {
        if origin.has(Origin::MESH) {
            self.mesh[Self::word(port)] |= Self::bit(port);
        }
        if origin.has(Origin::POD) {
            self.pod[Self::word(port)] |= Self::bit(port);
        }
    }

    /// Whether a port is on a list.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        let word = Self::word(port);
        (self.mesh[word] | self.pod[word]) & Self::bit(port) != 0
    }

    /// Whose list a port is on.
    #[must_use]
    pub const fn origin(&self, port: u16) -> Origin {
        let word = Self::word(port);
        let mesh = self.mesh[word] & Self::bit(port) != 0;
        let pod = self.pod[word] & Self::bit(port) != 0;
        let origin = if mesh { Origin::MESH } else { Origin::NONE };
        if pod { origin.and(Origin::POD) } else { origin }
    }

    /// How many ports are on a list.
    #[must_use]
    pub fn len(&self) -> usize {
        let both = self.mesh.iter().zip(&self.pod);
        both.map(|(mesh, pod)| (mesh | pod).count_ones() as usize)
            .sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    #[inline(always)]
    const fn word(port: u16) -> usize {
        (port % Self::PORTS / 64) as usize
    }

    #[inline(always)]
    const fn bit(port: u16) -> u64 {
        1 << (port % 64)
    }
}

const _: () = {
    assert!(size_of::<PortPageKey>() == 8);
    assert!(size_of::<PortPage>() == 128);
};
