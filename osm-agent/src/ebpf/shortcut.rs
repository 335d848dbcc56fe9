//! The loopback shortcut, as far as the agent has to do with it: whether this kernel can do it right, and where
//! the program finds the fields of the kernel's sockets.

use std::{os::fd::AsFd as _, path::Path, sync::LazyLock};

use aya::{Ebpf as Loaded, programs::Program};
use btfparse::{Integer32Value, TypeInformation, TypeVariant};
use osm_ebpf_common::maps::{PolicyWord, SocketLayout};

use super::{Ebpf, objects, types};
use crate::{
    error::{Result, Tried as _},
    policy::Policy,
    sys,
};

/// The program's name in the object, which is also that of its pin.
pub const NAME: &str = "loopback";
/// The map that it is attached to.
pub const SOCKETS: &str = "SHORTCUTS";
const NOT_THERE: &str = "it is not in the object this agent was built with";

/// Where the fields of the kernel's sockets are.
///
/// # Errors
/// In words, why this kernel does not do the shortcut right: connections then go by TCP.
pub fn offered() -> Result<SocketLayout, String> {
    static OFFERED: LazyLock<Result<SocketLayout, String>> = LazyLock::new(look);
    OFFERED.clone()
}

impl Ebpf {
    /// The word that puts a policy in force under an id: without the shortcut where that is not offered.
    pub(super) fn word(&self, policy: &Policy, id: u32) -> Result<PolicyWord> {
        let word = policy.word(id);
        if !policy.takes_shortcut() || self.has_shortcut()? || self.can_take_shortcut().is_ok() {
            return Ok(word);
        }
        Ok(PolicyWord::new(id, word.flags() & !PolicyWord::SHORTCUT))
    }

    /// Tells the programs what they have to know for the shortcut, where a policy wants that and this kernel
    /// does it right.
    pub(super) fn prepare_shortcut(&mut self, policy: &Policy) -> Result<()> {
        if !policy.takes_shortcut() || self.has_shortcut()? {
            return Ok(());
        }
        match self.can_take_shortcut() {
            Ok(layout) => self
                .maps
                .socket_layout
                .set(0, layout, 0)
                .tried(|| "write the map SOCKET_LAYOUT"),
            Err(why) => {
                tracing::warn!("{}", not_taken(&why));
                Ok(())
            }
        }
    }

    /// Why a policy is in force without the shortcut that it asks for, in words.
    #[must_use]
    pub fn shortcut_not_taken(&self, policy: &Policy) -> Option<String> {
        let why = policy
            .takes_shortcut()
            .then(|| self.can_take_shortcut().err());
        why.flatten().map(|why| not_taken(&why))
    }

    fn can_take_shortcut(&self) -> Result<SocketLayout, String> {
        let layout = offered()?;
        let version = self.state.version(objects::version());
        if version.join(NAME).exists() {
            Ok(layout)
        } else {
            Err("the kernel refuses its program".into())
        }
    }

    fn has_shortcut(&self) -> Result<bool> {
        let layout = self.maps.socket_layout.get(&0, 0);
        let layout = layout.tried(|| "read the map SOCKET_LAYOUT")?;
        Ok(layout.is_known != 0)
    }
}

fn not_taken(why: &str) -> String {
    format!("the loopback shortcut is not taken, bytes go by TCP: {why}")
}

/// Whether the kernel does it right, and takes the program.
///
/// # Errors
/// In words, why not.
pub fn probe(object: &mut Loaded) -> Result<(), String> {
    offered()?;
    load_program(object)
}

/// Loads the program, pins it, and has it run for all that the sockets in its map send.
///
/// # Errors
/// Where the kernel refuses.
pub fn load(object: &mut Loaded, pin: &Path) -> Result<(), String> {
    load_program(object)?;
    let words = |error: &dyn std::error::Error| error.to_string();
    let Some(Program::SkMsg(program)) = object.program_mut(NAME) else {
        return Err(NOT_THERE.into());
    };
    let program = program.fd().and_then(|fd| Ok(fd.try_clone()?));
    let program = program.map_err(|error| words(&error))?;
    let map = object.map(SOCKETS).ok_or("its map is missing")?;
    let aya::maps::Map::SockHash(map) = map else {
        return Err("its map is of another kind".into());
    };
    sys::program::attach_to_map(program.as_fd(), map.fd().as_fd())
        .map_err(|error| error.to_string())?;
    // Last: that it is pinned says that it is attached.
    sys::bpf::pin(program.as_fd(), pin).map_err(|error| error.to_string())
}

fn load_program(object: &mut Loaded) -> Result<(), String> {
    let Some(Program::SkMsg(program)) = object.program_mut(NAME) else {
        return Err(NOT_THERE.into());
    };
    program
        .load()
        .map_err(|error| format!("the kernel refuses the program: {error}"))
}

fn look() -> Result<SocketLayout, String> {
    let types = types::of_kernel()?;
    let field = types::field;
    // How many bytes wait there: without it, who asks how much can be read (FIONREAD) is told "nothing",
    // and some never read it. Kernels that have it also count these bytes as the socket's memory.
    field(&types, "sk_psock", "msg_tot_len").map_err(
        |_| "it tells readers of the shortcut (FIONREAD) that nothing is there to be read",
    )?;
    Ok(SocketLayout {
        write_seq: field(&types, "tcp_sock", "write_seq")?,
        unread: field(&types, "sock", "sk_backlog.rmem_alloc")?,
        low_water: field(&types, "sock", "sk_rcvlowat")?,
        flags: field(&types, "sock", "__sk_common.skc_flags")?,
        ruling_out: 1 << flag(&types, "SOCK_ZEROCOPY")?,
        upper_protocol: field(&types, "inet_connection_sock", "icsk_ulp_ops")?,
        socket: field(&types, "sock", "sk_socket")?,
        file: field(&types, "socket", "file")?,
        file_flags: field(&types, "file", "f_flags")?,
        is_known: 1,
        protocol: field(&types, "sock", "__sk_common.skc_prot")?,
        pressure: field(&types, "proto", "memory_pressure")?,
        reserved: [0; 2],
    })
}

/// The number of a socket's flag.
fn flag(types: &TypeInformation, name: &str) -> Result<u32, String> {
    let value = types.get().values().find_map(|kind| match kind {
        TypeVariant::Enum(kind) => kind
            .named_value_list()
            .iter()
            .find(|value| value.name == name)
            .map(|value| match value.value {
                Integer32Value::Unsigned(value) => value,
                Integer32Value::Signed(value) => value.unsigned_abs(),
            }),
        _ => None,
    });
    value
        .filter(|value| *value < u64::BITS)
        .ok_or_else(|| format!("its types have no {name}"))
}
