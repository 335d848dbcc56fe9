//! The programs for network namespaces: one that decides, loaded once for a version, and a short one
//! for each pod, which says which pod it is and goes on in the first.

use std::{
    cell::OnceCell,
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use aya_obj::{
    EbpfSectionKind, Map, Object, ParseError,
    generated::{BPF_PSEUDO_MAP_VALUE, bpf_insn},
    relocation::EbpfRelocationError,
};

use super::{
    maps::{Held, Maps, open_pin},
    objects,
    pins::replace,
};
use crate::{
    error::{Result, Tried as _},
    sys::{bpf, program},
};

/// The name in the object of the program for one pod.
pub const NAME: &str = "inbound_lookup";
/// The name of the one that decides.
pub const DECISION: &str = "inbound_decision";
/// The map in which that one is.
const CODE: &str = "INBOUND_CODE";
/// The map by which the pod is handed over to it.
const POD: &str = "INBOUND_POD";

/// How many entries [`CODE`] has, all of them the same.
const FAMILIES: u32 = 2;

const LICENSE: &CStr = c"GPL";

/// The program for one pod, on the maps of one version.
pub struct Inbound {
    /// [`POD`], then [`CODE`].
    maps: [Held; 2],
    entry: OnceCell<Entry>,
}

/// A program, in which only the map of its constants is left open.
struct Code {
    instructions: Vec<bpf_insn>,
    /// Which instructions name that map.
    named_at: Vec<usize>,
    /// What is in it.
    constants: Vec<u8>,
}

/// The one for pods. That the pod's cookie is in a map and no number in an instruction keeps the kernel's digest
/// of the instructions the same for all pods: by it, programs are known again.
struct Entry {
    code: Code,
    /// Where the cookie is among the constants.
    cookie_at: usize,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Relocation(#[from] EbpfRelocationError),
    #[error("it is not in the object this agent was built with")]
    Missing,
    #[error("it reads other constants than the pod's cookie")]
    Constants,
}

/// Loads the program that decides, on these maps, and pins it and what leads to it.
///
/// # Errors
/// Where the kernel refuses.
pub fn make(maps: &Maps, directory: &Path) -> Result<()> {
    let pod = program::word_of_each_cpu(c"INBOUND_POD").tried(|| "create the map INBOUND_POD")?;
    let held = maps.held();
    let descriptor = |name: &str| {
        let held = held.iter().find(|held| held.path.ends_with(name));
        let held = held.map(|held| held.object.as_raw_fd());
        held.or_else(|| (name == POD).then(|| pod.as_raw_fd()))
    };
    let decision = read(DECISION, descriptor)
        .map_err(io::Error::other)
        .and_then(|program| program.load(c"inbound_decision", &program.constants))
        .tried(|| format!("load the BPF program {DECISION}"))?;
    let code = program::array_of(c"INBOUND_CODE", decision.as_fd(), FAMILIES)
        .tried(|| "create the map INBOUND_CODE")?;
    for (object, name) in [(&pod, POD), (&decision, DECISION), (&code, CODE)] {
        replace(object.as_fd(), &directory.join(name))?;
    }
    Ok(())
}

/// Whether all that [`make`] makes is there, and the kernel has not emptied it.
///
/// # Errors
/// Where it can't be asked.
pub fn is_whole(directory: &Path) -> Result<bool> {
    let (Some(_), Some((code, _))) = (
        open_pin(&directory.join(POD))?,
        open_pin(&directory.join(CODE))?,
    ) else {
        return Ok(false);
    };
    let decision = bpf::open_pinned(&directory.join(DECISION))
        .and_then(|program| bpf::program_info(program.as_fd()));
    let Ok(decision) = decision else {
        return Ok(false);
    };
    let is_there = |index| program::program_in(code.as_fd(), index).ok() == Some(decision.id);
    Ok((0..FAMILIES).all(is_there))
}

impl Inbound {
    /// What [`make`] has left in a version's directory.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn open(directory: &Path) -> Result<Self> {
        let hold = |name: &str| -> Result<Held> {
            let path = directory.join(name);
            let opened = bpf::open_pinned(&path)
                .and_then(|object| Ok((bpf::map_info(object.as_fd())?.id, object)));
            let (id, object) = opened.tried(|| format!("open the map {}", path.display()))?;
            Ok(Held { path, object, id })
        };
        Ok(Self {
            maps: [hold(POD)?, hold(CODE)?],
            entry: OnceCell::new(),
        })
    }

    /// Its maps.
    pub const fn held(&self) -> &[Held] {
        &self.maps
    }

    /// The map that holds the program in which those of pods go on. It is pinned with each pod:
    /// the kernel empties it when it is neither open nor pinned anywhere.
    pub const fn code(&self) -> &Held {
        &self.maps[1]
    }

    /// Loads the program for one pod.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(&self, netns_cookie: u64) -> Result<OwnedFd> {
        let tried = || format!("load the BPF program {NAME}");
        let entry = if let Some(entry) = self.entry.get() {
            entry
        } else {
            let entry = self.read().tried(tried)?;
            self.entry.get_or_init(|| entry)
        };
        entry.load(netns_cookie).tried(tried)
    }

    fn read(&self) -> Result<Entry, ReadError> {
        let descriptor = |name: &str| {
            let held = self.maps.iter().find(|held| held.path.ends_with(name));
            held.map(|held| held.object.as_raw_fd())
        };
        let code = read(NAME, descriptor)?;
        // Where in the map is said by the second half of the instruction.
        let mut places = code.named_at.iter().map(|at| code.instructions[at + 1].imm);
        let place = places.next().filter(|place| places.all(|it| it == *place));
        let cookie_at = place.and_then(|place| usize::try_from(place).ok());
        let cookie_at = cookie_at.filter(|at| at + size_of::<u64>() <= code.constants.len());
        Ok(Entry {
            cookie_at: cookie_at.ok_or(ReadError::Constants)?,
            code,
        })
    }
}

/// A program on the maps of these descriptors, as this kernel takes it. What it does not use needs no descriptor.
fn read(name: &str, descriptor: impl Fn(&str) -> Option<RawFd>) -> Result<Code, ReadError> {
    /// Stands for the descriptor of the constants, and of maps that the program does not use.
    const OPEN: RawFd = -1;
    let mut object = Object::parse(objects::NETNS)?;
    let tells = u32::from(program::tells_interfaces()).to_ne_bytes();
    object.patch_map_data([(objects::TELLS_INTERFACES, (&tells[..], true))].into())?;
    let sections = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let maps = std::mem::take(&mut object.maps);
    let mut constants = maps
        .values()
        .filter(|map| map.section_kind() == EbpfSectionKind::Rodata);
    let (Some(data), None) = (constants.next().map(Map::data), constants.next()) else {
        return Err(ReadError::Constants);
    };
    let with_descriptors = maps
        .iter()
        .map(|(name, map)| (name.as_str(), descriptor(name).unwrap_or(OPEN), map));
    object.relocate_maps(with_descriptors, &sections)?;
    object.relocate_calls(&sections)?;
    let program = object.programs.get(name).ok_or(ReadError::Missing)?;
    let function = object.functions.get(&program.function_key());
    let instructions = function.ok_or(ReadError::Missing)?.instructions.clone();
    let named_at = (0..instructions.len())
        .filter(|at| u32::from(instructions[*at].src_reg()) == BPF_PSEUDO_MAP_VALUE)
        .filter(|at| instructions[*at].code == LOAD_WIDE)
        .collect();
    Ok(Code {
        instructions,
        named_at,
        constants: data.to_vec(),
    })
}

/// `BPF_LD | BPF_IMM | BPF_DW`, the only instruction that names maps.
const LOAD_WIDE: u8 = 0x18;

impl Code {
    fn load(&self, name: &CStr, constants: &[u8]) -> io::Result<OwnedFd> {
        let constants = program::constants(c"netns_cookie", constants)?;
        let mut instructions = self.instructions.clone();
        for at in &self.named_at {
            instructions[*at].imm = constants.as_raw_fd();
        }
        program::load_lookup(name, LICENSE, &instructions)
    }
}

impl Entry {
    fn load(&self, netns_cookie: u64) -> io::Result<OwnedFd> {
        let mut constants = self.code.constants.clone();
        let cookie = &mut constants[self.cookie_at..][..size_of::<u64>()];
        cookie.copy_from_slice(&netns_cookie.to_ne_bytes());
        self.code.load(c"inbound_lookup", &constants)
    }
}
