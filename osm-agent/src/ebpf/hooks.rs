//! Which program goes where, and in which order.

use std::path::Path;

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_GETSOCKOPT, BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET4_GETSOCKNAME, BPF_CGROUP_INET6_BIND,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_INET6_GETSOCKNAME,
    BPF_CGROUP_SOCK_OPS,
};

/// A program and the event of a cgroup that it is attached to.
pub struct Hook {
    /// The program's name in the object, which is also that of its pins.
    pub program: &'static str,
    /// The event.
    pub attach_type: bpf_attach_type,
}

/// In the order of attaching: what redirects comes last, when all that a redirected
/// connection needs is there. Detaching goes the other way.
pub const CGROUP_HOOKS: [Hook; 10] = [
    Hook {
        program: "getsockopt",
        attach_type: BPF_CGROUP_GETSOCKOPT,
    },
    Hook {
        program: "getpeername4",
        attach_type: BPF_CGROUP_INET4_GETPEERNAME,
    },
    Hook {
        program: "getpeername6",
        attach_type: BPF_CGROUP_INET6_GETPEERNAME,
    },
    Hook {
        program: "getsockname4",
        attach_type: BPF_CGROUP_INET4_GETSOCKNAME,
    },
    Hook {
        program: "getsockname6",
        attach_type: BPF_CGROUP_INET6_GETSOCKNAME,
    },
    Hook {
        program: "bind4",
        attach_type: BPF_CGROUP_INET4_BIND,
    },
    Hook {
        program: "bind6",
        attach_type: BPF_CGROUP_INET6_BIND,
    },
    Hook {
        program: "socket_events",
        attach_type: BPF_CGROUP_SOCK_OPS,
    },
    Hook {
        program: "connect4",
        attach_type: BPF_CGROUP_INET4_CONNECT,
    },
    Hook {
        program: "connect6",
        attach_type: BPF_CGROUP_INET6_CONNECT,
    },
];

/// How many hooks do not redirect.
pub const PASSIVE_HOOKS: usize = 8;

/// The link to a pod's network namespace.
pub const INBOUND: &str = "inbound";

/// The program behind it.
pub const INBOUND_PROGRAM: &str = "inbound_lookup";

/// The pin of the code that the program behind [`INBOUND`] goes on in. No link.
pub const INBOUND_CODE: &str = "inbound_code";

/// The names of a pod's links, and what is pinned with them.
pub fn names() -> impl Iterator<Item = &'static str> {
    CGROUP_HOOKS
        .iter()
        .map(|hook| hook.program)
        .chain([INBOUND, INBOUND_CODE])
}

/// Whether the version in that directory has a program for a hook. Hooks were added: pods of a version
/// from before are whole without them.
pub fn is_known_to(version: &Path, program: &str) -> bool {
    version.join(program).exists()
}
