//! What the node agent gives up before it does anything else.

use std::{collections::BTreeMap, env::consts::ARCH, io};

use rustix::thread::{
    CapabilitySet, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::error::{Result, Tried as _};

/// What the agent works with, which its manifest gives it.
pub const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::NET_RAW);

/// Calls that only an intruder would make with what is kept: into the kernel's code, the machine's clock and
/// memory, other processes, files by handle (which leads out of any mount namespace), keys.
const REFUSED: [libc::c_long; 29] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Gives up, for the calling thread and all that it starts: capabilities but [`KEPT`] and those named,
/// privileges of programs that it runs, and the calls that are refused. There is no way back.
///
/// # Errors
/// Where the kernel does not let it.
pub fn confine(and: CapabilitySet) -> Result<()> {
    let tried = || "give up the rights that the node agent has no use for";
    give_up_capabilities(KEPT | and).tried(tried)?;
    set_no_new_privs(true).tried(tried)?;
    let filter: BpfProgram = SeccompFilter::new(
        REFUSED
            .iter()
            .map(|call| (*call, Vec::new()))
            .collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        ARCH.try_into().map_err(io::Error::other).tried(tried)?,
    )
    .and_then(TryInto::try_into)
    .map_err(io::Error::other)
    .tried(tried)?;
    apply_filter(&filter).map_err(io::Error::other).tried(tried)
}

fn give_up_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let now = capabilities(None)?;
    // Without this one the bounding set can't be changed, and who has it not runs nothing that gets more:
    // new privileges are given up too.
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            // The kernel knows fewer than there are bits.
            if !kept.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)?;
            }
        }
    }
    let mut then = now;
    then.effective &= kept;
    then.permitted &= kept;
    then.inheritable &= kept;
    Ok(set_capabilities(None, then)?)
}
