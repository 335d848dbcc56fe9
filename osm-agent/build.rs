//! Builds the BPF programs and puts them where `ebpf::objects` embeds them from.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

/// The toolchain of `rust-toolchain.toml`, which this very build runs on.
const TOOLCHAIN: &str = "1.95.0";

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("not run by cargo")?);
    let workspace = manifest
        .parent()
        .context("osm-agent is not in a workspace")?;
    for source in ["osm-ebpf-common/src", "rust-toolchain.toml"] {
        println!(
            "cargo:rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    println!("cargo:rerun-if-changed=build.rs");

    find_linker(workspace)?;
    // SAFETY: nothing else runs in this process yet.
    unsafe {
        // The BPF target is built with unstable options of the stable compiler.
        env::set_var("RUSTC_BOOTSTRAP", "1");
    }
    let root_dir = workspace.join("osm-ebpf");
    let features: &[&str] = if env::var_os("CARGO_FEATURE_NEXT_LAYOUT").is_some() {
        &["next-layout"]
    } else {
        &[]
    };
    let package = Package {
        features,
        name: "osm-ebpf",
        root_dir: root_dir
            .to_str()
            .context("the workspace's path is not UTF-8")?,
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(TOOLCHAIN))
        .context("building the BPF programs failed; `cargo xtask setup` installs what it needs")
}

/// Puts the workspace's own bpf-linker first in `PATH`, and insists on there being one.
fn find_linker(workspace: &Path) -> Result<()> {
    println!("cargo:rerun-if-env-changed=PATH");
    let mut paths: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    paths.insert(0, target.join("tools/bin"));
    if !paths.iter().any(|path| path.join("bpf-linker").is_file()) {
        bail!(
            "bpf-linker is neither in target/tools/bin nor in PATH: run `cargo xtask setup` once"
        );
    }
    let joined = env::join_paths(paths).context("PATH holds a directory with a colon")?;
    // SAFETY: nothing else runs in this process yet.
    unsafe { env::set_var("PATH", joined) };
    Ok(())
}
