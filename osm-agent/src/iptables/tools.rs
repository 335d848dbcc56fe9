//! The system's iptables programs.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{backend::Backend, rules::Family};
use crate::error::{Error, Result};

/// Where the tools are that are installed.
#[derive(Debug)]
pub(super) struct Tools {
    found: Vec<Tool>,
}

/// What reads and writes one backend's rules of one family.
#[derive(Debug)]
pub(super) struct Tool {
    backend: Backend,
    family: Family,
    /// `iptables-nft-restore` and the like.
    pub(super) restore: PathBuf,
    /// `iptables-nft-save` and the like.
    pub(super) save: PathBuf,
}

/// The directories of `PATH`, and where iptables is although `PATH` may not say so.
pub(super) fn directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect()
}

impl Tools {
    /// Looks for them.
    ///
    /// # Errors
    /// Where there is neither backend for IPv4.
    pub(super) fn find(directories: &[PathBuf]) -> Result<Self> {
        let mut found = Vec::new();
        for backend in Backend::ALL {
            for family in Family::ALL {
                let program = |action: &str| {
                    let name = format!("{}-{}-{action}", family.tool(), backend.name());
                    let paths = directories.iter().map(|directory| directory.join(&name));
                    paths.into_iter().find(|path| is_program(path))
                };
                if let (Some(restore), Some(save)) = (program("restore"), program("save")) {
                    found.push(Tool {
                        backend,
                        family,
                        restore,
                        save,
                    });
                }
            }
        }
        let tools = Self { found };
        let has_any = Backend::ALL
            .iter()
            .any(|backend| tools.get(*backend, Family::V4).is_some());
        if has_any {
            return Ok(tools);
        }
        let searched: Vec<_> = directories
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Err(missing(
            "iptables-nft-restore and -save, or iptables-legacy-restore and -save",
            &format!("none of them is in {}", searched.join(":")),
        ))
    }

    pub(super) fn get(&self, backend: Backend, family: Family) -> Option<&Tool> {
        self.found
            .iter()
            .find(|tool| (tool.backend, tool.family) == (backend, family))
    }

    /// The tool, or an error that says how to get it.
    ///
    /// # Errors
    /// Where it is not installed.
    pub(super) fn require(&self, backend: Backend, family: Family) -> Result<&Tool> {
        self.get(backend, family).ok_or_else(|| {
            let name = format!("{}-{}-restore and -save", family.tool(), backend.name());
            missing(&name, "not installed")
        })
    }
}

fn missing(what: &str, problem: &str) -> Error {
    Error::System {
        tried: format!("find {what}"),
        source: problem.into(),
        advice: "; install the package iptables (of Alpine also ip6tables or iptables-legacy, \
                 of Fedora and its like iptables-nft)"
            .into(),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}
