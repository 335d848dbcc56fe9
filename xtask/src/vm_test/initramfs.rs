//! The small system that a machine starts with.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::fetch::Kernel;
use super::modules;
use crate::workspace::Workspace;

const INIT: &str = include_str!("init.sh");

/// Makes it for a kernel, with a busybox that runs in the machine, by the one of `emulator`, which runs here.
/// Returns where it is.
///
/// # Errors
///
/// When a module can't be read or a file not written.
pub fn make(
    workspace: &Workspace,
    kernel: &Kernel,
    busybox: &Path,
    emulator: &Path,
    home: &Path,
) -> Result<PathBuf> {
    let stage = home.join("stage");
    drop(fs::remove_dir_all(&stage));
    for directory in ["bin", "modules", "proc", "sys", "dev", "root"] {
        let directory = stage.join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let write = |name: &str, content: &[u8]| {
        let path = stage.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    };
    let mut order = String::new();
    for module in modules::in_order(workspace, kernel.modules())? {
        write(&format!("modules/{}.ko", module.name), &module.content)?;
        order.push_str(&module.name);
        order.push('\n');
    }
    write("modules/order", order.as_bytes())?;
    write("init", INIT.as_bytes())?;
    fs::set_permissions(stage.join("init"), Permissions::from_mode(0o755))
        .context("making init executable")?;
    fs::copy(busybox, stage.join("bin/busybox"))
        .with_context(|| format!("copying {}", busybox.display()))?;
    let archive = home.join("initramfs");
    pack(workspace, &emulator.join("bin/busybox"), &stage, &archive)?;
    Ok(archive)
}

fn pack(workspace: &Workspace, busybox: &Path, stage: &Path, archive: &Path) -> Result<()> {
    const SCRIPT: &str = r#"find . | "$0" cpio -o -H newc"#;
    let file = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut pack = workspace.command(busybox);
    let pack = pack.args(["sh", "-c", SCRIPT]).arg(busybox);
    let pack = pack.current_dir(stage).stdout(file).stderr(Stdio::null());
    let status = pack.status().context("starting busybox")?;
    if !status.success() {
        bail!("busybox can't pack {} ({status})", stage.display());
    }
    Ok(())
}
