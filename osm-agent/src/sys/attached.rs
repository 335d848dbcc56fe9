//! bpf(2) for what is attached: which programs, whoever attached them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, RawFd},
};

use aya_obj::generated::{BPF_F_QUERY_EFFECTIVE, bpf_attach_type, bpf_cmd};

use super::bpf::call;

/// The ids of the programs attached to a cgroup itself, Linux 4.15, or to a network namespace,
/// Linux 5.9; in the order in which they run.
///
/// # Errors
/// `EINVAL` where the kernel does not know the attach type.
pub fn attached_programs(target: impl AsFd, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    query(target, attach_type, 0)
}

/// The ids of the programs that run for a cgroup: its own and those of the cgroups above it, in
/// the order in which they run. Linux 4.15; `compute_effective_progs` in `kernel/bpf/cgroup.c`.
///
/// # Errors
/// As for [`attached_programs`].
pub fn effective_programs(cgroup: impl AsFd, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, BPF_F_QUERY_EFFECTIVE)
}

fn query(target: impl AsFd, attach_type: bpf_attach_type, flags: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attributes {
        target: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    // The kernel keeps at most 64 programs of one type on a cgroup; of those above, as many each.
    const ROOM: u32 = 1024;
    let mut ids = vec![0_u32; ROOM as usize];
    let mut attributes = Attributes {
        target: target.as_fd().as_raw_fd(),
        attach_type: attach_type as u32,
        query_flags: flags,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ROOM,
        padding: 0,
    };
    // SAFETY: the attributes are those of the command; the array holds as many ids as is said.
    unsafe { call(bpf_cmd::BPF_PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count.min(ROOM) as usize);
    Ok(ids)
}
