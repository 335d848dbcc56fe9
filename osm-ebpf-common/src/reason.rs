//! Why a connection was redirected, passed or refused.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a verdict was given. The discriminant is the index of its counter, which all versions
        /// of the agent share: new ones come last.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in output, metrics and documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Outbound, sent to the outbound listener.
    RedirectOutbound = "redirect-outbound",
    /// Inbound, sent to the inbound listener.
    RedirectInbound = "redirect-inbound",
    /// The sidecar called the pod itself: sent to the inbound listener.
    RedirectSidecarToPod = "redirect-sidecar-to-pod",
    /// The caller is the sidecar.
    PassSidecar = "pass-sidecar",
    /// To the local host, or to the pod's own address.
    PassLocal = "pass-local",
    /// An excluded range holds the destination.
    PassExcludedRange = "pass-excluded-range",
    /// The destination's port is excluded.
    PassExcludedPort = "pass-excluded-port",
    /// There are inclusion ranges of its family, and none holds the destination.
    PassNotIncluded = "pass-not-included",
    /// The pod's port is excluded from inbound interception.
    PassExcludedInboundPort = "pass-excluded-inbound-port",
    /// A probe or metrics port of the sidecar.
    PassReservedPort = "pass-reserved-port",
    /// Native IPv6, while only IPv4 is intercepted.
    PassOtherFamily = "pass-other-family",
    /// A destination that the kernel itself refuses, such as multicast.
    PassUnroutable = "pass-unroutable",
    /// The sidecar called the local host, which stands for the pod's address.
    PassSidecarToPodAddress = "pass-sidecar-to-pod-address",
    /// It came in, or would leave, by an excluded interface.
    PassExcludedInterface = "pass-excluded-interface",
    /// To be redirected, but the sidecar has no outbound listener.
    RefuseNoOutboundListener = "refuse-no-outbound-listener",
    /// To be redirected, but the sidecar has no inbound listener.
    RefuseNoInboundListener = "refuse-no-inbound-listener",
    /// To be redirected, but the kernel had no memory to remember where to.
    RefuseNoMemory = "refuse-no-memory",
    /// To be redirected, but too many of the pod's handshakes are on their way already.
    RefuseTooManyHandshakes = "refuse-too-many-handshakes",
    /// The sidecar accepted a redirected connection whose destination was not remembered.
    LostDestination = "lost-destination",
    /// The socket had another connection before, whose bytes the loopback shortcut may still hold.
    RefuseReusedSocket = "refuse-reused-socket",
    /// Somebody else asked to be bound to a port of the sidecar's.
    RefuseReservedPortBind = "refuse-reserved-port-bind",
}

/// What was done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It went to the sidecar.
    Redirect,
    /// It went to where it wanted.
    Pass,
    /// It got nowhere.
    Refuse,
}

impl Kind {
    /// The name in output and documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Pass => "pass",
            Self::Refuse => "refuse",
        }
    }
}

impl Reason {
    /// What was done for this reason.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::RedirectOutbound | Self::RedirectInbound | Self::RedirectSidecarToPod => {
                Kind::Redirect
            }
            Self::PassSidecar
            | Self::PassLocal
            | Self::PassExcludedRange
            | Self::PassExcludedPort
            | Self::PassNotIncluded
            | Self::PassExcludedInboundPort
            | Self::PassReservedPort
            | Self::PassOtherFamily
            | Self::PassUnroutable
            | Self::PassSidecarToPodAddress
            | Self::PassExcludedInterface => Kind::Pass,
            // The sidecar is not told where to, so that it leads nowhere.
            Self::LostDestination
            | Self::RefuseNoOutboundListener
            | Self::RefuseNoInboundListener
            | Self::RefuseNoMemory
            | Self::RefuseTooManyHandshakes
            | Self::RefuseReusedSocket
            | Self::RefuseReservedPortBind => Kind::Refuse,
        }
    }
}

/// The number of counters each pod has. More than there are reasons: room to grow
/// without a new layout of the maps.
pub const COUNTERS: usize = 32;

const _: () = assert!(Reason::ALL.len() <= COUNTERS);
