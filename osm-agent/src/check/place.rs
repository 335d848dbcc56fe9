//! Places to try things in, which nobody else sees and which are gone afterwards.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    error::{Result, Tried as _},
    pod::{self, Cgroup, Netns},
};

/// Where the kernel lets a bpffs be mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Runs something on a thread with mounts of its own, in which there is a bpffs.
///
/// # Errors
/// Where that can't be had.
pub fn with_private_bpffs<T: Send>(run: impl FnOnce(io::Result<()>) -> T + Send) -> io::Result<T> {
    on_a_thread(CloneFlags::CLONE_NEWNS, || {
        let none: Option<&str> = None;
        // What is mounted here stays here.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(Some("bpf"), BPFFS, Some("bpf"), flags, none);
        Ok(run(mounted.map_err(io::Error::from)))
    })
}

/// A new network namespace, which goes with the last descriptor of it.
///
/// # Errors
/// Where it can't be made.
pub fn netns() -> Result<Netns> {
    let file = on_a_thread(CloneFlags::CLONE_NEWNET, || {
        File::open("/proc/thread-self/ns/net")
    })
    .tried(|| "make a network namespace")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Netns::open(Path::new(&path))
}

fn on_a_thread<T: Send>(
    flags: CloneFlags,
    run: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(flags)?;
            run()
        });
        let panicked = |_| Err(io::Error::other("the thread in the namespace panicked"));
        inside.join().unwrap_or_else(panicked)
    })
}

/// A new cgroup; removed on drop.
#[derive(Debug)]
pub struct TemporaryCgroup {
    /// The cgroup.
    pub cgroup: Cgroup,
    path: PathBuf,
}

impl TemporaryCgroup {
    /// Below that directory, or the root of the hierarchy.
    ///
    /// # Errors
    /// Where it can't be made, or there is no hierarchy.
    pub fn new(root: Option<&Path>) -> Result<Self> {
        let hierarchy = pod::cgroup_root();
        let root = match root {
            Some(root) => root.to_owned(),
            None => hierarchy?,
        };
        let path = root.join(format!("osm-check-{}", std::process::id()));
        // A process of this number that was killed may have left one. It is empty.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path).tried(|| format!("create {}", path.display()))?;
        match Cgroup::open(&path, &root) {
            Ok(cgroup) => Ok(Self { cgroup, path }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Another descriptor of the same cgroup.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn open_again(&self) -> Result<Cgroup> {
        let root = self.path.parent().unwrap_or(&self.path);
        Cgroup::open(&self.path, root)
    }
}

impl Drop for TemporaryCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            let path = self.path.display();
            eprintln!("osm-agent: warning: {path} can't be removed: {error}");
        }
    }
}
