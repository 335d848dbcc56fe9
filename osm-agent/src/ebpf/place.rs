//! Where a state directory can be: on a bpffs, and nowhere that making a directory has effects.

use std::{
    fs, io,
    path::{Component, Path},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{
        BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC,
        SYSFS_MAGIC, statfs,
    },
};

use crate::error::{Error, Result, Tried as _};

/// Where a bpffs usually is.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Checks that a directory can be made on a bpffs, and mounts one where there is none yet: at
/// its usual place if the directory is below it, else at the directory itself.
///
/// # Errors
/// Where it can't, or must not.
pub fn prepare(path: &Path) -> Result<()> {
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or_else(|| Path::new("/"));
    if !existing.is_dir() {
        return Err(not_a_directory(path, existing));
    }
    if is_bpffs(existing) {
        return refuse_dots(path, existing);
    }
    let mount_point = if path.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        refuse_dots(path, Path::new(BPFFS))?;
        Path::new(BPFFS)
    } else {
        refuse_kernel_interfaces(path, existing)?;
        if existing == path && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        {
            return Err(Error::input(
                format!("--state-dir {}", path.display()),
                "exists, is not on a bpffs and is not empty",
                format!("use a directory below {BPFFS}, or an empty one"),
            ));
        }
        fs::create_dir_all(path).tried(|| format!("create {}", path.display()))?;
        path
    };
    mount(
        Some("bpf"),
        mount_point,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(io::Error::from)
    .tried(|| format!("mount a bpffs at {}", mount_point.display()))
}

/// Whether something is on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    is_on(path, BPF_FS_MAGIC)
}

/// The error for a state directory that is, or is below, a file.
pub fn not_a_directory(path: &Path, file: &Path) -> Error {
    Error::input(
        format!("--state-dir {}", path.display()),
        format!("{} is not a directory", file.display()),
        format!("use a directory below {BPFFS}, or one that does not exist yet"),
    )
}

/// bpffs takes no name with a dot, and says no more than that it is not permitted.
fn refuse_dots(path: &Path, bpffs: &Path) -> Result<()> {
    let inside = path.strip_prefix(bpffs).unwrap_or_else(|_| Path::new(""));
    let dotted = inside.components().find(|part| match part {
        Component::Normal(name) => name.as_encoded_bytes().contains(&b'.'),
        _ => *part == Component::ParentDir,
    });
    let Some(dotted) = dotted else { return Ok(()) };
    Err(Error::input(
        format!("--state-dir {}", path.display()),
        format!(
            "bpffs allows no dots in names, as in {}",
            dotted.as_os_str().display()
        ),
        "use a name without",
    ))
}

/// There, a new directory is more than a directory: in a cgroup hierarchy it is a cgroup.
fn refuse_kernel_interfaces(path: &Path, existing: &Path) -> Result<()> {
    for (magic, name) in [
        (CGROUP_SUPER_MAGIC, "cgroup"),
        (CGROUP2_SUPER_MAGIC, "cgroup2"),
        (PROC_SUPER_MAGIC, "proc"),
        (SYSFS_MAGIC, "sysfs"),
    ] {
        if is_on(existing, magic) {
            return Err(Error::input(
                format!("--state-dir {}", path.display()),
                format!("{} is on a file system of type {name}", existing.display()),
                format!("use a directory below {BPFFS}"),
            ));
        }
    }
    Ok(())
}

fn is_on(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == magic)
}
