//! Running something as root, with mounts of its own.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// The arguments of `unshare`: what is mounted by the program is not seen outside, and goes with it.
const PRIVATE_MOUNTS: [&str; 4] = ["--mount", "--propagation", "private", "--"];

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs the program named by its further arguments as root in a private mount
/// namespace, with `environment` added to ours. Not being root, it goes through `sudo`.
///
/// # Errors
///
/// When there is no `sudo`, or mount namespaces are refused, as in an unprivileged container.
pub fn as_root(workspace: &Workspace, environment: &[(&str, OsString)]) -> Result<Command> {
    let mut command = if is_root() {
        workspace.command("unshare")
    } else {
        sudo(workspace, environment)?
    };
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command.args(PRIVATE_MOUNTS);
    Ok(command)
}

/// Fails with what to do where [`as_root`]'s commands could not run.
///
/// # Errors
///
/// When root can't be had, or a mount namespace can't be made.
pub fn verify(workspace: &Workspace) -> Result<()> {
    let mut command = as_root(workspace, &[])?;
    command.arg("true");
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "making a private mount namespace as root failed: {} (in a container, it has to be a \
         privileged one)",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

fn sudo(workspace: &Workspace, environment: &[(&str, OsString)]) -> Result<Command> {
    if workspace.find("sudo").is_none() {
        bail!(
            "this needs root for namespaces, cgroups and BPF, and there is no sudo here; run it as root"
        );
    }
    let mut command = workspace.command("sudo");
    command.arg("-E").arg("env");
    // sudo replaces PATH, and may be told to drop variables.
    let path = [("PATH", workspace.search_path())];
    for (key, value) in path.iter().chain(environment) {
        let mut assignment = OsString::from(key);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg("unshare");
    Ok(command)
}
