//! Removing everything of ours from a state directory, whatever version made it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    hooks,
    lock::Patience,
    maps::{OWN, SHARED},
    pins,
    state::{self, StateDir, entries, name_of, number_of},
};
use crate::error::{Result, Tried as _};

/// What [`cleanup`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// How many pods were let go.
    pub pods: usize,
    /// What is in the directory, was not of our making, and is still there.
    pub foreign: Vec<PathBuf>,
}

/// Detaches every pod, and removes every pin and directory of ours. Works without knowing how
/// maps are laid out: also where another version made them, or none has completed them.
///
/// # Errors
/// Where an agent keeps the directory, or something in it can't be removed.
pub fn cleanup(state_dir: &Path) -> Result<Cleaned> {
    let mut cleaned = Cleaned::default();
    let Some(state) = StateDir::open(state_dir, Patience::Agent)? else {
        return Ok(cleaned);
    };
    cleaned.pods = state.linked_pods()?.len();
    // What redirects first, everywhere; a cgroup's links serve pods that others let go of.
    for directory in [state.pods(), state.staging(), state.cgroups()] {
        for path in numbered(&directory)? {
            pins::detach(&path)?;
        }
    }
    for version in numbered(&state.path().join("versions"))? {
        state::remove_all(&version)?;
    }
    let path = state.path().to_owned();
    remove_known(&path.join("maps"), is_map)?;
    remove_known(&path.join("programs"), |name| {
        hooks::names().any(|it| it == name)
    })?;
    for directory in ["pods", "staging", "cgroups", "versions"] {
        state::remove_empty(&path.join(directory))?;
    }
    cleaned.foreign = foreign_in(&path)?;
    state::remove_empty(&path)?;
    Ok(cleaned)
}

/// Nobody else calls directories so, there.
fn numbered(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(directory)?;
    found.retain(|path| path.is_dir() && name_of(path).is_some_and(|it| number_of(it).is_some()));
    Ok(found)
}

fn remove_known(directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    for path in entries(directory)? {
        if name_of(&path).is_some_and(&is_ours) {
            fs::remove_file(&path).tried(|| format!("remove {}", path.display()))?;
        }
    }
    state::remove_empty(directory)
}

/// The maps of this version, of former ones, and of those to come, which are called alike.
fn is_map(name: &str) -> bool {
    let known = SHARED.iter().chain(&OWN).any(|map| map.name == name);
    known || name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Everything but the two files that the kernel puts into every bpffs.
pub fn foreign_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(directory)? {
        match name_of(&path) {
            Some("maps.debug" | "progs.debug") if !path.is_dir() => {}
            _ if path.is_dir() => {
                let below = foreign_in(&path)?;
                found.extend(below);
            }
            _ => found.push(path),
        }
    }
    Ok(found)
}
