//! Maps that are there already, for a version that is made or mended: those of another version of
//! the same layout, and those whose pins were removed while programs use them.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, MapError};
use osm_ebpf_common::{LAYOUT_VERSION, maps::Meta};

use super::{
    hooks::CGROUP_HOOKS,
    inbound,
    maps::{Definition, OWN, open_pin},
    state::StateDir,
};
use crate::{
    error::{Result, Tried as _},
    sys::bpf,
};

/// The program for network namespaces as it is for no pod: by it, those of pods are known again.
pub const TEMPLATE: &str = inbound::NAME;

/// Whether a version's directory has maps of this version's layout.
///
/// # Errors
/// Where they can't be asked.
pub fn is_of_this_layout(directory: &Path) -> Result<bool> {
    let Some((meta, info)) = open_pin(&directory.join("META"))? else {
        return Ok(false);
    };
    if info.value_size as usize != size_of::<Meta>() {
        return Ok(false);
    }
    let meta = read_first::<Meta>(meta).tried(|| "read the map META")?;
    Ok(meta.layout == LAYOUT_VERSION)
}

/// Pins the maps of one directory in another one too; says whether there were any.
///
/// # Errors
/// Where one can't be pinned.
pub fn share(from: &Path, to: &Path) -> Result<bool> {
    let mut any = false;
    for map in &OWN {
        if let Some((pinned, info)) = open_pin(&from.join(map.name))?
            && map.fits(&info)
        {
            pin(&pinned, &to.join(map.name))?;
            any = true;
        }
    }
    Ok(any)
}

/// Pins maps again whose pins were removed, and that programs still use.
///
/// # Errors
/// Where one can't be pinned.
pub fn find_again(directory: &Path, wanted: &[Definition], programs: &[PathBuf]) -> Result<()> {
    for map in wanted {
        let path = directory.join(map.name);
        if !path.exists()
            && directory.is_dir()
            && let Some(found) = used_by(programs, map)
        {
            pin(&found, &path)?;
        }
    }
    Ok(())
}

/// Where the programs of all versions are pinned.
///
/// # Errors
/// Where the state directory can't be read.
pub fn pinned_programs(state: &StateDir) -> Result<Vec<PathBuf>> {
    let versions = state.numbered(&state.versions())?.into_iter();
    Ok(versions
        .flat_map(|version| programs_in(&state.version(version)))
        .collect())
}

/// Where the programs of one version are pinned.
pub fn programs_in(directory: &Path) -> Vec<PathBuf> {
    program_names().map(|name| directory.join(name)).collect()
}

/// The programs of a version, the template last.
pub fn program_names() -> impl Iterator<Item = &'static str> {
    let hooks = CGROUP_HOOKS.iter().map(|hook| hook.program);
    hooks.chain([inbound::DECISION, TEMPLATE])
}

/// Pins a map or a program.
///
/// # Errors
/// Where something is there.
pub fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
    bpf::pin(object.as_fd(), path).tried(|| format!("pin {}", path.display()))
}

/// The first element of an array.
///
/// # Errors
/// Where it can't be read, or is of another size.
pub fn read_first<V: aya::Pod>(map: OwnedFd) -> Result<V, MapError> {
    let map = MapData::from_fd(map).and_then(Map::from_map_data)?;
    Array::<_, V>::try_from(map)?.get(&0, 0)
}

fn used_by(programs: &[PathBuf], wanted: &Definition) -> Option<OwnedFd> {
    programs.iter().find_map(|path| {
        let program = bpf::open_pinned(path).ok()?;
        let maps = bpf::program_info(program.as_fd()).ok()?.maps;
        maps.into_iter().find_map(|id| {
            let map = bpf::map_by_id(id).ok()?;
            let info = bpf::map_info(map.as_fd()).ok()?;
            (wanted.is_named(&info) && wanted.fits(&info)).then_some(map)
        })
    })
}
