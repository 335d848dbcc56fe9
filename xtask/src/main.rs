//! Every developer command of this workspace. `cargo xtask help` lists them.

mod apt;
mod arch;
mod bench;
mod build;
mod cargo;
mod check;
mod conformance;
mod cross;
mod demo;
mod deploy;
mod dist;
mod docs;
mod envoy;
mod fuzz;
mod kubernetes;
mod logged;
mod long;
mod privilege;
mod progress;
mod setup;
mod shortcut;
mod signals;
mod soak;
mod test;
mod vm_test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The developer commands. Each sets up what it needs of `setup` by itself.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install everything a fresh machine lacks; doing it twice changes nothing.
    Setup,
    /// Build the agent, with the BPF programs inside.
    Build(build::Args),
    /// Format, lints, documentation, dependencies, file lengths, manifests.
    Check,
    /// Write the Kubernetes manifests anew, from the chart.
    RenderManifests,
    /// Build what is released: static binaries, archives, checksums, bills of materials.
    Dist(dist::Args),
    /// Write the parts of docs/configuration.md that are made from the types.
    Docs,
    /// Run all tests; those on the kernel need root.
    Test(test::Args),
    /// Hold both datapaths and the decision function against each other; needs root.
    Conformance(conformance::Args),
    /// Random traffic over the loopback shortcut, checked byte by byte; needs root.
    Shortcut(shortcut::Args),
    /// Run the tests on Debian's kernels, in virtual machines.
    VmTest(vm_test::Args),
    /// Feed what strangers can write to the agent with inputs made at random.
    Fuzz(fuzz::Args),
    /// Everything that may happen on a node, at random and under load, each connection checked; needs root.
    Soak(soak::Args),
    /// Measure what interception costs, against iptables and against none; needs root.
    Bench(bench::Args),
    /// Run the agent against a real Kubernetes API server, built the first time; needs root.
    E2eKubernetes(kubernetes::Args),
    /// Show interception at work, between namespaces made for it; needs root.
    Demo(demo::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match &cli.verb {
        Verb::Setup => Ok(setup::run(&workspace)),
        Verb::Build(args) => build::run(&workspace, args),
        Verb::Check => check::run(&workspace),
        Verb::RenderManifests => deploy::run(&workspace),
        Verb::Dist(args) => dist::run(&workspace, args),
        Verb::Docs => docs::run(&workspace),
        Verb::Test(args) => test::run(&workspace, args),
        Verb::Conformance(args) => conformance::run(&workspace, args),
        Verb::Shortcut(args) => shortcut::run(&workspace, args),
        Verb::VmTest(args) => vm_test::run(&workspace, args),
        Verb::Fuzz(args) => fuzz::run(&workspace, args),
        Verb::Soak(args) => soak::run(&workspace, args),
        Verb::Bench(args) => bench::run(&workspace, args),
        Verb::E2eKubernetes(args) => kubernetes::run(&workspace, args),
        Verb::Demo(args) => demo::run(&workspace, args),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn command_line_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn commands_that_the_documentation_names_exist() {
        let workspace = super::Workspace::locate().expect("this crate is in the workspace");
        let mut pages = ["README.md", "deploy/README.md"]
            .map(|page| workspace.root().join(page))
            .to_vec();
        let docs = fs::read_dir(workspace.root().join("docs")).expect("the pages");
        pages.extend(docs.map(|entry| entry.expect("a page").path()));
        let mut count = 0;
        for page in pages.iter().filter(|page| page.is_file()) {
            let text = fs::read_to_string(page).unwrap_or_default();
            for line in text.lines().filter(|line| line.starts_with("cargo xtask ")) {
                let command = line.split('#').next().unwrap_or_default();
                if let Err(error) = super::Cli::try_parse_from(command.split_whitespace().skip(1)) {
                    panic!("{}: {line}: {error}", page.display());
                }
                count += 1;
            }
        }
        assert!(count > 5, "only {count} commands are found");
    }
}
