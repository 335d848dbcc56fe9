//! What the BPF programs and the agent share.
//!
//! * [`decision`]: the verdict on one connection, as a pure function over look-ups,
//! * [`address`]: the one form in which addresses are compared and stored,
//! * [`maps`]: the layout of every map key and value,
//! * [`reason`]: why a verdict was given, which is also the index of its counter.
//!
//! Nothing here allocates, panics or knows which side it runs on.
#![no_std]

pub mod address;
pub mod decision;
pub mod maps;
pub mod reason;
#[cfg(feature = "user")]
mod user;

#[cfg(feature = "user")]
pub use user::read_value;

/// The sidecar's listener for outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// The sidecar's listener for inbound connections.
pub const INBOUND_PORT: u16 = 15003;
/// Ports of the pod that clients reach directly: metrics and rewritten probes.
pub const DIRECT_INBOUND_PORTS: [u16; 5] = [15010, 15901, 15902, 15903, 15904];
/// The sidecar's ports that nobody else of the pod may be bound to: administration, both listeners, metrics.
pub const GUARDED_PORTS: [u16; 4] = [15000, OUTBOUND_PORT, INBOUND_PORT, 15010];
/// The user ID of the sidecar inside the pod.
pub const SIDECAR_UID: u32 = 1500;
/// The layout of the maps that one version of the agent has for itself. It changes with every
/// incompatible change of [`maps`] that [`SHARED_LAYOUT`] is not about.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "next-layout") { 5 } else { 4 };
/// The layout of the maps that all versions of the agent share: [`maps::OriginalDestination`],
/// [`maps::HandshakeKey`], [`maps::ListenerKey`], [`maps::Counters`], [`maps::PodRecord`] and
/// [`maps::State`]. Where it changes, pods have to be let go of before the agent is upgraded.
pub const SHARED_LAYOUT: u32 = 1;
