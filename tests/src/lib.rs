//! Pods, peers and sidecars for behaviour tests on the real kernel.
//!
//! A test builds a [`World`]: a pod (one network namespace and one cgroup subtree) and an outside
//! that it can reach. Processes in it are [`Actor`]s and [`Client`]s: real programs with real
//! sockets, started as some UID inside a namespace and a cgroup. Everything is a guard, and nothing
//! outside of what the guards made is touched.
//!
//! ```no_run
//! let Some(world) = osm_tests::World::new() else { return };
//! let mut server = world.outside.server("remote", &["198.51.100.10:80"]);
//! let mut app = world.pod.app();
//! let connection = app.connect("198.51.100.10:80");
//! assert_eq!(connection.answered_by(), "remote");
//! assert_eq!(server.next_accepted().peer.ip(), world.pod.ip4());
//! ```
//!
//! Needs root, cgroup v2 and `ip` of iproute2; see [`need`] for what happens without them.
//!
//! Environment: `OSM_AGENT` and `OSM_ACTOR` name the binaries where they are not in the target
//! directory, `OSM_TEST_HOLD` keeps the scene of a failed test for that many seconds, and `CI`
//! turns skips into failures.

#![deny(unsafe_code)]
#![expect(
    clippy::missing_panics_doc,
    reason = "the harness panics wherever a scene can't be built; that is its contract"
)]

pub mod actor;
pub mod agent;
pub mod answer;
pub mod cgroup;
pub mod client;
pub mod enter;
pub mod event;
pub mod interrupt;
pub mod need;
pub mod netns;
pub mod node;
pub mod process;
pub mod request;
pub mod segment;
pub mod state;
pub mod sys;
pub mod traffic;
pub mod world;

pub use actor::Actor;
pub use agent::{Agent, Outcome};
pub use answer::{Connection, Echo, SocketOption, Tally, Transferred};
pub use cgroup::Cgroup;
pub use client::Client;
pub use event::{Accepted, Event, Greeting, Listener};
pub use need::{Need, missing};
pub use netns::{Netns, Veth};
pub use node::Node;
pub use request::{Dial, Family, Fastopen, Many, Udp};
pub use state::{StateDir, TempDir};
pub use world::{APP_UID, Outside, Pod, SIDECAR_UID, World};

use std::net::{IpAddr, SocketAddr};

/// How many times longer than usual anything may take: more than once where the feature `slow` says that
/// the machine is emulated.
pub const SLOWNESS: u32 = if cfg!(feature = "slow") { 10 } else { 1 };

/// The address with a v4-mapped IPv6 one turned into the IPv4 one it stands for.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), address.port()),
    }
}
