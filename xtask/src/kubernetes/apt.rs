//! Files of Debian's archive, checked by apt, without a trace in the system's own apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::logged;
use crate::workspace::Workspace;

const MIRROR: &str = "http://deb.debian.org/debian";
const SUITE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt with lists, caches and sources of its own.
pub struct Apt<'a> {
    workspace: &'a Workspace,
    home: PathBuf,
    configuration: PathBuf,
}

impl<'a> Apt<'a> {
    /// Writes its configuration to `home` and reads the package lists.
    ///
    /// # Errors
    ///
    /// When there is no apt, no keyring of Debian's archive, or no way to the mirror.
    pub fn new(workspace: &'a Workspace, home: &Path) -> Result<Self> {
        if workspace.find("apt-get").is_none() {
            bail!(
                "there is no apt-get here to get Debian's files with; give servers of your own \
                 with --kube-apiserver PATH --etcd PATH"
            );
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; install debian-archive-keyring");
        }
        let apt = Self {
            workspace,
            home: home.to_owned(),
            configuration: home.join("apt.conf"),
        };
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = home.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        apt.write("sources.list", &sources())?;
        apt.write("status", "")?;
        apt.write("apt.conf", &configuration(home))?;
        apt.run("Reading Debian's package lists", &["update"], home)?;
        Ok(apt)
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

fn sources() -> String {
    ["deb", "deb-src"]
        .map(|kind| format!("{kind} [signed-by={KEYRING}] {MIRROR} {SUITE} main\n"))
        .concat()
}

/// What makes it independent of the system. It is read last, so that the system's settings of a
/// proxy stay and its hooks after an update go.
fn configuration(home: &Path) -> String {
    let home = home.display();
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
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#
    )
}
