//! The emulator, tools and the kernels: Debian's packages, unpacked below the target directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::index::Kernels;
use crate::apt::{
    Apt, BOOKWORM, BOOKWORM_BACKPORTS, BOOKWORM_SECURITY, BULLSEYE_SECURITY, TRIXIE_BACKPORTS,
};
use crate::arch::Arch;
use crate::progress::Progress;
use crate::setup;
use crate::workspace::Workspace;

/// Of bookworm itself there is a version 7.2 of the emulator, under which half of all boots of Linux 6.12 hang.
const BOOKWORMS: [crate::apt::Source; 3] = [BOOKWORM, BOOKWORM_SECURITY, BOOKWORM_BACKPORTS];

/// Where kernels are, from the oldest on.
const KERNELS: [crate::apt::Source; 4] = [
    BULLSEYE_SECURITY,
    BOOKWORM,
    BOOKWORM_BACKPORTS,
    TRIXIE_BACKPORTS,
];

/// An unpacked kernel.
pub struct Kernel {
    /// Its series, such as `6.18`.
    pub series: String,
    /// Where it is unpacked.
    home: PathBuf,
}

impl Kernel {
    /// The kernel itself, and the name of its version. From 7.2 on it is among its modules.
    ///
    /// # Errors
    ///
    /// When the packages held none.
    pub fn image(&self) -> Result<(PathBuf, String)> {
        let listed = |below| entries(&self.home.join(below)).unwrap_or_default();
        let in_boot = listed("boot").into_iter().find_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
            Some((path.clone(), version.to_owned()))
        });
        let with_modules = || {
            listed("usr/lib/modules").into_iter().find_map(|directory| {
                let image = directory.join("vmlinuz");
                let version = directory.file_name()?.to_str()?.to_owned();
                image.is_file().then_some((image, version))
            })
        };
        let found = in_boot.or_else(with_modules);
        found.with_context(|| format!("no kernel in {}", self.home.display()))
    }

    /// Where its modules are.
    pub fn modules(&self) -> &Path {
        &self.home
    }
}

/// The directory of the emulator, and of busybox, fetched the first time.
///
/// # Errors
///
/// When it can't be fetched.
pub fn emulator(workspace: &Workspace, arch: Arch, home: &Path) -> Result<PathBuf> {
    let packages = [arch.emulation().package, "busybox-static"];
    let (here, newest) = (Arch::host()?, BOOKWORM_BACKPORTS);
    whole(workspace, here, &home.join("emulator"), &packages, newest)
}

/// The directory of packages for a kind of machine, with all that they depend on, fetched the first time.
///
/// # Errors
///
/// When they can't be fetched.
pub fn userland(
    workspace: &Workspace,
    arch: Arch,
    home: &Path,
    packages: &[&str],
) -> Result<PathBuf> {
    whole(workspace, arch, &home.join("userland"), packages, BOOKWORM)
}

/// Packages with what they depend on, of one suite if it has them.
fn whole(
    workspace: &Workspace,
    arch: Arch,
    place: &Path,
    packages: &[&str],
    suite: crate::apt::Source,
) -> Result<PathBuf> {
    let place = place.to_owned();
    if place.is_dir() {
        return Ok(place);
    }
    let lists = place.with_extension("apt");
    let apt = Apt::new(workspace, &lists, arch, &BOOKWORMS)?;
    let archives = apt.with_dependencies(packages, suite)?;
    unpack(workspace, &archives, &place)?;
    fs::remove_dir_all(&lists).with_context(|| format!("removing {}", lists.display()))?;
    Ok(place)
}

/// The kernels of these series, fetched the first time; in place of one that can't be had, why.
///
/// # Errors
///
/// When the lists of packages can't be read.
pub fn kernels(
    workspace: &Workspace,
    arch: Arch,
    home: &Path,
    series: &[String],
) -> Result<Vec<Result<Kernel>>> {
    let place = |series: &String| home.join("kernels").join(series);
    if series.iter().all(|series| place(series).is_dir()) {
        let known = series.iter().map(|series| kernel(series, place(series)));
        return Ok(known.map(Ok).collect());
    }
    let lists = home.join("apt-kernels");
    let apt = Apt::new(workspace, &lists, arch, &KERNELS)?;
    let index = Kernels::read(&apt.available()?, arch);
    let fetched = series.iter().map(|series| {
        let place = place(series);
        if !place.is_dir() {
            let package = index
                .newest(series)
                .with_context(|| format!("Debian has no kernel {series} (any more)"))?;
            let downloads = lists.join(series);
            fs::create_dir_all(&downloads)
                .with_context(|| format!("creating {}", downloads.display()))?;
            apt.packages(&package.parts(), &downloads)?;
            unpack(workspace, &downloads, &place)?;
        }
        Ok(kernel(series, place))
    });
    let fetched = fetched.collect();
    fs::remove_dir_all(&lists).with_context(|| format!("removing {}", lists.display()))?;
    Ok(fetched)
}

fn kernel(series: &str, home: PathBuf) -> Kernel {
    Kernel {
        series: series.to_owned(),
        home,
    }
}

/// Unpacks all packages of a directory into a new one, which is there as a whole or not at all.
fn unpack(workspace: &Workspace, archives: &Path, place: &Path) -> Result<()> {
    let _progress = Progress::start(&format!("Unpacking to {}", place.display()));
    let staged = place.with_extension("new");
    // Of a run that was interrupted.
    drop(fs::remove_dir_all(&staged));
    fs::create_dir_all(&staged).with_context(|| format!("creating {}", staged.display()))?;
    for archive in entries(archives)? {
        if archive.extension().is_none_or(|it| it != "deb") {
            continue;
        }
        let mut command = workspace.command("dpkg-deb");
        command.arg("--extract").arg(&archive).arg(&staged);
        setup::quietly(&mut command).with_context(|| format!("unpacking {}", archive.display()))?;
    }
    fs::rename(&staged, place).with_context(|| format!("making {}", place.display()))
}

/// What is in a directory.
///
/// # Errors
///
/// When it can't be read.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("reading {}", directory.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
