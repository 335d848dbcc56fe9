//! One set of maps and programs: loaded into an empty state directory, or found there.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use osm_ebpf_common::{LAYOUT_VERSION, maps::Meta};

use super::{
    links::CGROUP_HOOKS,
    maps::{Maps, NAMES},
    objects,
    state::{StateDir, remove_tree},
};
use crate::error::{Error, Result, Tried as _};

/// The maps of a state directory, with the programs loaded where there are none.
pub fn open_or_load(state: &StateDir) -> Result<Maps> {
    if let Some(maps) = open(state)? {
        return Ok(maps);
    }
    // Nothing complete is there. A former attempt may have ended half-way.
    for directory in [
        state.pods(),
        state.staging(),
        state.programs(),
        state.maps(),
    ] {
        remove_tree(&directory)?;
        fs::create_dir(&directory).tried(|| format!("create {}", directory.display()))?;
    }
    load(state)
}

/// The maps of a state directory, if it was ever completed.
pub fn open(state: &StateDir) -> Result<Option<Maps>> {
    if !state.maps().join("META").exists() {
        return Ok(None);
    }
    let Ok(maps) = Maps::open(&state.maps()) else {
        return match pods_of(state) {
            0 => Ok(None),
            pods => Err(unusable(
                state,
                &format!("maps are missing while {pods} pods are attached"),
            )),
        };
    };
    let meta = maps.meta()?;
    if meta.layout == 0 {
        return Ok(None);
    }
    if meta.layout != LAYOUT_VERSION || meta.programs != objects::digest() {
        if pods_of(state) == 0 {
            return Ok(None);
        }
        return Err(unusable(state, "was made by another version of this agent"));
    }
    Ok(Some(maps))
}

/// Loads the object for network namespaces, for one pod, on the shared maps.
pub fn load_for_netns(state: &StateDir, netns_cookie: u64) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let loader = pinned_maps(loader.btf(None), &state.maps());
    loader
        .override_global("NETNS_COOKIE", &netns_cookie, true)
        .load(objects::NETNS)
        .tried(|| "load the BPF program for a network namespace")
}

fn load(state: &StateDir) -> Result<Maps> {
    let mut loader = EbpfLoader::new();
    let loader = pinned_maps(loader.btf(None), &state.maps());
    let mut object = loader
        .load(objects::CGROUP)
        .tried(|| "create the BPF maps")?;
    for hook in &CGROUP_HOOKS {
        let path = state.programs().join(hook.program);
        load_and_pin(&mut object, hook.program, &path)
            .tried(|| format!("load the BPF program {}", hook.program))?;
    }
    let mut maps = Maps::open(&state.maps())?;
    maps.set_meta(Meta {
        layout: LAYOUT_VERSION,
        next_policy: 1,
        staged_policy: 0,
        programs: objects::digest(),
    })?;
    Ok(maps)
}

fn load_and_pin(object: &mut Ebpf, name: &str, path: &Path) -> Result<(), LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::Missing)?;
    match program {
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::CgroupSockopt(program) => program.load()?,
        _ => return Err(LoadError::Missing),
    }
    program.pin(path)?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("it is not in the object this agent was built with")]
    Missing,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
}

fn pinned_maps<'a, 'b>(loader: &'b mut EbpfLoader<'a>, directory: &Path) -> &'b mut EbpfLoader<'a> {
    for name in NAMES {
        loader.map_pin_path(name, directory.join(name));
    }
    loader
}

/// How many pods have links in a state directory.
pub fn pods_of(state: &StateDir) -> usize {
    fs::read_dir(state.pods()).map_or(0, Iterator::count)
}

fn unusable(state: &StateDir, problem: &str) -> Error {
    Error::State {
        path: state.path().into(),
        problem: problem.into(),
        advice: "detach its pods with the agent that attached them, or remove the directory: \
                 that detaches them all"
            .into(),
    }
}
