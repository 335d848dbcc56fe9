//! What a command is told about lists and settings.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    config::{Lists, MeshConfig, unknown_list_annotations},
    error::Result,
    policy::Policy,
};

/// The mesh's configuration and what the pod adds to it.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    /// MeshConfig with the mesh's lists, YAML or JSON [default: empty lists]
    #[arg(long, value_name = "FILE", env = "OSM_CONFIG")]
    config: Option<PathBuf>,
    /// Annotation of the pod, which adds to the mesh's lists
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// Whether native IPv6 is intercepted as well
    #[arg(long, value_enum, default_value_t = IpFamilies::Ipv4, env = "OSM_IP_FAMILIES")]
    ip_families: IpFamilies,
}

/// The address families that are intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IpFamilies {
    /// IPv4 only, also from IPv6 sockets; native IPv6 passes
    Ipv4,
    /// IPv4 and IPv6
    Dual,
}

impl PolicyArgs {
    /// Reads the mesh's configuration; the default where there is none.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn mesh(&self) -> Result<MeshConfig> {
        let mesh = match &self.config {
            Some(path) => MeshConfig::read(path)?,
            None => MeshConfig::default(),
        };
        for misspelt in &mesh.misspelt {
            super::out::warn(format_args!("{misspelt}"));
        }
        Ok(mesh)
    }

    /// The policy of the pod in that mesh.
    ///
    /// # Errors
    /// The first annotation that is wrong.
    pub fn policy(&self, mesh: &MeshConfig) -> Result<Policy> {
        for key in unknown_list_annotations(self.annotations.iter().map(|(key, _)| key.as_str())) {
            super::out::warn(format_args!(
                "the annotation {key} is not one that is known"
            ));
        }
        let pod =
            Lists::from_annotations(self.annotations.iter().map(|(key, value)| (key, value)))?;
        Ok(Policy::of_pod(
            mesh,
            &pod,
            self.ip_families == IpFamilies::Dual,
        ))
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.into(), value.into()))
        .ok_or_else(|| "write KEY=VALUE".into())
}
