//! One virtual machine: started, listened to, and over when its script is.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::console::Console;
use crate::arch::Arch;
use crate::workspace::Workspace;

/// How long one may run, in seconds: more than all suites take on a busy computer.
const LIMIT: &str = "14400";

/// In MiB. The payload is unpacked into it.
const MEMORY: &str = "2560";

/// For the kernel, beside its console.
const KERNEL_ARGUMENTS: &str = "quiet loglevel=1 panic=-1 mitigations=off";

/// Everything about one machine.
pub struct Machine<'a> {
    /// Of which kind it is.
    pub arch: Arch,
    /// The directory of the emulator.
    pub emulator: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// What it starts with.
    pub initramfs: &'a Path,
    /// What it finds on its disk.
    pub payload: &'a Path,
    /// Where its logs go.
    pub home: &'a Path,
}

impl Machine<'_> {
    /// Runs it to its end. `tell` gets lines for whoever watches. The suites and programs in `expected`
    /// that did not end are marked as failed.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn run(
        &self,
        workspace: &Workspace,
        expected: &[(&str, &str)],
        tell: &dyn Fn(&str),
    ) -> Result<Console> {
        let status = self.home.join("status");
        drop(fs::remove_file(&status));
        let mut child = self
            .command(workspace, &status)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.home.join("emulator.log")).context("creating a log")?)
            .spawn()
            .context("starting the emulator")?;
        let output = child.stdout.take().context("the console is piped")?;
        let log = self.log();
        let mut log = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut console = Console::default();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("reading the console")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(log, "{}", line.trim_end()).context("writing the log of the console")?;
            if let Some(ended) = console.line(&line) {
                tell(&ended);
            }
        }
        let ended = child.wait().context("waiting for the emulator")?;
        let status = fs::read_to_string(&status).unwrap_or_default();
        // Also where the guest panics, the emulator ends well.
        let whole = console.compare(&status, expected);
        if !whole {
            tell(&format!(
                "the machine ended early ({ended}); see {}",
                self.log().display()
            ));
        }
        if !whole
            && console
                .suites
                .values()
                .all(|suite| suite.counts.failed == 0)
        {
            bail!(
                "the machine ended early ({ended}); see {}",
                self.log().display()
            );
        }
        Ok(console)
    }

    /// All that it said.
    pub fn log(&self) -> PathBuf {
        self.home.join("console.log")
    }

    fn command(&self, workspace: &Workspace, status: &Path) -> Command {
        let emulation = self.arch.emulation();
        let usr = self.emulator.join("usr");
        let libraries = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
        let search = [usr.join(&libraries), self.emulator.join(&libraries)];
        let mut command = workspace.command("timeout");
        command
            .args(["--kill-after=10", LIMIT])
            .arg(usr.join("bin").join(emulation.program))
            // Only a directory with a colon in its name can't be joined; then it is not found.
            .env(
                "LD_LIBRARY_PATH",
                std::env::join_paths(search).unwrap_or_default(),
            );
        for firmware in emulation.firmware {
            command.arg("-L").arg(usr.join(firmware));
        }
        command
            .args(emulation.board)
            .args(["-accel", "tcg", "-smp", "1", "-m", MEMORY])
            .args([
                "-nodefaults",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            .arg("-serial")
            .arg(format!("file:{}", status.display()))
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,readonly=on",
                self.payload.display()
            ))
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!("console={} {KERNEL_ARGUMENTS}", emulation.console));
        command
    }
}
