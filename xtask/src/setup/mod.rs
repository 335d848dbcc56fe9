//! `cargo xtask setup`: what a fresh machine lacks. The other verbs call [`ensure`] for what they need.

mod components;
pub mod nightly;
mod packages;
pub mod python;
mod tools;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use components::Component;
use packages::{Package, Probe};
use python::PythonTool;
use tools::Tool;

/// How much of a failed command's output an error shows.
const TAIL_LINES: usize = 12;

/// Something a verb can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The standard library's source: BPF programs bring their own `core`.
    RustSrc,
    /// The formatter.
    Rustfmt,
    /// The linter.
    Clippy,
    /// Links BPF programs.
    BpfLinker,
    /// Checks the dependencies' licences and advisories.
    CargoDeny,
    /// `iptables`, which the fallback is made of.
    Iptables,
    /// `nft`, with which tests write tables that are nobody's of ours.
    Nft,
    /// `ip`, for namespaces.
    Iproute,
    /// `bpftool`, which tests ask what is loaded.
    Bpftool,
    /// `unshare`, for mounts that nobody else sees.
    Unshare,
    /// pip, which fetches Envoy.
    Pip,
    /// `make`, which builds the API server.
    Make,
    /// nginx, a real peer of sidecars.
    Nginx,
    /// HAProxy, another one.
    Haproxy,
    /// Renders and lints the chart.
    Helm,
    /// Holds manifests against Kubernetes' schemas.
    KubernetesValidate,
    /// Lints the image recipe.
    Hadolint,
    /// `readelf`, which tells what a program needs.
    Binutils,
    /// Compiles and links releases.
    Zigbuild,
    /// Says what a release is made of.
    CargoCyclonedx,
    /// The compiler that fuzz targets are built with.
    Nightly,
    /// Builds fuzz targets.
    CargoFuzz,
}

/// How a need is met.
enum Provider {
    Component(Component),
    Tool(Tool),
    Package(Package),
    Python(PythonTool),
    Nightly,
}

impl Need {
    const ALL: [Self; 22] = [
        Self::RustSrc,
        Self::Rustfmt,
        Self::Clippy,
        Self::BpfLinker,
        Self::CargoDeny,
        Self::Iptables,
        Self::Nft,
        Self::Iproute,
        Self::Bpftool,
        Self::Unshare,
        Self::Pip,
        Self::Make,
        Self::Nginx,
        Self::Haproxy,
        Self::Helm,
        Self::KubernetesValidate,
        Self::Hadolint,
        Self::Binutils,
        Self::Zigbuild,
        Self::CargoCyclonedx,
        Self::Nightly,
        Self::CargoFuzz,
    ];

    fn provider(self) -> Provider {
        let package = |name, probe| Provider::Package(Package { name, probe });
        match self {
            Self::RustSrc => Provider::Component(components::RUST_SRC),
            Self::Rustfmt => Provider::Component(components::RUSTFMT),
            Self::Clippy => Provider::Component(components::CLIPPY),
            Self::BpfLinker => Provider::Tool(tools::BPF_LINKER),
            Self::CargoDeny => Provider::Tool(tools::CARGO_DENY),
            Self::Iptables => package("iptables", Probe::Program("iptables-restore")),
            Self::Nft => package("nftables", Probe::Program("nft")),
            Self::Iproute => package("iproute2", Probe::Program("ip")),
            Self::Bpftool => package("bpftool", Probe::Program("bpftool")),
            Self::Unshare => package("util-linux", Probe::Program("unshare")),
            Self::Pip => package("python3-pip", Probe::PythonModule("pip")),
            Self::Make => package("make", Probe::Program("make")),
            Self::Nginx => package("nginx-light", Probe::Program("nginx")),
            Self::Haproxy => package("haproxy", Probe::Program("haproxy")),
            Self::Helm => Provider::Python(python::HELM),
            Self::KubernetesValidate => Provider::Python(python::KUBERNETES_VALIDATE),
            Self::Hadolint => Provider::Python(python::HADOLINT),
            Self::Binutils => package("binutils", Probe::Program("readelf")),
            Self::Zigbuild => Provider::Python(python::ZIGBUILD),
            Self::CargoCyclonedx => Provider::Tool(tools::CARGO_CYCLONEDX),
            Self::Nightly => Provider::Nightly,
            Self::CargoFuzz => Provider::Tool(tools::CARGO_FUZZ),
        }
    }
}

impl Provider {
    fn name(&self) -> &'static str {
        match self {
            Self::Component(component) => component.name,
            Self::Tool(tool) => tool.name,
            Self::Package(package) => package.name,
            Self::Python(tool) => tool.name,
            Self::Nightly => nightly::NIGHTLY,
        }
    }

    /// Where it is, if it is there.
    fn present(&self, workspace: &Workspace) -> Option<String> {
        match self {
            Self::Component(component) => component.present(workspace),
            Self::Tool(tool) => tool.present(workspace),
            Self::Package(package) => package.present(workspace),
            Self::Python(tool) => tool.present(workspace),
            Self::Nightly => nightly::present(workspace),
        }
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Component(component) => component.install(workspace),
            Self::Tool(tool) => tool.install(workspace),
            Self::Package(package) => package.install(workspace),
            Self::Python(tool) => tool.install(workspace),
            Self::Nightly => nightly::install(workspace),
        }
    }
}

/// What became of a need.
enum Outcome {
    There(String),
    Installed(String),
    Missing(anyhow::Error),
}

/// Installs everything that is missing, with a line for each thing. What could not be installed is
/// in its line, and in the exit status.
pub fn run(workspace: &Workspace) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for need in Need::ALL {
        let provider = need.provider();
        let name = provider.name();
        match provide(workspace, &provider) {
            Outcome::There(place) => println!("{name:<19} there      {place}"),
            Outcome::Installed(place) => println!("{name:<19} installed  {place}"),
            Outcome::Missing(error) => {
                println!("{name:<19} MISSING    {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// Installs what is missing of `needs`; says nothing when nothing is.
///
/// # Errors
///
/// One error that names everything still missing, why, and what to do.
pub fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    let mut missing = Vec::new();
    for need in needs {
        let provider = need.provider();
        let name = provider.name();
        match provide(workspace, &provider) {
            Outcome::There(_) => {}
            Outcome::Installed(place) => eprintln!("Installed {name}: {place}"),
            Outcome::Missing(error) => missing.push(format!("{name}: {error:#}")),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this needs what is not here:\n  {}", missing.join("\n  "))
}

/// Runs `command`, whose output only matters if it fails.
///
/// # Errors
///
/// When it can't be started or fails, with the end of what it printed.
pub fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        // A backtrace of theirs would push out what they say.
        .env("RUST_BACKTRACE", "0")
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    bail!(
        "{} ended with {}:\n{}",
        command.get_program().display(),
        output.status,
        tail(&text)
    )
}

fn provide(workspace: &Workspace, provider: &Provider) -> Outcome {
    if let Some(place) = provider.present(workspace) {
        return Outcome::There(place);
    }
    if let Err(error) = provider.install(workspace) {
        return Outcome::Missing(error);
    }
    match provider.present(workspace) {
        Some(place) => Outcome::Installed(place),
        None => Outcome::Missing(anyhow::anyhow!(
            "installing it went well, but it is still not found in {}, PATH, /usr/sbin or /sbin",
            workspace.tools().join("bin").display()
        )),
    }
}

/// The last lines of `text`, indented.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    let kept: Vec<String> = lines[first..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect();
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_have_names_of_their_own() {
        let mut names: Vec<_> = Need::ALL.map(|need| need.provider().name()).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Need::ALL.len(), "{names:?}");
    }

    #[test]
    fn tail_of_long_output_is_its_end() {
        let lines: Vec<_> = (0..100).map(|line: u32| line.to_string()).collect();
        let kept = tail(&lines.join("\n"));
        assert_eq!(kept.lines().count(), TAIL_LINES);
        assert!(kept.ends_with("    99"), "{kept}");
        assert_eq!(tail("one\n"), "    one");
    }

    #[test]
    fn failed_command_shows_what_it_said() {
        let mut command = Command::new("sh");
        let error = quietly(command.args(["-c", "echo why >&2; exit 4"])).expect_err("it fails");
        let message = format!("{error:#}");
        assert!(
            message.contains("exit status: 4") && message.contains("why"),
            "{message}"
        );
    }
}
