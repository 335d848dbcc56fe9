//! Pins of links: opened, put in the place of others, removed with what they hold.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    hooks::{CGROUP_HOOKS, INBOUND, PASSIVE_HOOKS},
    maps::is_no_such_pin,
    state::{self, name_of},
};
use crate::{
    error::{Result, Tried as _},
    sys::bpf,
};

/// What the name of a link ends with until it takes the place of the one before.
const NEW: &str = "_new";

/// Opens a link, if it is there.
///
/// # Errors
/// Where it can't be opened.
pub fn open(path: &Path) -> Result<Option<OwnedFd>> {
    match bpf::open_pinned(path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if is_no_such_pin(&error) => Ok(None),
        Err(error) => Err(error).tried(|| format!("open {}", path.display())),
    }
}

/// Pins an object in the place of whatever is there, without a moment in between.
///
/// # Errors
/// Where it can't be pinned.
pub fn replace(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let pinned = bpf::pin(object, path);
    if !matches!(&pinned, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
        return pinned.tried(|| format!("pin {}", path.display()));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    // One of an agent that was killed.
    detach_one(&new)?;
    bpf::pin(object, &new).tried(|| format!("pin {}", new.display()))?;
    fs::rename(&new, path).tried(|| format!("pin {}", path.display()))
}

/// Detaches the links in a directory, in the order that never leaves a connection
/// redirected without what it needs, and removes the directory.
///
/// # Errors
/// Where a pin can't be opened or removed.
pub fn detach(directory: &Path) -> Result<()> {
    let mut present = state::entries(directory)?;
    present.sort_by_key(|path| detach_rank(name_of(path).unwrap_or_default()));
    for path in present {
        detach_one(&path)?;
    }
    state::remove_empty(directory)
}

/// What redirects goes first, what is not known comes next: it may redirect as well.
pub fn detach_rank(name: &str) -> usize {
    let name = name.strip_suffix(NEW).unwrap_or(name);
    let hook = CGROUP_HOOKS.iter().rposition(|hook| hook.program == name);
    match hook {
        _ if name == INBOUND => 0,
        Some(index) if index >= PASSIVE_HOOKS => 1,
        None => 2,
        Some(index) => 3 + CGROUP_HOOKS.len() - index,
    }
}

/// Detaches all links in a directory but those that are wanted.
///
/// # Errors
/// Where one can't be opened or removed.
pub fn remove_others(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    for path in state::entries(directory)? {
        if !name_of(&path).is_some_and(&is_wanted) {
            detach_one(&path)?;
        }
    }
    Ok(())
}

/// Detaches one link and removes its pin, if it is there.
///
/// # Errors
/// Where it can't be opened or removed.
pub fn detach_one(path: &Path) -> Result<()> {
    let Some(link) = open(path)? else {
        return Ok(());
    };
    // It fails where the cgroup or the namespace is gone, and with it the attachment.
    let _ = bpf::link_detach(link.as_fd());
    fs::remove_file(path).tried(|| format!("remove {}", path.display()))
}
