//! One set of maps and programs: loaded into an empty state directory, or found there.

use std::{fs, io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use osm_ebpf_common::{LAYOUT_VERSION, maps::Meta};

use super::{
    links::CGROUP_HOOKS,
    maps::{Maps, NAMES},
    objects,
    state::StateDir,
};
use crate::error::{Error, Result, Tried as _};

/// Loads maps and programs into a state directory that [`open`] found nothing complete in.
///
/// # Errors
/// Where the kernel refuses. What was made stays; see [`StateDir::remove`].
pub fn load_anew(state: &StateDir) -> Result<Maps> {
    // A former attempt may have ended half-way.
    state.remove_contents()?;
    state.make_directories()?;
    load(state)
}

/// The maps of a state directory, if it was ever completed.
///
/// # Errors
/// Where they can't be opened, or pods depend on what this agent can't use.
pub fn open(state: &StateDir) -> Result<Option<Maps>> {
    let meta = state.maps().join("META");
    match fs::symlink_metadata(&meta) {
        Ok(_) => {}
        Err(error) if is_no_such_pin(&error) => return nothing_complete(state),
        Err(error) => return Err(error).tried(|| format!("look for {}", meta.display())),
    }
    let maps = match Maps::open(&state.maps()) {
        Ok(maps) => maps,
        Err(error) => {
            return match error.os_error() {
                Some(libc::ENOENT) => nothing_complete(state),
                Some(_) => Err(error),
                // The pins are there and are other maps.
                None => of_another_version(state),
            };
        }
    };
    let meta = maps.meta()?;
    if meta.layout == 0 {
        return nothing_complete(state);
    }
    if meta.layout != LAYOUT_VERSION || meta.programs != objects::digest() {
        return of_another_version(state);
    }
    state.make_directories()?;
    Ok(Some(maps))
}

fn nothing_complete(state: &StateDir) -> Result<Option<Maps>> {
    match state.count_pods()? {
        0 => Ok(None),
        pods => Err(unusable(
            state,
            &format!("maps are missing while {pods} pods are attached"),
        )),
    }
}

fn of_another_version(state: &StateDir) -> Result<Option<Maps>> {
    match state.count_pods()? {
        0 => Ok(None),
        _ => Err(unusable(state, "was made by another version of this agent")),
    }
}

fn is_no_such_pin(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
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

fn unusable(state: &StateDir, problem: &str) -> Error {
    Error::State {
        path: state.path().into(),
        problem: problem.into(),
        advice: "detach its pods with the agent that attached them, or remove the directory: \
                 that detaches them all"
            .into(),
    }
}
