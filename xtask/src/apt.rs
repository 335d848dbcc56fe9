//! Files of Debian's archive, checked by apt, without a trace in the system's own apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::logged;
use crate::workspace::Workspace;

const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What the system has installed.
const INSTALLED: &str = "/var/lib/dpkg/status";

/// A part of Debian's archive.
#[derive(Clone, Copy)]
pub struct Source {
    mirror: &'static str,
    suite: &'static str,
    /// Whether the sources of its packages are wanted too.
    with_sources: bool,
}

/// The release that developers' machines and CI are on.
pub const BOOKWORM: Source = Source::of(MIRROR, "bookworm");
/// With what it is built from.
pub const BOOKWORM_SOURCES: Source = Source {
    with_sources: true,
    ..BOOKWORM
};
/// Newer versions for it.
pub const BOOKWORM_BACKPORTS: Source = Source::of(MIRROR, "bookworm-backports");
/// What was mended in it.
pub const BOOKWORM_SECURITY: Source = Source::of(SECURITY, "bookworm-security");
/// Newer versions for the release after it.
pub const TRIXIE_BACKPORTS: Source = Source::of(MIRROR, "trixie-backports");
/// What was mended in the release before it.
pub const BULLSEYE_SECURITY: Source = Source::of(SECURITY, "bullseye-security");

impl Source {
    const fn of(mirror: &'static str, suite: &'static str) -> Self {
        Self {
            mirror,
            suite,
            with_sources: false,
        }
    }

    fn lines(self) -> String {
        let Self { mirror, suite, .. } = self;
        let kinds: &[&str] = if self.with_sources {
            &["deb", "deb-src"]
        } else {
            &["deb"]
        };
        kinds
            .iter()
            .map(|kind| format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main"))
            .fold(String::new(), |lines, line| lines + &line + "\n")
    }
}

/// An apt with lists, caches and sources of its own.
pub struct Apt<'a> {
    workspace: &'a Workspace,
    arch: Arch,
    home: PathBuf,
    configuration: PathBuf,
}

impl<'a> Apt<'a> {
    /// Writes its configuration to `home` and reads the package lists for a kind of machine.
    ///
    /// # Errors
    ///
    /// When there is no apt, no keyring of Debian's archive, or no way to the mirror.
    pub fn new(
        workspace: &'a Workspace,
        home: &Path,
        arch: Arch,
        sources: &[Source],
    ) -> Result<Self> {
        if workspace.find("apt-get").is_none() {
            bail!("there is no apt-get here to get Debian's files with");
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; install debian-archive-keyring");
        }
        let apt = Self {
            workspace,
            arch,
            home: home.to_owned(),
            configuration: home.join("apt.conf"),
        };
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = home.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        let lines: String = sources.iter().map(|source| source.lines()).collect();
        apt.write("sources.list", &lines)?;
        apt.write("status", "")?;
        apt.write("apt.conf", &configuration(home, arch))?;
        apt.run("Reading Debian's package lists", &["update"], home)?;
        Ok(apt)
    }

    /// All that is known of the packages that can be had, as apt-cache(8) dumps it.
    ///
    /// # Errors
    ///
    /// When apt-cache fails.
    pub fn available(&self) -> Result<String> {
        let output = self
            .workspace
            .command("apt-cache")
            .arg("--config-file")
            .arg(&self.configuration)
            .arg("dumpavail")
            .output()
            .context("starting apt-cache")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("apt-cache dumpavail failed: {}", said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Downloads packages of a suite with all that this system lacks for them, or all that there is where
    /// they are for other machines, and returns the directory where they are. Nothing is installed.
    ///
    /// # Errors
    ///
    /// When apt-get fails, as where this system is another release than the sources.
    pub fn with_dependencies(&self, names: &[&str], suite: Source) -> Result<PathBuf> {
        if self.arch.is_host() {
            let status = self.home.join("status");
            fs::copy(INSTALLED, &status).with_context(|| format!("copying {INSTALLED}"))?;
        }
        let what = format!("Fetching {}", names.join(", "));
        let options = [
            "install",
            "--download-only",
            "--no-install-recommends",
            "--yes",
            "--target-release",
            suite.suite,
        ];
        self.run(&what, &[&options[..], names].concat(), &self.home)?;
        Ok(self.home.join("cache/archives"))
    }

    /// Downloads packages into `directory`.
    ///
    /// # Errors
    ///
    /// When apt-get fails.
    pub fn packages(&self, names: &[&str], directory: &Path) -> Result<()> {
        let what = format!("Fetching {}", names.join(", "));
        self.run(&what, &[&["download"], names].concat(), directory)
    }

    /// Downloads the source of a package into `directory`, without unpacking it.
    ///
    /// # Errors
    ///
    /// When apt-get fails.
    pub fn source(&self, name: &str, directory: &Path) -> Result<()> {
        let what = format!("Fetching the source of {name}");
        self.run(&what, &["source", "--download-only", name], directory)
    }

    fn run(&self, what: &str, arguments: &[&str], directory: &Path) -> Result<()> {
        let mut command: Command = self.workspace.command("apt-get");
        command
            .arg("--quiet")
            .arg("--config-file")
            .arg(&self.configuration)
            .args(arguments)
            .current_dir(directory);
        logged::run(what, &mut command, &self.home.join("log"))
            .with_context(|| format!("{MIRROR} has to be within reach, directly or by http_proxy"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// What makes it independent of the system. It is read last, so that the system's settings of a
/// proxy stay and its hooks after an update go.
fn configuration(home: &Path, arch: Arch) -> String {
    let home = home.display();
    // This system's own is left as it is: packages of others may be installed here.
    let architecture = if arch.is_host() {
        String::new()
    } else {
        let platform = arch.platform();
        format!(
            r#"APT::Architecture "{platform}";
#clear APT::Architectures;
APT::Architectures {{ "{platform}"; }};
"#
        )
    };
    format!(
        r#"Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{home}/lists";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
APT::Sandbox::User "root";
APT::Default-Release "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::GzipIndexes "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
{architecture}"#
    )
}
