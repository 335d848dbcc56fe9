//! bpf(2), for what aya 0.14 can't do: pin links of every kind, and detach them at once.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_link_type};

/// Attaches a program to a cgroup or a network namespace. The link holds as long as the
/// returned descriptor or a pin of it. Linux 5.7; `bpf_link_create` in `kernel/bpf/syscall.c`.
///
/// # Errors
/// `EPERM` without privilege or where another program forbids it, `EINVAL` where the kernel
/// does not know the attach type.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        program: program.as_raw_fd(),
        target: target.as_raw_fd(),
        attach_type: attach_type as u32,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command, and the descriptors are open.
    unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }
}

/// Detaches a link at once, whatever descriptors and pins it has left. Linux 5.9.
///
/// # Errors
/// `ENOLINK` and the like where what it was attached to is gone.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: RawFd,
    }
    let mut attributes = Attributes {
        link: link.as_raw_fd(),
    };
    // SAFETY: the attributes are those of the command, and the descriptor is open.
    unsafe { call(bpf_cmd::BPF_LINK_DETACH, &mut attributes) }.map(drop)
}

/// Whether a link to a cgroup or a network namespace is still attached: it is not once it was
/// detached, or what it was attached to is gone. Linux 5.8; `bpf_link_get_info_by_fd` in
/// `kernel/bpf/syscall.c`.
///
/// # Errors
/// `EINVAL` where the kernel has no such information.
pub fn is_attached(link: BorrowedFd<'_>) -> io::Result<bool> {
    /// `struct bpf_link_info` up to what these two kinds of link have.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        /// The cgroup's id, 64 bits, or the namespace's inode, 32 bits, and the attach type.
        target: [u32; 4],
    }
    #[repr(C)]
    struct Attributes {
        fd: RawFd,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attributes = Attributes {
        fd: link.as_raw_fd(),
        length: u32::try_from(size_of::<Info>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the attributes are those of the command; the buffer is as long as is said.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    if info.kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        return Ok(info.target[..2] != [0, 0]);
    }
    if info.kind == bpf_link_type::BPF_LINK_TYPE_NETNS as u32 {
        return Ok(info.target[0] != 0);
    }
    Err(io::Error::other("it is a link of another kind"))
}

/// The attributes of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: RawFd,
    flags: u32,
}

/// Gives a program, map or link a name in a bpffs. Linux 4.4, links 5.7.
///
/// # Errors
/// `EEXIST` where the name is taken, `EPERM` where the path is on no bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd(),
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the path lives until it returns.
    unsafe { call(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens what is pinned under a name. Linux 4.4, links 5.7.
///
/// # Errors
/// `ENOENT` where there is nothing.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the path lives until it returns.
    unsafe { call_for_fd(bpf_cmd::BPF_OBJ_GET, &mut attributes) }
}

/// The ids of the programs attached to a cgroup itself, Linux 4.15, or to a network namespace,
/// Linux 5.9.
///
/// # Errors
/// `EINVAL` where the kernel does not know the attach type.
pub fn attached_programs(target: impl AsFd, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
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
    // The kernel keeps at most 64 programs of one type on a cgroup.
    let mut ids = [0_u32; 64];
    let mut attributes = Attributes {
        target: target.as_fd().as_raw_fd(),
        attach_type: attach_type as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        padding: 0,
    };
    // SAFETY: the attributes are those of the command; the array holds as many ids as is said.
    unsafe { call(bpf_cmd::BPF_PROG_QUERY, &mut attributes) }?;
    Ok(ids[..attributes.count.min(64) as usize].to_vec())
}

/// # Safety
/// `T` is laid out as the kernel's `union bpf_attr` for that command, or as a beginning of it.
unsafe fn call_for_fd<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { call(command, attributes) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the command returns a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// As for [`call_for_fd`].
unsafe fn call<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: as the caller promises; the kernel reads and writes no more than the size said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
