//! What the process is allowed to do.

/// A capability: its number in `linux/capability.h`, and its name.
pub type Capability = (u32, &'static str);

/// Changes networks.
pub const NET_ADMIN: Capability = (12, "CAP_NET_ADMIN");
/// Opens raw sockets.
pub const NET_RAW: Capability = (13, "CAP_NET_RAW");
/// Mounts, and enters namespaces.
const SYS_ADMIN: Capability = (21, "CAP_SYS_ADMIN");
/// Looks at other processes' namespaces, and takes their sockets up.
const SYS_PTRACE: Capability = (19, "CAP_SYS_PTRACE");
/// Reads what belongs to other users.
const DAC_READ_SEARCH: Capability = (2, "CAP_DAC_READ_SEARCH");
/// The same, and writes it.
const DAC_OVERRIDE: Capability = (1, "CAP_DAC_OVERRIDE");

/// Whether the calling thread has a capability. Without /proc it is left to the kernel to
/// refuse.
pub fn has((bit, _): Capability) -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    effective & (1 << bit) != 0
}

/// Those that eBPF interception needs and the calling thread lacks, by name.
pub fn missing() -> Vec<&'static str> {
    lacking(&[NET_ADMIN, SYS_ADMIN])
}

/// Likewise those of the node agent. It looks at processes of all users: whose pod they are, and what
/// a sidecar listens on that was there before. Without, a pod would be refused its connections.
pub fn missing_on_a_node() -> Vec<&'static str> {
    let mut missing = lacking(&[NET_ADMIN, SYS_ADMIN, SYS_PTRACE]);
    if !has(DAC_OVERRIDE) {
        missing.extend(lacking(&[DAC_READ_SEARCH]));
    }
    missing
}

fn lacking(needed: &[Capability]) -> Vec<&'static str> {
    needed
        .iter()
        .filter(|capability| !has(**capability))
        .map(|(_, name)| *name)
        .collect()
}
