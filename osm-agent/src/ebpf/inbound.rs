//! The program for network namespaces: read from its object once, loaded for each pod.

use std::{
    cell::OnceCell,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya_obj::{
    EbpfSectionKind, Object, ParseError,
    generated::{BPF_PSEUDO_MAP_VALUE, bpf_insn},
    relocation::EbpfRelocationError,
};

use super::{maps::Maps, objects};
use crate::{
    error::{Result, Tried as _},
    sys::program,
};

/// The program's name in the object.
pub const NAME: &str = "inbound_lookup";

/// The program on the maps of one version.
pub struct Inbound {
    maps: Vec<(String, OwnedFd)>,
    code: OnceCell<Code>,
}

/// The instructions, in which only the map that holds the pod's cookie is left open. That it is
/// a map and no number in an instruction keeps the kernel's digest of the instructions the same
/// for all pods: by it, programs are known again.
struct Code {
    instructions: Vec<bpf_insn>,
    /// Which instructions read the cookie.
    cookie_at: Vec<usize>,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Relocation(#[from] EbpfRelocationError),
    #[error("it is not in the object this agent was built with")]
    Missing,
    #[error("it has other constants than the pod's cookie")]
    Constants,
}

impl Inbound {
    /// The program on these maps.
    ///
    /// # Errors
    /// Where no descriptors are left.
    pub fn on(maps: &Maps) -> Result<Self> {
        let mut ours = Vec::new();
        for held in maps.held() {
            let name = held.path.file_name().unwrap_or_default();
            let map = held.object.try_clone().tried(|| "keep a map open")?;
            ours.push((name.to_string_lossy().into_owned(), map));
        }
        Ok(Self {
            maps: ours,
            code: OnceCell::new(),
        })
    }

    /// Loads it for one pod.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(&self, netns_cookie: u64) -> Result<OwnedFd> {
        let tried = || format!("load the BPF program {NAME}");
        let code = if let Some(code) = self.code.get() {
            code
        } else {
            let code = self.read().tried(tried)?;
            self.code.get_or_init(|| code)
        };
        code.load(netns_cookie).tried(tried)
    }

    fn read(&self) -> Result<Code, ReadError> {
        /// Stands for the descriptor of a pod's own map.
        const OPEN: i32 = -1;
        let mut object = Object::parse(objects::NETNS)?;
        let sections = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let maps = std::mem::take(&mut object.maps);
        let mut with_descriptors = Vec::new();
        for (name, map) in &maps {
            let ours = self.maps.iter().find(|(ours, _)| ours == name);
            let descriptor = match ours {
                Some((_, ours)) => ours.as_raw_fd(),
                None if map.section_kind() == EbpfSectionKind::Rodata
                    && map.data().len() == size_of::<u64>() =>
                {
                    OPEN
                }
                None => return Err(ReadError::Constants),
            };
            with_descriptors.push((name.as_str(), descriptor, map));
        }
        object.relocate_maps(with_descriptors.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        let program = object.programs.get(NAME).ok_or(ReadError::Missing)?;
        let function = object.functions.get(&program.function_key());
        let instructions = function.ok_or(ReadError::Missing)?.instructions.clone();
        let cookie_at = (0..instructions.len())
            .filter(|at| u32::from(instructions[*at].src_reg()) == BPF_PSEUDO_MAP_VALUE)
            .filter(|at| instructions[*at].code == LOAD_WIDE)
            .collect();
        Ok(Code {
            instructions,
            cookie_at,
        })
    }
}

/// `BPF_LD | BPF_IMM | BPF_DW`, the only instruction that names maps.
const LOAD_WIDE: u8 = 0x18;

impl Code {
    fn load(&self, netns_cookie: u64) -> io::Result<OwnedFd> {
        let cookie = program::constant(c"netns_cookie", netns_cookie)?;
        let mut instructions = self.instructions.clone();
        for at in &self.cookie_at {
            instructions[*at].imm = cookie.as_raw_fd();
        }
        program::load_lookup(c"inbound_lookup", c"GPL", &instructions)
    }
}
