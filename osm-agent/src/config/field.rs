//! The fields of a `MeshConfig`, as people are told of them.

use super::{
    annotations::{
        EXCLUDED_INBOUND_PORTS, EXCLUDED_OUTBOUND_PORTS, EXCLUDED_RANGES, INCLUDED_RANGES,
    },
    mesh::{InterceptionMode, LocalProxyMode, SidecarIdentity},
};

/// One field. The parser, its errors, the CRD and the reference all say this of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From the top of the object, such as `spec.sidecar.shortcut`.
    pub path: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What counts where it is missing or null.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
    /// The annotation by which a pod adds to it.
    pub annotation: Option<&'static str>,
}

impl Field {
    /// What it is called where it stands.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

/// Every field, in the order of the object.
pub const FIELDS: [Field; 10] = [
    OUTBOUND_RANGES_EXCLUDED,
    OUTBOUND_RANGES_INCLUDED,
    OUTBOUND_PORTS_EXCLUDED,
    INBOUND_PORTS_EXCLUDED,
    INTERFACES_EXCLUDED,
    RESERVED_PORT_GUARD,
    INTERCEPTION_MODE,
    LOCAL_PROXY_MODE,
    SIDECAR_IDENTITY,
    SHORTCUT,
];

pub(super) const OUTBOUND_RANGES_EXCLUDED: Field = Field {
    path: "spec.traffic.outboundIPRangeExclusionList",
    takes: "a list of ranges",
    default: "[]",
    about: "Ranges, as address/length, whose connections are not intercepted.",
    annotation: Some(EXCLUDED_RANGES),
};
pub(super) const OUTBOUND_RANGES_INCLUDED: Field = Field {
    path: "spec.traffic.outboundIPRangeInclusionList",
    takes: "a list of ranges",
    default: "[]",
    about: "The only ranges whose connections are intercepted; none means all.",
    annotation: Some(INCLUDED_RANGES),
};
pub(super) const OUTBOUND_PORTS_EXCLUDED: Field = Field {
    path: "spec.traffic.outboundPortExclusionList",
    takes: "a list of ports",
    default: "[]",
    about: "Remote ports that connections to are not intercepted.",
    annotation: Some(EXCLUDED_OUTBOUND_PORTS),
};
pub(super) const INBOUND_PORTS_EXCLUDED: Field = Field {
    path: "spec.traffic.inboundPortExclusionList",
    takes: "a list of ports",
    default: "[]",
    about: "Ports of the pod that connections to are not intercepted.",
    annotation: Some(EXCLUDED_INBOUND_PORTS),
};
pub(super) const INTERFACES_EXCLUDED: Field = Field {
    path: "spec.traffic.networkInterfaceExclusionList",
    takes: "a list of names of network interfaces",
    default: "[]",
    about: "Network interfaces of the pod whose traffic is not intercepted.",
    annotation: None,
};
pub(super) const RESERVED_PORT_GUARD: Field = Field {
    path: "spec.traffic.reservedPortGuard",
    takes: "true or false",
    default: "true",
    about: "Whether ports 15000, 15001, 15003 and 15010 are for the sidecar alone. eBPF only.",
    annotation: None,
};
pub(super) const INTERCEPTION_MODE: Field = Field {
    path: "spec.traffic.interceptionMode",
    takes: "auto, ebpf, iptables or none",
    default: InterceptionMode::Auto.name(),
    about: "By which means; auto is eBPF where the kernel can.",
    annotation: None,
};
pub(super) const LOCAL_PROXY_MODE: Field = Field {
    path: "spec.sidecar.localProxyMode",
    takes: "Localhost or PodIP",
    default: LocalProxyMode::Localhost.name(),
    about: "Whether the sidecar finds applications at 127.0.0.1 or at the pod's address.",
    annotation: None,
};
pub(super) const SIDECAR_IDENTITY: Field = Field {
    path: "spec.sidecar.identity",
    takes: "uid or uid-and-cgroup",
    default: SidecarIdentity::Uid.name(),
    about: "Whether any process of UID 1500 is the sidecar, or only one in the sidecar's container. eBPF only.",
    annotation: None,
};
pub(super) const SHORTCUT: Field = Field {
    path: "spec.sidecar.shortcut",
    takes: "true or false",
    default: "false",
    about: "Whether bytes between application and sidecar go from socket to socket, not by TCP.",
    annotation: None,
};
