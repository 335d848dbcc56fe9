//! All maps, with their size, their writer and their lifetime.
//!
//! Maps are pinned in the state directory. Those that are called shared belong to all versions
//! of the agent and live until the last pod is withdrawn; each version has the others for itself,
//! or shares them with another one of the same layout. Sizes are limits, not allocations, unless
//! "preallocated" is said.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf, SkStorage, SockHash},
    macros::btf_map,
};
use osm_ebpf_common::maps::{
    AppCalls, Counters, EVENTS_BYTES, Event, HandshakeKey, InterceptedPair, InterfaceKey,
    ListenerKey, LocalKey, MAX_PODS, Meta, MonitorWord, OriginalDestination, PodEntry, PodRecord,
    PolicyRecord, PolicyWord, PortPage, PortPageKey, RangeEntry, RangeKey, RouteEntry, RouteKey,
    ShortcutKey, ShortcutPair, ShortcutSocket, SocketLayout, State,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const PODS_LIMIT: usize = MAX_PODS as usize;
const INTERCEPTED_PAIRS: usize = InterceptedPair::PLACES as usize;

/// Netns cookie → the pod. Written by the agent at enrolment, removed at withdrawal.
#[btf_map]
pub static PODS: HashMap<u64, PodEntry, PODS_LIMIT, ON_DEMAND> = HashMap::new();

/// Pod's slot → the policy in force. Written by the agent: one store is one change.
/// Preallocated, 8 bytes a slot.
#[btf_map]
pub static POLICY_IN_FORCE: Array<PolicyWord, PODS_LIMIT> = Array::new();

/// Second and further addresses of pods. Written by the agent at enrolment, removed at
/// withdrawal.
#[btf_map]
pub static LOCALS: HashMap<LocalKey, u32, 16_384, ON_DEMAND> = HashMap::new();

/// (policy, address) longest prefix → excluded or included. Written by the agent before a
/// policy comes into force, never changed, removed when no pod uses the policy.
#[btf_map]
pub static RANGES: LpmTrie<RangeKey, RangeEntry, 4_194_304> = LpmTrie::new();

/// Hash of the pair in it → the last policy and IPv4 address that [`RANGES`] said nothing against.
/// Written by connect, which saves the way through the trie by it. A policy's ranges never change,
/// so that what is here stays right. Preallocated, 8 bytes each.
#[btf_map]
pub static INTERCEPTED: Array<InterceptedPair, INTERCEPTED_PAIRS> = Array::new();

/// (policy, direction, page) → excluded ports. Written and removed as [`RANGES`] is.
#[btf_map]
pub static PORT_PAGES: HashMap<PortPageKey, PortPage, 65_536, ON_DEMAND> = HashMap::new();

/// (pod, policy, interface) of excluded interfaces. Written by the agent before the policy
/// comes into force for the pod, and as interfaces come and go; removed with either.
#[btf_map]
pub static INTERFACES: HashMap<InterfaceKey, u32, 16_384, ON_DEMAND> = HashMap::new();

/// (pod, policy, address) longest prefix → by an excluded interface or not. Written and
/// removed as [`INTERFACES`] is, for pods with excluded interfaces only.
#[btf_map]
pub static ROUTES: LpmTrie<RouteKey, RouteEntry, 1_048_576> = LpmTrie::new();

/// Shared. Socket → what was dialled. Written by connect on the app's socket and by sockops on the
/// sidecar's; goes with the socket.
#[btf_map]
pub static REMEMBERED: SkStorage<OriginalDestination> = SkStorage::new();

/// Socket → the cgroup in which the sidecar bound it to one of its listeners' ports: asked of what listens, where
/// the sidecar goes by its cgroup. Written by bind; goes with the socket.
#[btf_map]
pub static BOUND_BY_SIDECAR: SkStorage<u64> = SkStorage::new();

/// Shared. Connection → what was dialled, from the SYN until the sidecar's side is established or
/// the app's socket closes. Written and removed by sockops. Also loopback address → the
/// destination that is known by it, written by connect, removed at withdrawal. One pod gets no
/// more than its share of it.
#[btf_map]
pub static HANDSHAKES: HashMap<HandshakeKey, OriginalDestination, 262_144, ON_DEMAND> =
    HashMap::new();

/// Shared. Pod's slot → how many entries of [`HANDSHAKES`] are its own. Written with the
/// entries, zeroed by the agent at enrolment. Preallocated, 8 bytes a slot.
#[btf_map]
pub static HANDSHAKES_OF_POD: Array<u64, PODS_LIMIT> = Array::new();

/// Shared. (pod, direction, family, slot) → the sidecar's listening socket. Written by sockops, and
/// by the agent for listeners older than the enrolment; goes with the socket.
#[btf_map]
pub static LISTENERS: SockHash<ListenerKey, 65_536> = SockHash::new();

/// For which pod the program runs that [`INBOUND_CODE`] holds: handed over from one program to the
/// next in one run. Written by each pod's own program. One for each version of the agent.
#[btf_map]
pub static INBOUND_POD: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Family → the program in which those of all pods go on; the same one twice. Written by the agent
/// as it loads it. One for each version. The kernel empties it when it is neither open nor pinned anywhere, so that it is
/// pinned with every pod.
#[btf_map]
pub static INBOUND_CODE: ProgramArray<2> = ProgramArray::new();

/// Shared. Pod's slot → its counters, per CPU. Written by all programs, zeroed by the agent at
/// enrolment. Preallocated, 256 bytes a slot and CPU.
#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, PODS_LIMIT> = PerCpuArray::new();

/// What becomes of connections, while somebody listens. Written by all programs that count, read by one
/// monitor at a time. Preallocated.
#[btf_map]
pub static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

/// [`MonitorWord`] → its value: until when somebody listens, written by the monitor; how many events
/// were lost, written by programs.
#[btf_map]
pub static MONITOR: Array<u64, { MonitorWord::COUNT }> = Array::new();

/// End of a connection → its socket. Written by sockops; goes with the socket. The program `shortcut` is
/// attached to it and runs for what the sockets in it send.
#[btf_map]
pub static SHORTCUTS: SockHash<ShortcutKey, 131_072> = SockHash::new();

/// Socket in [`SHORTCUTS`] → what its shortcut needs. Written by sockops and `shortcut`; goes with the
/// socket.
#[btf_map]
pub static SHORTCUT_SOCKETS: SkStorage<ShortcutSocket> = SkStorage::new();

/// Connection → where its sockets are. Written by sockops, removed by `shortcut` as the dialling end sends
/// for the first time, or by sockops as that is closed.
#[btf_map]
pub static SHORTCUT_PAIRS: HashMap<HandshakeKey, ShortcutPair, 65_536, ON_DEMAND> = HashMap::new();

/// Address and port that the sidecar finds an app at → how the app uses what it accepts there. Written by
/// sockops and `shortcut`.
#[btf_map]
pub static SHORTCUT_APPS: HashMap<HandshakeKey, AppCalls, 16_384, ON_DEMAND> = HashMap::new();

/// Where the kernel keeps what `shortcut` asks of sockets. Written by the agent before the first pod takes
/// the shortcut.
#[btf_map]
pub static SOCKET_LAYOUT: Array<SocketLayout, 1> = Array::new();

/// Shared. Netns cookie → what the agent has to know of it later. For the agent only.
#[btf_map]
pub static POD_RECORDS: HashMap<u64, PodRecord, PODS_LIMIT, ON_DEMAND> = HashMap::new();

/// Policy id → what it was compiled from. For the agent only.
#[btf_map]
pub static POLICIES: HashMap<u32, PolicyRecord, PODS_LIMIT, ON_DEMAND> = HashMap::new();

/// Shared. What the shared maps are. For the agent only.
#[btf_map]
pub static STATE: Array<State, 1> = Array::new();

/// What one version's own maps are, and the next policy id. For the agent only.
#[btf_map]
pub static META: Array<Meta, 1> = Array::new();
