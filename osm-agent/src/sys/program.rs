//! bpf(2) for a program that is loaded many times: aya 0.14 would read the object, its maps and
//! its type information anew each time.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    sync::LazyLock,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_type};

use super::bpf::{call, call_for_fd};

/// How long what the verifier says may get, in bytes.
const LOG: usize = 1 << 20;

/// Loads a program of the type sk_lookup. Linux 5.9.
///
/// # Errors
/// Where the kernel refuses; with the end of what the verifier says, if it was that.
pub fn load_lookup(name: &CStr, license: &CStr, code: &[bpf_insn]) -> io::Result<OwnedFd> {
    let refused = match load(name, license, code, &mut []) {
        Err(error) if error.raw_os_error() != Some(libc::EPERM) => error,
        result => return result,
    };
    // Once more, to be told why.
    let mut log = vec![0; LOG];
    match load(name, license, code, &mut log) {
        Ok(program) => return Ok(program),
        Err(error) => tracing::debug!("the program is refused again: {error}"),
    }
    let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let end = String::from_utf8_lossy(&said[said.len().saturating_sub(2000)..]);
    if !end.is_empty() {
        tracing::error!("the verifier refuses the program {name:?}: {end}");
    }
    Err(refused)
}

/// Loads the smallest program there is, and lets go of it. Linux 5.9.
///
/// # Errors
/// Why the kernel takes no programs, from this process at least.
pub fn try_smallest() -> io::Result<()> {
    // r0 = 1; exit
    let code = [instruction(0xb7, 1), instruction(0x95, 0)];
    load(c"smallest", c"GPL", &code, &mut []).map(drop)
}

/// Loads a program of the type `kind` that calls a helper without arguments, and lets go of it.
///
/// # Errors
/// `EINVAL` where programs of that type may not call it.
pub fn try_helper(kind: bpf_prog_type, helper: i32) -> io::Result<()> {
    // call helper; r0 = 1; exit
    let code = [(0x85, helper), (0xb7, 1), (0x95, 0)];
    let code = code.map(|(code, imm)| instruction(code, imm));
    load_of(kind, 0, c"helper", c"GPL", &code, &mut []).map(drop)
}

/// Loads a program that exchanges a number for another one in memory, and lets go of it.
///
/// # Errors
/// `EINVAL` before Linux 5.12.
pub fn try_exchange() -> io::Result<()> {
    // r0 = 1; *(r10 - 8) = r0; r0 = exchange(r10 - 8, r0); exit
    let code = [
        instruction(0xb7, 1),
        with(0x0a, -8, 0x7b, 0),
        with(0x0a, -8, 0xdb, 0xe1),
        instruction(0x95, 0),
    ];
    load(c"exchange", c"GPL", &code, &mut []).map(drop)
}

/// Whether programs of the type sk_lookup are told by which interface a packet came in: Linux 5.17.
pub fn tells_interfaces() -> bool {
    /// Of `ingress_ifindex` in `struct bpf_sk_lookup`.
    const AT: i16 = 64;
    static TELLS: LazyLock<bool> = LazyLock::new(|| {
        // r0 = *(u32 *)(r1 + AT); r0 = 1; exit
        let code = [
            with(0x10, AT, 0x61, 0),
            instruction(0xb7, 1),
            instruction(0x95, 0),
        ];
        let tried = load(c"interface", c"GPL", &code, &mut []);
        // What the verifier answers. All else is no matter of this.
        !tried.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    });
    *TELLS
}

/// An instruction on registers, the source's number in the upper half of `registers`.
fn with(registers: u8, off: i16, code: u8, imm: i32) -> bpf_insn {
    bpf_insn {
        off,
        _bitfield_1: bpf_insn::new_bitfield_1(registers & 15, registers >> 4),
        ..instruction(code, imm)
    }
}

fn instruction(code: u8, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    }
}

/// A program of the type sk_lookup.
fn load(name: &CStr, license: &CStr, code: &[bpf_insn], log: &mut [u8]) -> io::Result<OwnedFd> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP;
    let attach_type = bpf_attach_type::BPF_SK_LOOKUP as u32;
    load_of(kind, attach_type, name, license, code, log)
}

fn load_of(
    kind: bpf_prog_type,
    attach_type: u32,
    name: &CStr,
    license: &CStr,
    code: &[bpf_insn],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    /// Those of `BPF_PROG_LOAD` up to the attach type.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    let mut attributes = Attributes {
        kind: kind as u32,
        count: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(log_size > 0),
        log_size,
        log: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kernel_version: 0,
        flags: 0,
        name: object_name(name),
        interface: 0,
        attach_type,
    };
    loop {
        // SAFETY: the attributes are those of the command; code, license and log live until it
        // returns, and are as long as is said.
        match unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attributes) } {
            // A signal came while the verifier worked.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
}

/// Has a program of the type sk_msg run for what the sockets in a map send, those that are put there
/// from now on. It runs for them as long as they live. Linux 4.17; `sock_map_get_from_fd` in `net/core/sock_map.c`.
///
/// # Errors
/// Where the kernel refuses.
pub fn attach_to_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        target: RawFd,
        program: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        target: map.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: bpf_attach_type::BPF_SK_MSG_VERDICT as u32,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command, and the descriptors are open.
    unsafe { call(bpf_cmd::BPF_PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Makes an array of one value that nobody can change, which the verifier reads as constants.
/// Linux 5.2.
///
/// # Errors
/// Where the kernel refuses.
pub fn constants(name: &CStr, value: &[u8]) -> io::Result<OwnedFd> {
    const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;
    #[repr(C)]
    struct Freeze {
        map: RawFd,
    }
    let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY;
    let map = array(kind, name, value.len(), 1, READ_ONLY_FOR_PROGRAMS)?;
    set(map.as_fd(), 0, value)?;
    let mut freeze = Freeze {
        map: map.as_raw_fd(),
    };
    // SAFETY: the attributes are those of the command.
    unsafe { call(bpf_cmd::BPF_MAP_FREEZE, &mut freeze) }?;
    Ok(map)
}

/// Makes an array of one word for each CPU.
///
/// # Errors
/// Where the kernel refuses.
pub fn word_of_each_cpu(name: &CStr) -> io::Result<OwnedFd> {
    let kind = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY;
    array(kind, name, size_of::<u64>(), 1, 0)
}

/// Makes an array in which one program is `count` times, for others to go on in. Linux 4.2.
///
/// The kernel empties it when it is neither open nor pinned anywhere, whoever uses it.
///
/// # Errors
/// Where the kernel refuses.
pub fn array_of(name: &CStr, program: BorrowedFd<'_>, count: u32) -> io::Result<OwnedFd> {
    let kind = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY;
    let array = array(kind, name, size_of::<RawFd>(), count, 0)?;
    for index in 0..count {
        set(array.as_fd(), index, &program.as_raw_fd())?;
    }
    Ok(array)
}

/// The number of a program in such an array.
///
/// # Errors
/// `ENOENT` where there is none.
pub fn program_in(array: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let mut id = 0_u32;
    let mut element = Element {
        map: array.as_raw_fd(),
        padding: 0,
        key: (&raw const index) as u64,
        value: (&raw mut id) as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the key lives until it returns, and the
    // kernel writes the size of a value, which is that of a program's number.
    unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut element) }?;
    Ok(id)
}

/// The attributes of the commands on one element of a map.
#[repr(C)]
struct Element {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn array(
    kind: bpf_map_type,
    name: &CStr,
    value_size: usize,
    count: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner_map: RawFd,
        numa_node: u32,
        name: [u8; 16],
    }
    let mut create = Create {
        kind: kind as u32,
        key_size: 4,
        value_size: u32::try_from(value_size).map_err(io::Error::other)?,
        max_entries: count,
        flags,
        inner_map: 0,
        numa_node: 0,
        name: object_name(name),
    };
    // SAFETY: the attributes are those of the command.
    unsafe { call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut create) }
}

/// The value is as large as the map was told.
fn set<T: ?Sized>(map: BorrowedFd<'_>, index: u32, value: &T) -> io::Result<()> {
    let mut element = Element {
        map: map.as_raw_fd(),
        padding: 0,
        key: (&raw const index) as u64,
        value: std::ptr::from_ref(value).cast::<u8>() as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; key and value live until it returns, and
    // the callers have made the map with values of this size.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut element) }.map(drop)
}

/// As far as the kernel keeps it.
fn object_name(name: &CStr) -> [u8; 16] {
    let mut kept = [0; 16];
    for (kept, byte) in kept[..15].iter_mut().zip(name.to_bytes()) {
        *kept = *byte;
    }
    kept
}
