//! `cargo xtask dist`: what is released. The same commit and tools make the same archives.

mod archive;
mod bill;
mod build;
mod tree;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::arch::Arch;
use crate::build as dev;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// What it takes beside building the agent.
const NEEDS: [Need; 3] = [Need::Zigbuild, Need::CargoCyclonedx, Need::Binutils];

/// The release's name.
const NAME: &str = "osm-interceptor";

/// Checksums of the archives, as sha256sum(1) checks them.
const CHECKSUMS: &str = "SHA256SUMS";

/// Says from when all files are, in seconds since 1970.
const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Arguments of `dist`.
#[derive(clap::Args)]
pub struct Args {
    /// For which machines [default: all]
    #[arg(long, value_enum, value_name = "ARCH")]
    target: Vec<Arch>,
}

/// Builds, packs, and tries what was packed.
///
/// # Errors
///
/// When something needed can't be had, a build fails, or an archive is not what it should be.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(workspace, &[&dev::NEEDS[..], &NEEDS].concat())?;
    let home = workspace.target().join("dist");
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let epoch = epoch(workspace)?;
    // It prints its own completions and pages, which are the same for every machine.
    let own = dev::agent(workspace)?;
    let archs = if args.target.is_empty() {
        Arch::value_variants()
    } else {
        &args.target
    };
    let mut archives = Vec::new();
    for arch in archs {
        let binary = build::agent(workspace, *arch, &epoch)?;
        let bills = bill::write(workspace, *arch, &epoch, &home.join("bills"))?;
        let tree = home.join(release_name(*arch));
        tree::make(workspace, &tree, &binary, &own, &bills)?;
        archives.push(archive::pack(&tree, &epoch)?);
    }
    sum(&home)?;
    for path in &archives {
        verify::archive(workspace, path)?;
        println!("{}", path.display());
    }
    println!("{}", home.join(CHECKSUMS).display());
    Ok(ExitCode::SUCCESS)
}

/// The name of an archive without its ending, and of the directory in it.
fn release_name(arch: Arch) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{NAME}-{version}-linux-{}", arch.platform())
}

/// When the commit was made, unless something else is said.
fn epoch(workspace: &Workspace) -> Result<String> {
    if let Ok(given) = std::env::var(EPOCH_VARIABLE) {
        return Ok(given);
    }
    let mut git = workspace.command("git");
    git.args(["log", "-1", "--format=%ct"]);
    let output = git.output().context("starting git")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || said.is_empty() {
        bail!(
            "git does not say when the commit was made; set {EPOCH_VARIABLE} to the seconds since \
             1970 that all files are to be from"
        );
    }
    Ok(said)
}

/// Writes the checksums of all archives of this version, those of earlier runs too.
fn sum(home: &Path) -> Result<()> {
    let mut names: Vec<String> = Arch::value_variants()
        .iter()
        .map(|arch| archive::file_name(&release_name(*arch)))
        .filter(|name| home.join(name).is_file())
        .collect();
    names.sort();
    let mut sums = std::process::Command::new("sha256sum");
    sums.args(&names).current_dir(home);
    let output = sums.output().context("starting sha256sum")?;
    if !output.status.success() {
        bail!(
            "sha256sum: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let path = home.join(CHECKSUMS);
    fs::write(&path, output.stdout).with_context(|| format!("writing {}", path.display()))
}

/// An empty directory at this place.
fn emptied(directory: &Path) -> Result<PathBuf> {
    drop(fs::remove_dir_all(directory));
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_recipe_unpacks_the_archive_that_is_made() {
        let workspace = Workspace::locate().expect("this crate is in the workspace");
        let recipe = fs::read_to_string(workspace.root().join("deploy/Dockerfile"));
        let recipe = recipe.expect("the recipe");
        for arch in Arch::value_variants() {
            let name = archive::file_name(&release_name(*arch))
                .replace(env!("CARGO_PKG_VERSION"), "${VERSION}")
                .replace(arch.platform(), "${TARGETARCH}");
            assert!(
                recipe.contains(&format!("ADD {name} /\n")),
                "{name} in {recipe}"
            );
        }
        let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
        assert!(recipe.contains(&version), "{version} in {recipe}");
    }
}
