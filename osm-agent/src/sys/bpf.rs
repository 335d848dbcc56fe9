//! bpf(2), for what aya 0.14 can't do: pin links of every kind, and detach them at once.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
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

/// Has a link run another program of the same type from now on, without a moment in between.
/// Linux 5.7; `link_update` in `kernel/bpf/syscall.c`.
///
/// # Errors
/// `ENOLINK` where it is not attached any more.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: RawFd,
        new_program: RawFd,
        flags: u32,
        old_program: RawFd,
    }
    let mut attributes = Attributes {
        link: link.as_raw_fd(),
        new_program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attributes are those of the command, and the descriptors are open.
    unsafe { call(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cgroup, by its id.
    Cgroup(u64),
    /// A network namespace, by its inode.
    Netns(u32),
    /// Nothing any more: it was detached, or what it was attached to is gone.
    Gone,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkInfo {
    /// The id of the program that it runs.
    pub program: u32,
    /// What it is attached to.
    pub target: Target,
    /// For which event.
    pub attach_type: u32,
}

/// Asks for a link to a cgroup or a network namespace. Linux 5.8; `bpf_link_get_info_by_fd` in
/// `kernel/bpf/syscall.c`.
///
/// # Errors
/// `EINVAL` where it is no link, or the kernel has no such information.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `struct bpf_link_info` up to what these two kinds of link have.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        /// The cgroup's id, 64 bits, or the namespace's inode, 32 bits; then the attach type.
        target: [u32; 4],
    }
    let mut info = Info::default();
    // SAFETY: every bit pattern is a value of it.
    unsafe { object_info(link, &mut info) }?;
    let target = info.target;
    let (target, attach_type) = if info.kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        let id = u64::from_ne_bytes(pair(target[0], target[1]));
        (Target::Cgroup(id), target[2])
    } else if info.kind == bpf_link_type::BPF_LINK_TYPE_NETNS as u32 {
        (Target::Netns(target[0]), target[1])
    } else {
        return Err(io::Error::other("it is a link of another kind"));
    };
    Ok(LinkInfo {
        program: info.program,
        target: match target {
            Target::Cgroup(0) | Target::Netns(0) => Target::Gone,
            target => target,
        },
        attach_type,
    })
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// What the kernel says of a program.
#[derive(Clone, Debug)]
pub struct ProgramInfo {
    /// Its type: a `bpf_prog_type`.
    pub kind: u32,
    /// Its number.
    pub id: u32,
    /// A digest of its instructions, whichever maps they use.
    pub tag: [u8; 8],
    /// The numbers of the maps that it uses.
    pub maps: Vec<u32>,
    /// The first 15 bytes of its name, then zeros.
    pub name: [u8; 16],
    /// For how long it has run, in nanoseconds, while the kernel counted that
    /// (`kernel.bpf_stats_enabled`). Linux 5.1.
    pub run_time: u64,
    /// How often it has run, likewise.
    pub runs: u64,
}

/// Asks for a program. Linux 4.15; `bpf_prog_get_info_by_fd` in `kernel/bpf/syscall.c`.
///
/// # Errors
/// `EINVAL` where it is no program.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    /// `struct bpf_prog_info` up to the number of runs.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by: u32,
        map_count: u32,
        maps: u64,
        name: [u8; 16],
        interface_and_license: [u32; 2],
        namespace: [u64; 2],
        symbol_counts: [u32; 2],
        symbols: [u64; 2],
        types: [u32; 2],
        functions: u64,
        line_counts: [u32; 2],
        lines: [u64; 2],
        more_line_counts: [u32; 3],
        tag_count: u32,
        tags: u64,
        run_time: u64,
        runs: u64,
    }
    const _: () = assert!(size_of::<Info>() == 208);
    // The kernel lets a program use no more than 64.
    let mut maps = [0_u32; 64];
    let mut info = Info {
        map_count: 64,
        maps: maps.as_mut_ptr() as u64,
        ..Info::default()
    };
    // SAFETY: every bit pattern is a value of it; the array holds as many ids as is said.
    unsafe { object_info(program, &mut info) }?;
    Ok(ProgramInfo {
        kind: info.kind,
        id: info.id,
        tag: info.tag,
        maps: maps[..info.map_count.min(64) as usize].to_vec(),
        name: info.name,
        run_time: info.run_time,
        runs: info.runs,
    })
}

/// Opens a program by its number. Linux 4.13.
///
/// # Errors
/// `ENOENT` where it is gone.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command.
    unsafe { call_for_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes) }
}

/// Whether a program is there and called so, as far as the kernel keeps names: 15 bytes.
#[must_use]
pub fn is_program_named(id: u32, name: &str) -> bool {
    let name = &name.as_bytes()[..name.len().min(15)];
    program_by_id(id)
        .and_then(|program| program_info(program.as_fd()))
        .is_ok_and(|info| info.name.starts_with(name) && info.name[name.len()] == 0)
}

/// Opens a map by its number. Linux 4.13.
///
/// # Errors
/// `ENOENT` where it is gone.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command.
    unsafe { call_for_fd(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attributes) }
}

#[repr(C)]
struct IdAttributes {
    id: u32,
    next: u32,
    flags: u32,
}

/// What the kernel says of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Its number.
    pub id: u32,
    /// In bytes.
    pub key_size: u32,
    /// In bytes.
    pub value_size: u32,
    /// The first 15 bytes of its name, then zeros.
    pub name: [u8; 16],
}

/// Asks for a map. Linux 4.13; `bpf_map_get_info_by_fd` in `kernel/bpf/syscall.c`.
///
/// # Errors
/// `EINVAL` where it is no map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    /// `struct bpf_map_info` up to the name.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        name: [u8; 16],
    }
    let mut info = Info::default();
    // SAFETY: every bit pattern is a value of it.
    unsafe { object_info(map, &mut info) }?;
    Ok(MapInfo {
        id: info.id,
        key_size: info.key_size,
        value_size: info.value_size,
        name: info.name,
    })
}

/// # Safety
/// `T` is a beginning of the kernel's structure for that kind of object, and may hold any bits.
unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        fd: RawFd,
        length: u32,
        info: u64,
    }
    let mut attributes = Attributes {
        fd: object.as_raw_fd(),
        length: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the attributes are those of the command; the buffer is as long as is said.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }.map(drop)
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

/// # Safety
/// `T` is laid out as the kernel's `union bpf_attr` for that command, or as a beginning of it.
pub(super) unsafe fn call_for_fd<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { call(command, attributes) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the command returns a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// As for [`call_for_fd`].
pub(super) unsafe fn call<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<libc::c_long> {
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
