//! BPF programs of somebody else's, on cgroups of the test's.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::seccomp::Command;

/// A program, and where it is to be attached.
#[derive(Clone, Debug)]
pub struct Program {
    /// `enum bpf_prog_type`.
    kind: u32,
    /// `enum bpf_attach_type`.
    hook: u32,
    instructions: Vec<u64>,
}

/// `r0 = 1; exit`: go on.
const GO_ON: [u64; 2] = [1 << 32 | 0xb7, 0x95];

impl Program {
    /// A sockops program that asks every socket to report its state changes.
    #[must_use]
    pub fn asks_for_state_changes() -> Self {
        // r2 = BPF_SOCK_OPS_STATE_CB_FLAG; bpf_sock_ops_cb_flags_set(r1, r2)
        let begin = [0x4_0000_02b7, 59 << 32 | 0x85];
        Self {
            kind: 13,
            hook: 3,
            instructions: [&begin[..], &GO_ON].concat(),
        }
    }

    /// A program for `connect4` that sends whatever is dialled on a port to another address and port.
    #[must_use]
    pub fn redirects(port: u16, to: SocketAddrV4) -> Self {
        /// Where `struct bpf_sock_addr` has them.
        const ADDRESS: u64 = 4;
        const PORT: u64 = 24;
        let network = |port: u16| u64::from(u16::from_ne_bytes(port.to_be_bytes()));
        let address = u64::from(u32::from_ne_bytes(to.ip().octets()));
        let (context, value): (u64, u64) = (1, 2);
        let load = |offset: u64| offset << 16 | context << 12 | value << 8 | 0x61;
        let store = |offset: u64| offset << 16 | value << 12 | context << 8 | 0x63;
        let set = |number: u64| number << 32 | value << 8 | 0xb4;
        let unless_equal_skip =
            |number: u64, skip: u64| number << 32 | skip << 16 | value << 8 | 0x55;
        let begin = [
            load(PORT),
            unless_equal_skip(network(port), 4),
            set(address),
            store(ADDRESS),
            set(network(to.port())),
            store(PORT),
        ];
        Self {
            kind: 18,
            hook: 10,
            instructions: [&begin[..], &GO_ON].concat(),
        }
    }

    /// Attaches it to a cgroup. It stays attached as long as the returned descriptor is open.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn attach(&self, cgroup: &Path) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Link {
            program: i32,
            target: i32,
            attach_type: u32,
            flags: u32,
        }
        let program = self.load()?;
        let target = File::open(cgroup)?;
        let link = Link {
            program: program.as_raw_fd(),
            target: target.as_raw_fd(),
            attach_type: self.hook,
            flags: 0,
        };
        // SAFETY: laid out as the kernel's attributes of that command; the descriptors are open.
        unsafe { bpf(Command::LinkCreate, &link) }
    }

    fn load(&self) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Load {
            program_type: u32,
            instructions_count: u32,
            instructions: u64,
            license: u64,
            log: [u64; 2],
            version_and_flags: u64,
            name: [u64; 2],
            interface: u32,
            attach_type: u32,
            rest: [u64; 5],
        }
        let load = Load {
            program_type: self.kind,
            instructions_count: u32::try_from(self.instructions.len()).map_err(io::Error::other)?,
            instructions: self.instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 2],
            version_and_flags: 0,
            name: [0; 2],
            interface: 0,
            attach_type: self.hook,
            rest: [0; 5],
        };
        // SAFETY: laid out as the kernel's attributes of that command; what they point to lives.
        unsafe { bpf(Command::ProgLoad, &load) }
    }
}

/// A command of bpf(2) that returns a descriptor.
///
/// # Safety
/// `T` is laid out as the kernel's attributes of that command, or as a beginning of them.
unsafe fn bpf<T>(command: Command, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises; no more is read than the size said.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
