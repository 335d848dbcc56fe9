//! Which user namespace another namespace belongs to.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `NS_GET_USERNS` and `NS_GET_PARENT` of `linux/nsfs.h`.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_PARENT: libc::Ioctl = 0xb702;

/// How many user namespaces the owner of this namespace is away from the one that this process
/// can see as the outermost: 0 for the initial one itself. Linux 4.9; ioctl_nsfs(2).
///
/// # Errors
/// `EPERM` where the owner is outside of what this process may see, `ENOTTY` where the file is
/// no namespace.
pub fn depth_of_owner(namespace: &File) -> io::Result<usize> {
    let mut owner = related(namespace.as_fd(), NS_GET_USERNS)?;
    let mut depth = 0;
    loop {
        match related(owner.as_fd(), NS_GET_PARENT) {
            Ok(parent) => owner = parent,
            // The outermost one has no parent that may be seen.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(depth),
            Err(error) => return Err(error),
        }
        depth += 1;
    }
}

fn related(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open, and these requests take no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
