//! What the programs in a machine call and are loaded with: this system's, or that of Debian's packages
//! where the machine is not of this system's kind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::fetch;
use crate::arch::Arch;
use crate::workspace::Workspace;

/// What tests call. Which of them a machine lacks, a test says that needs it.
const TOOLS: [&str; 11] = [
    "ip", "nft", "bpftool", "unshare", "nsenter", "setpriv", "ss", "bash", "script", "python3",
    "mount",
];

/// Where all of these are, with [`IPTABLES`] and [`FILES`].
const PACKAGES: [&str; 11] = [
    "iproute2",
    "nftables",
    "bpftool",
    "util-linux",
    "mount",
    "bsdutils",
    "bash",
    "python3",
    "iptables",
    "netbase",
    "busybox-static",
];

/// What the tools of iptables are links to.
const MULTI: [&str; 2] = ["xtables-legacy-multi", "xtables-nft-multi"];

/// The tools of iptables, with all [`ENDINGS`].
const IPTABLES: [&str; 6] = [
    "iptables",
    "ip6tables",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
];

/// What the names of iptables' tools end with.
const ENDINGS: [&str; 3] = ["", "-save", "-restore"];

/// Read by tools and tests.
const FILES: [&str; 2] = ["/etc/protocols", "/etc/services"];

/// Where tools and libraries come from.
pub enum Userland {
    /// This system. With this busybox.
    System(PathBuf),
    /// Packages, unpacked here.
    Unpacked(PathBuf),
}

impl Userland {
    /// The one for a machine. `emulator` is where there is a busybox of this system's kind.
    ///
    /// # Errors
    ///
    /// When packages can't be fetched.
    pub fn of(workspace: &Workspace, arch: Arch, home: &Path, emulator: &Path) -> Result<Self> {
        if arch.is_host() {
            return Ok(Self::System(emulator.join("bin/busybox")));
        }
        let root = fetch::userland(workspace, arch, home, &PACKAGES)?;
        choose_iptables(&root)?;
        Ok(Self::Unpacked(root))
    }

    /// A static busybox that runs in the machine.
    pub fn busybox(&self) -> PathBuf {
        match self {
            Self::System(busybox) => busybox.clone(),
            Self::Unpacked(root) => root.join("bin/busybox"),
        }
    }

    /// The directory that is the machine's root, if there is one.
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::System(_) => None,
            Self::Unpacked(root) => Some(root),
        }
    }

    /// Files of this system that programs take, the programs among them, beside those in [`Self::root`].
    ///
    /// # Errors
    ///
    /// When ldd can't be started.
    pub fn files(&self, workspace: &Workspace, ours: Vec<PathBuf>) -> Result<BTreeSet<PathBuf>> {
        if self.root().is_some() {
            return Ok(ours.into_iter().collect());
        }
        let mut files: BTreeSet<PathBuf> = FILES.iter().map(PathBuf::from).collect();
        for program in tools(workspace).chain(plugins()).chain(ours) {
            files.extend(libraries(workspace, &program)?);
            files.insert(program);
        }
        Ok(files)
    }
}

/// Links the names of iptables without a kind to nft's, as the package does when it is installed.
fn choose_iptables(root: &Path) -> Result<()> {
    for name in ["iptables", "ip6tables"] {
        for ending in ENDINGS {
            let link = root.join(format!("usr/sbin/{name}{ending}"));
            if !link.is_symlink() {
                symlink(format!("{name}-nft{ending}"), &link)
                    .with_context(|| format!("making {}", link.display()))?;
            }
        }
    }
    Ok(())
}

/// What this system has of the tools.
fn tools(workspace: &Workspace) -> impl Iterator<Item = PathBuf> {
    let iptables = IPTABLES
        .iter()
        .flat_map(|name| ENDINGS.map(|ending| format!("{name}{ending}")));
    let names = TOOLS.iter().chain(&MULTI).map(ToString::to_string);
    names
        .chain(iptables)
        .filter_map(|name| workspace.find(name))
}

/// What iptables loads by itself.
fn plugins() -> impl Iterator<Item = PathBuf> {
    let directory = format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The libraries that a program or a library is loaded with.
fn libraries(workspace: &Workspace, program: &Path) -> Result<Vec<PathBuf>> {
    let output = workspace.command("ldd").arg(program).output();
    let output = output.context("starting ldd")?;
    // One that is static has none, and ldd fails.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
