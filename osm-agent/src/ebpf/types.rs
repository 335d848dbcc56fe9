//! The kernel's own types, by which programs find fields that no helper tells them.

use std::{fs, io};

use aya_obj::generated::{bpf_func_id::BPF_FUNC_get_current_uid_gid, bpf_prog_type};
use btfparse::{Error as BtfError, ErrorKind, Offset, Readable, TypeInformation};

use crate::sys::{self, program};

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Where a running task's user is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLayout {
    /// In a task, its credentials; zero where nobody has to look.
    pub credentials: u32,
    /// In these, the user.
    pub user: u32,
}

/// How sockops programs learn who calls: up to Linux 6.12 they may not ask the kernel, on 6.18 they may.
///
/// # Errors
/// In words, why they can't.
pub fn caller() -> Result<CallerLayout, String> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS;
    match program::try_helper(kind, BPF_FUNC_get_current_uid_gid as i32) {
        Ok(()) => Ok(CallerLayout::default()),
        // What the verifier answers. All else is no matter of helpers.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Ok(CallerLayout::default()),
        Err(_) => {
            let types = of_kernel()?;
            Ok(CallerLayout {
                credentials: field(&types, "task_struct", "cred")?,
                user: field(&types, "cred", "uid")?,
            })
        }
    }
}

/// Where a socket's network namespace is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceLayout {
    /// In a socket, in words; zero where nobody has to look.
    pub namespace: u32,
    /// In a namespace, its number.
    pub number: u32,
}

/// How programs of all kinds learn in which namespace they are: before Linux 5.15, not all may ask.
///
/// # Errors
/// In words, why they can't.
pub fn namespace() -> Result<NamespaceLayout, String> {
    const WORD: u32 = 8;
    if sys::netns::has_cookies() {
        return Ok(NamespaceLayout::default());
    }
    let types = of_kernel()?;
    Ok(NamespaceLayout {
        namespace: field(&types, "sock", "__sk_common.skc_net")? / WORD,
        number: field(&types, "net", "ns.inum")?,
    })
}

/// Reads them.
///
/// # Errors
/// In words, why not.
pub fn of_kernel() -> Result<TypeInformation, String> {
    let bytes = fs::read(KERNEL_TYPES).map_err(|error| format!("{KERNEL_TYPES}: {error}"))?;
    TypeInformation::new(&Bytes(bytes)).map_err(|error| format!("{KERNEL_TYPES}: {error:?}"))
}

/// Where a field is, in bytes. The structures of sockets begin with each other.
///
/// # Errors
/// In words, that there is none.
pub fn field(types: &TypeInformation, of: &str, path: &str) -> Result<u32, String> {
    let missing = || format!("its types have no {of}.{path}");
    let id = types.id_of(of).ok_or_else(missing)?;
    match types.offset_of(id, path) {
        Ok((_, Offset::ByteOffset(offset))) => Ok(offset),
        _ => Err(missing()),
    }
}

struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BtfError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let there = self.0.get(start..end);
        let there = there.ok_or_else(|| BtfError::new(ErrorKind::EOF, "it ends early"))?;
        buffer.copy_from_slice(there);
        Ok(())
    }
}
