//! What a node pays: enrolling, changing and withdrawing pods, memory, open connections, and what
//! a pod outside of the mesh notices of it all.

mod agent;
mod bare;
mod enrol;
mod kernel;
mod memory;
mod open;
mod outsider;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use osm_agent::{
    config::{Lists, MeshConfig},
    policy::Policy,
};

use crate::sample::{Better, Sample, Variant};

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Few repetitions and few pods: to see that it runs.
    pub quick: bool,
    /// The agent's binary.
    pub agent: PathBuf,
}

/// Measures, and hands every reading over as soon as it is there.
///
/// Needs root, a private mount namespace, and the `actor` of the tests beside this program or where
/// `OSM_ACTOR` says.
///
/// # Errors
/// Where something can't be set up, or a connection was not intercepted that should have been.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the measurements of a node need root"
    );
    enrol::measure(options, report).context("enrolling")?;
    agent::measure(options, report).context("the node agent")?;
    memory::measure(options, report).context("memory")?;
    outsider::measure(options, report).context("a pod outside of the mesh")?;
    open::measure(options, report).context("open connections")
}

/// A reading.
fn sample(
    measurement: &str,
    setting: String,
    variant: Variant,
    (value, unit): (f64, &str),
    better: Better,
) -> Sample {
    Sample {
        measurement: measurement.into(),
        setting,
        variant,
        unit: unit.into(),
        value,
        better,
    }
}

/// A number as figures are.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are far below the 53 bits of an f64"
)]
fn figure(number: u64) -> f64 {
    number as f64
}

/// A policy from a `spec.traffic` in YAML's flow style.
fn policy(traffic: &str) -> Result<Policy> {
    let text = format!(
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {{traffic: {traffic}}}\n"
    );
    let mesh = MeshConfig::parse(&text, "the benchmark's MeshConfig")?;
    Ok(Policy::of_pod(&mesh, &Lists::default(), false))
}
