//! The few system calls for which nobody offers a safe wrapper. All `unsafe` of this crate is here.

#![expect(unsafe_code, reason = "system calls; every block says why it is sound")]

pub mod foreign;
pub mod seccomp;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` (`linux/netfilter_ipv4.h`, `linux/netfilter_ipv6/ip6_tables.h`).
const SO_ORIGINAL_DST: i32 = 80;

/// The name of an error as programmers know it: `ECONNREFUSED`, or `EOF` where a stream ended early.
#[must_use]
pub fn error_name(error: &io::Error) -> String {
    match (error.raw_os_error(), error.kind()) {
        (Some(code), _) => format!("{:?}", Errno::from_raw(code)),
        (None, io::ErrorKind::UnexpectedEof) => "EOF".to_owned(),
        (None, io::ErrorKind::TimedOut) => "timeout".to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Makes the kernel kill the process that `command` starts when its parent thread ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died between fork and prctl would never be noticed.
        if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
}

/// `getsockopt` with a buffer of `len` bytes; what the kernel filled of it.
///
/// # Errors
/// The error of the call.
pub fn getsockopt(socket: BorrowedFd<'_>, level: i32, name: i32, len: u32) -> io::Result<Vec<u8>> {
    let mut value = vec![0; len as usize];
    let mut filled = len;
    // SAFETY: `value` has `filled` writable bytes, and both outlive the call.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut filled,
        )
    };
    Errno::result(code)?;
    value.truncate(filled as usize);
    Ok(value)
}

/// Where the peer of an accepted socket wanted to go: `SO_ORIGINAL_DST` at `SOL_IP` for IPv4 and
/// v4-mapped sockets, at `SOL_IPV6` for the rest. `local` is the socket's own address.
///
/// # Errors
/// The name of the error, or what is wrong with the kernel's answer.
pub fn original_destination(
    socket: BorrowedFd<'_>,
    local: SocketAddr,
) -> Result<SocketAddr, String> {
    let (level, len) = match crate::canonical(local) {
        SocketAddr::V4(_) => (libc::SOL_IP, size_of::<libc::sockaddr_in>()),
        SocketAddr::V6(_) => (libc::SOL_IPV6, size_of::<libc::sockaddr_in6>()),
    };
    let len = u32::try_from(len).map_err(|error| error.to_string())?;
    let value =
        getsockopt(socket, level, SO_ORIGINAL_DST, len).map_err(|error| error_name(&error))?;
    socket_address(&value)
}

/// Reads a `sockaddr_in` (16 bytes) or `sockaddr_in6` (28 bytes) as the kernel wrote it.
///
/// # Errors
/// What is wrong with it: neither family, or a length that is not the family's.
pub fn socket_address(value: &[u8]) -> Result<SocketAddr, String> {
    let odd = || format!("not a socket address: {value:02x?}");
    let (family, rest) = value.split_first_chunk().ok_or_else(odd)?;
    let (port, rest) = rest.split_first_chunk().ok_or_else(odd)?;
    let port = u16::from_be_bytes(*port);
    match (i32::from(u16::from_ne_bytes(*family)), value.len()) {
        (libc::AF_INET, 16) => {
            let ip: &[u8; 4] = rest.first_chunk().ok_or_else(odd)?;
            Ok(SocketAddr::from((Ipv4Addr::from(*ip), port)))
        }
        (libc::AF_INET6, 28) => {
            // The flow label comes first.
            let ip: &[u8; 16] = rest
                .get(4..)
                .and_then(<[u8]>::first_chunk)
                .ok_or_else(odd)?;
            Ok(SocketAddr::from((Ipv6Addr::from(*ip), port)))
        }
        _ => Err(odd()),
    }
}

/// `connect` to `AF_UNSPEC`: dissolves the association, so that the socket may dial anew.
///
/// # Errors
/// The error of the call.
pub fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).map_err(io::Error::other)?,
        sa_data: [0; 14],
    };
    let len = libc::socklen_t::try_from(size_of_val(&nowhere)).map_err(io::Error::other)?;
    // SAFETY: `nowhere` is a whole sockaddr of `len` bytes that outlives the call.
    let code = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, len) };
    Errno::result(code)?;
    Ok(())
}

/// `connect` through `IORING_OP_CONNECT` on a ring and a thread of its own: on older kernels (seen
/// on 5.10 and 6.1), what is left to do for a ring interrupts the next calls of its thread (`EINTR`).
///
/// # Errors
/// The error of the connection or of the ring; `ETIME` when `timeout` has passed.
pub fn connect_by_ring(
    socket: BorrowedFd<'_>,
    to: &socket2::SockAddr,
    timeout: Duration,
) -> io::Result<()> {
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_on_a_ring(socket, to, timeout));
        connecting
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn connect_on_a_ring(
    socket: BorrowedFd<'_>,
    to: &socket2::SockAddr,
    timeout: Duration,
) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), to.as_ptr().cast(), to.len()).build();
    // SAFETY: the socket and `to` are borrowed until this function returns, and the kernel copies
    // the address when the entry is submitted.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    let limit = Timespec::from(timeout);
    let waiting = SubmitArgs::new().timespec(&limit);
    ring.submitter().submit_with_args(1, &waiting)?;
    let done = ring.completion().next();
    let code = done.ok_or(io::ErrorKind::TimedOut)?.result();
    if code < 0 {
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(())
}

/// Takes the one file descriptor that the peer sends over `stream` (`SCM_RIGHTS`).
///
/// # Errors
/// The error of the call, or `InvalidData` where the message carries none.
pub fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let (_, descriptor) = receive_byte(stream)?;
    descriptor.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Takes one byte from `stream`, and the file descriptor that comes with it, if one does.
///
/// # Errors
/// The error of the call, or `UnexpectedEof` where the peer is gone.
pub fn receive_byte(stream: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(i32);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(list) => list.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let descriptor = descriptor.map(|it| unsafe { OwnedFd::from_raw_fd(it) });
    Ok((byte[0], descriptor))
}

/// `setsockopt` with these bytes.
///
/// # Errors
/// The error of the call.
pub fn setsockopt(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the value is as long as is said, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// A question to a socket whose answer is a number (ioctl_list(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `FIONREAD`: bytes that can be read.
    Unread,
    /// `SIOCOUTQ`: bytes that the peer has not acknowledged.
    Unacknowledged,
    /// `SIOCATMARK`: 1 where the next byte is the urgent one.
    AtMark,
}

/// Asks the socket.
///
/// # Errors
/// The error of the call.
pub fn ask(socket: BorrowedFd<'_>, question: Question) -> io::Result<i32> {
    // asm-generic/sockios.h; the libc crate has no name for the last one.
    let request = match question {
        Question::Unread => libc::FIONREAD,
        Question::Unacknowledged => libc::TIOCOUTQ,
        Question::AtMark => 0x8905,
    };
    let mut answer = -1_i32;
    // SAFETY: all three store an int, for which there is room that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut answer) };
    Errno::result(result)?;
    Ok(answer)
}

/// Makes this thread, and no other one of the process, that of a user (`setresuid(2)`, as the kernel has it and not
/// the C library).
///
/// # Errors
/// The error of the call.
pub fn become_user_on_this_thread(user: u32) -> io::Result<()> {
    // SAFETY: it takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    Errno::result(result)?;
    Ok(())
}
