//! One version of the agent in a state directory: its own maps and its programs, made in one
//! piece, or found there.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use osm_ebpf_common::{
    LAYOUT_VERSION, SHARED_LAYOUT,
    maps::{InterceptedPair, Meta, PolicyWord, State},
};

use super::{
    hooks::CGROUP_HOOKS,
    inbound::{self, Inbound},
    maps::{Held, Maps, OWN, SHARED, is_no_such_pin, open_pin},
    objects,
    salvage::{
        TEMPLATE, find_again, is_of_this_layout, pin, pinned_programs, program_names, programs_in,
        read_first, share,
    },
    shortcut,
    state::{self, StateDir},
};
use crate::{
    error::{Error, Result, Tried as _},
    sys::bpf,
};

/// The programs of this version.
pub struct Programs {
    /// In the order of [`CGROUP_HOOKS`], then those for namespaces, then the shortcut's, if it is there.
    held: Vec<Held>,
    inbound: Inbound,
    inbound_tag: [u8; 8],
}

impl Programs {
    fn open(state: &StateDir) -> Result<Self> {
        let directory = state.version(objects::version());
        let mut held = Vec::new();
        let mut inbound_tag = [0; 8];
        for name in program_names() {
            let path = directory.join(name);
            let opened =
                open_program(&path).tried(|| format!("open the program {}", path.display()))?;
            inbound_tag = opened.1;
            held.push(opened.0);
        }
        // Where the kernel refused it, it is not there.
        held.extend(open_program(&directory.join(shortcut::NAME)).map(|(program, _)| program));
        Ok(Self {
            held,
            inbound: Inbound::open(&directory)?,
            inbound_tag,
        })
    }

    /// All of them.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// The program for a hook, by the hook's index.
    pub fn for_hook(&self, index: usize) -> &Held {
        &self.held[index]
    }

    /// The program for network namespaces.
    pub const fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// Whether a program for a network namespace is one of this version's, and goes on in its code.
    pub fn is_inbound(&self, id: u32) -> bool {
        bpf::program_by_id(id)
            .and_then(|program| bpf::program_info(program.as_fd()))
            .is_ok_and(|info| {
                info.tag == self.inbound_tag && info.maps.contains(&self.inbound.code().id)
            })
    }
}

/// A program by its pin, and the digest of its instructions.
fn open_program(path: &Path) -> io::Result<(Held, [u8; 8])> {
    let object = bpf::open_pinned(path)?;
    let info = bpf::program_info(object.as_fd())?;
    let program = Held {
        path: path.to_owned(),
        object,
        id: info.id,
    };
    Ok((program, info.tag))
}

/// The kernel's number of the program that is pinned at a path; none where none is.
pub fn program_id(path: &Path) -> Option<u32> {
    open_program(path).ok().map(|(program, _)| program.id)
}

/// What is open of a state directory.
pub type Opened = (Maps, Programs);

/// Loads maps and programs into a state directory that [`open`] found nothing complete in.
///
/// # Errors
/// Where the kernel refuses. What was made stays; see [`StateDir::remove`].
pub fn load_anew(state: &StateDir) -> Result<Opened> {
    // A former attempt may have ended half-way.
    state.remove_contents()?;
    state.make_directories()?;
    make(state)?;
    let (mut maps, programs) = open_version(state)?;
    maps.set_state(State {
        layout: SHARED_LAYOUT,
        ..State::default()
    })?;
    Ok((maps, programs))
}

/// Opens a state directory, if it was ever completed, and adds this version to it where it is
/// not there or something of it was removed.
///
/// # Errors
/// Where it can't be opened, or pods depend on what this agent can't use.
pub fn open(state: &StateDir) -> Result<Option<Opened>> {
    match shared_layout(state)? {
        None => return nothing_complete(state),
        Some(SHARED_LAYOUT) => {}
        Some(_) => return of_another_layout(state),
    }
    let all = pinned_programs(state)?;
    find_again(&state.maps(), &SHARED, &all)?;
    for map in &SHARED {
        match open_pin(&state.maps().join(map.name))? {
            None => return nothing_complete(state),
            Some((_, info)) if !map.fits(&info) => return of_another_layout(state),
            Some(_) => {}
        }
    }
    state.make_directories()?;
    if !is_whole(&state.version(objects::version()))? {
        make(state)?;
    }
    open_version(state).map(Some)
}

/// Whether the maps of a version are those of this one.
pub fn shares_maps(state: &StateDir, maps: &Maps, version: u64) -> bool {
    version == objects::version()
        || open_pin(&state.version(version).join("PODS"))
            .is_ok_and(|pods| pods.is_some_and(|(_, info)| info.id == maps.pods_id()))
}

fn open_version(state: &StateDir) -> Result<Opened> {
    let maps = Maps::open(state, objects::version())?;
    let programs = Programs::open(state)?;
    Ok((maps, programs))
}

/// None where it was never set.
fn shared_layout(state: &StateDir) -> Result<Option<u32>> {
    let path = state.maps().join("STATE");
    let Some((map, info)) = open_pin(&path)? else {
        return Ok(None);
    };
    if info.value_size as usize != size_of::<State>() {
        return Ok(Some(u32::MAX));
    }
    let state = read_first::<State>(map).tried(|| format!("read the map {}", path.display()))?;
    Ok((state.layout != 0).then_some(state.layout))
}

fn nothing_complete(state: &StateDir) -> Result<Option<Opened>> {
    match state.linked_pods()?.len() {
        0 => Ok(None),
        pods => Err(unusable(
            state,
            &format!("maps are missing while {pods} pods are attached"),
        )),
    }
}

fn of_another_layout(state: &StateDir) -> Result<Option<Opened>> {
    match state.linked_pods()?.len() {
        0 => Ok(None),
        _ => Err(unusable(
            state,
            "was made by another version of this agent, which lays out shared maps otherwise",
        )),
    }
}

fn unusable(state: &StateDir, problem: &str) -> Error {
    Error::State {
        path: state.path().into(),
        problem: problem.into(),
        advice: "its pods stay intercepted: use the agent that attached them, or let go of all of \
                 them with `osm-agent cleanup`"
            .into(),
    }
}

/// Whether a version's directory has everything.
fn is_whole(directory: &Path) -> Result<bool> {
    for map in &OWN {
        let pin = open_pin(&directory.join(map.name))?;
        if !pin.is_some_and(|(_, info)| map.fits(&info)) {
            return Ok(false);
        }
    }
    for name in program_names() {
        let path = directory.join(name);
        match bpf::open_pinned(&path) {
            Ok(program) if bpf::program_info(program.as_fd()).is_ok() => {}
            Ok(_) => return Ok(false),
            Err(error) if is_no_such_pin(&error) => return Ok(false),
            Err(error) => {
                return Err(error).tried(|| format!("open the program {}", path.display()));
            }
        }
    }
    inbound::is_whole(directory)
}

/// Makes this version's directory, with maps that are there already where they can be used.
fn make(state: &StateDir) -> Result<()> {
    let published = state.version(objects::version());
    let staged = state.stage(&published)?;
    let made = fill(state, &staged, &published).and_then(|()| {
        // One of which something was removed.
        let former = state.stage(&state.version(!objects::version()))?;
        if published.exists() {
            state.publish(&published, &former)?;
        }
        state.publish(&staged, &published)?;
        state::remove_all(&former)
    });
    if made.is_err() {
        // The error that is reported is the first one.
        let _ = state::remove_all(&staged);
    }
    made
}

fn fill(state: &StateDir, staged: &Path, former: &Path) -> Result<()> {
    let programs = programs_in(former);
    find_again(former, &OWN, &programs)?;
    let mut sources = vec![former.to_owned()];
    for other in state.numbered(&state.versions())? {
        sources.push(state.version(other));
    }
    for source in sources {
        let is_former = source == *former;
        if (is_former || is_of_this_layout(&source)?) && share(&source, staged)? {
            break;
        }
    }
    load(&state.maps(), staged)?;
    let maps = Maps::open_at(&state.maps(), staged)?;
    inbound::make(&maps, staged)?;
    pin(&Inbound::open(staged)?.load(0)?, &staged.join(TEMPLATE))?;
    begin(maps)
}

/// Says what the maps are, where they are new.
fn begin(mut maps: Maps) -> Result<()> {
    if maps.meta()?.layout == LAYOUT_VERSION {
        return Ok(());
    }
    // Ids that pods may go by, if somebody has removed the map that knew the next one.
    let mut used = 0;
    for word in maps.policy_in_force.iter() {
        let word: PolicyWord = word.tried(|| "read the map POLICY_IN_FORCE")?;
        used = used.max(word.id());
    }
    for id in maps.policies.keys() {
        used = used.max(id.tried(|| "read the map POLICIES")?);
    }
    // Ids of policies that nobody goes by any more may now be given again.
    for place in 0..InterceptedPair::PLACES {
        maps.intercepted
            .set(place, InterceptedPair::NONE, 0)
            .tried(|| "write the map INTERCEPTED")?;
    }
    maps.set_meta(Meta {
        layout: LAYOUT_VERSION,
        next_policy: used + 1,
        staged_policy: 0,
    })
}

fn load(shared: &Path, own: &Path) -> Result<()> {
    let mut loader = objects::loader();
    let loader = pinned_maps(&mut loader, shared, own);
    let mut object = match loader.load(objects::cgroup()) {
        Ok(object) => object,
        Err(error) => {
            return match objects::refused() {
                Some(why) => Err(why).tried(|| "load the BPF programs"),
                None => Err(error).tried(|| "create the BPF maps"),
            };
        }
    };
    for hook in &CGROUP_HOOKS {
        let path = own.join(hook.program);
        load_and_pin(&mut object, hook.program, &path)
            .tried(|| format!("load the BPF program {}", hook.program))?;
    }
    // Where the kernel does not take it, connections go by TCP.
    if let Err(why) = shortcut::load(&mut object, &own.join(shortcut::NAME)) {
        tracing::debug!("the kernel refuses the program {}: {why}", shortcut::NAME);
    }
    Ok(())
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

fn pinned_maps<'a, 'b>(
    loader: &'b mut EbpfLoader<'a>,
    shared: &Path,
    own: &Path,
) -> &'b mut EbpfLoader<'a> {
    for (directory, maps) in [(shared, &SHARED[..]), (own, &OWN[..])] {
        for map in maps {
            loader.map_pin_path(map.name, directory.join(map.name));
        }
    }
    loader
}

/// Removes the versions whose programs run for no pod.
///
/// # Errors
/// Where one can't be removed.
pub fn remove_unused(state: &StateDir, is_used: impl Fn(u64) -> bool) -> Result<()> {
    for version in state.numbered(&state.versions())? {
        if version == objects::version() || is_used(version) {
            continue;
        }
        let former = state.version(version);
        // It goes as a whole: what is left of it is never taken for one that is complete.
        let staged = state.stage(&former)?;
        state.publish(&former, &staged)?;
        state::remove_all(&staged)?;
    }
    Ok(())
}
