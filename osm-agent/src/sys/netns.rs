//! What the kernel says of network namespaces and of programs that are still running.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The cookie of the calling thread's network namespace: a number that the kernel gives to
/// no other one until it reboots. Linux 5.14; `SO_NETNS_COOKIE` in socket(7). On older kernels the number of
/// its inode, which another one may have after it is gone; programs go by the same.
///
/// # Errors
/// Where neither can be had.
pub fn cookie() -> io::Result<u64> {
    match from_socket() {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
        }
        result => result,
    }
}

/// Whether the kernel tells cookies of namespaces.
pub fn has_cookies() -> bool {
    from_socket().is_ok()
}

fn from_socket() -> io::Result<u64> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the buffer is as long as is said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Waits until every BPF program that was running when it was called has ended.
///
/// membarrier(2)'s global command waits for what RCU calls a grace period, and programs run
/// inside RCU read-side sections. Linux 4.3.
///
/// # Errors
/// Where the kernel was built without it.
pub fn wait_for_running_programs() -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_GLOBAL,
            0_u32,
            0_i32,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
