//! A kernel that refuses what this one does not: seccomp(2) hands calls of bpf(2) to us, and we answer for the
//! kernel. A filter alone can't count them, and can't look at what a call's argument points to.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

use libc::{c_ulong, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Commands of bpf(2), as `enum bpf_cmd` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "called as the kernel calls them")]
pub enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgAttach = 8,
    ObjInfo = 15,
    ProgQuery = 16,
    MapFreeze = 22,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)` of `linux/seccomp.h`.
const RECEIVE: c_ulong = 0xc050_2100;
const SEND: c_ulong = 0xc018_2101;
const _: () = assert!(size_of::<seccomp_notif>() == 0x50);
const _: () = assert!(size_of::<seccomp_notif_resp>() == 0x18);

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Call {
    thread: u32,
    attributes: u64,
}

impl Call {
    /// The first word of its attributes, as far as it can be read: of a load, the program's type.
    #[must_use]
    pub fn first_word(&self) -> Option<u32> {
        let mut word = [0; 4];
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        memory.read_exact_at(&mut word, self.attributes).ok()?;
        Some(u32::from_ne_bytes(word))
    }
}

/// Does `work` on a thread of its own, for which, and for the processes that it starts, `error` says what a
/// command of bpf(2) fails with; with none, the kernel does it. Linux 5.5.
///
/// # Errors
/// Where the kernel does not take the filter.
pub fn answering<T: Send>(
    command: Command,
    mut error: impl FnMut(&Call) -> Option<Errno>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let worker = scope.spawn(move || {
            // Nobody asks before the listener is heard.
            sender.send(listen(command)?).map_err(io::Error::other)?;
            drop(sender);
            Ok(work())
        });
        // None where the filter was refused, as the worker says.
        if let Ok(listener) = receiver.recv() {
            answer_all(&listener, &mut error)?;
        }
        worker.join().expect("the work is done")
    })
}

/// Without programs of the type `kind` (`enum bpf_prog_type`), as if the kernel did not know it.
///
/// # Errors
/// As for [`answering`].
pub fn without_program_type<T: Send>(kind: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let error = |call: &Call| (call.first_word() == Some(kind)).then_some(Errno::EINVAL);
    answering(Command::ProgLoad, error, work)
}

/// Puts the filter on this thread.
fn listen(command: Command) -> io::Result<OwnedFd> {
    /// Where `struct seccomp_data` has the call's number and, of its first argument, the lower half.
    const CALL: u32 = 0;
    const ARGUMENT: u32 = if cfg!(target_endian = "little") {
        16
    } else {
        20
    };
    let bpf = u32::try_from(libc::SYS_bpf).map_err(io::Error::other)?;
    let load = |k| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, k);
    let unless = |k, skip| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, k);
    let end = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, k);
    let mut filter = [
        load(CALL),
        unless(bpf, 3),
        load(ARGUMENT),
        unless(command as u32, 1),
        end(libc::SECCOMP_RET_USER_NOTIF),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: 6,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program has as many instructions as it says, and the kernel copies them.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = i32::try_from(Errno::result(listener)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn instruction(code: u32, unless: u8, k: u32) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).expect("codes have a byte"),
        jt: 0,
        jf: unless,
        k,
    }
}

/// Answers as long as there is somebody who may ask.
fn answer_all(
    listener: &OwnedFd,
    error: &mut impl FnMut(&Call) -> Option<Errno>,
) -> io::Result<()> {
    loop {
        let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [waited] = waited;
        let events = waited.revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            answer(listener, error)?;
        } else if events.contains(PollFlags::POLLHUP) {
            return Ok(());
        }
    }
}

fn answer(listener: &OwnedFd, error: &mut impl FnMut(&Call) -> Option<Errno>) -> io::Result<()> {
    // SAFETY: zeros are a value of it, and what the kernel wants.
    let mut question: seccomp_notif = unsafe { zeroed() };
    // SAFETY: the kernel writes as much as the type has.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut question) };
    match Errno::result(received) {
        // Who asked is gone.
        Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
        result => result?,
    };
    let error = error(&Call {
        thread: question.pid,
        attributes: question.data.args[1],
    });
    let goes_on =
        u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(io::Error::other)?;
    let mut answer = seccomp_notif_resp {
        id: question.id,
        val: 0,
        error: error.map_or(0, |error| -(error as i32)),
        flags: if error.is_some() { 0 } else { goes_on },
    };
    // SAFETY: the kernel reads as much as the type has.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
    match Errno::result(sent) {
        Err(Errno::ENOENT) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}
