//! Versions of the CNI specification.

use serde::Serialize;

use super::{
    failure::{Code, Failure},
    input::Command,
};

/// Those that this plugin speaks, oldest first.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a configuration without a version is of, by the specification.
const UNSAID: &str = "0.1.0";

/// The newest one.
pub(super) const NEWEST: &str = "1.1.0";

#[derive(Serialize)]
struct Versions<'a> {
    #[serde(rename = "cniVersion")]
    version: &'a str,
    #[serde(rename = "supportedVersions")]
    supported: [&'a str; 5],
}

/// The result of `VERSION`.
pub(super) fn shown(asked: Option<&str>) -> String {
    let versions = Versions {
        version: asked.unwrap_or(NEWEST),
        supported: SUPPORTED,
    };
    serde_json::to_string(&versions).unwrap_or_default()
}

/// Whether the configuration is of a version that has this command.
pub(super) fn check(version: Option<&str>, command: Command) -> Result<(), Failure> {
    let version = version.unwrap_or(UNSAID);
    let since = match command {
        Command::Add | Command::Del | Command::Version => "0.3.0",
        Command::Check => "0.4.0",
        Command::Status | Command::Gc => "1.1.0",
    };
    let rank = |wanted: &str| SUPPORTED.iter().position(|it| *it == wanted);
    if rank(version).is_some_and(|version| Some(version) >= rank(since)) {
        return Ok(());
    }
    Err(Failure::new(
        Code::IncompatibleVersion,
        format!("incompatible CNI version {version:?} of the network configuration"),
        format!(
            "{} takes one of {}",
            command.name(),
            SUPPORTED[rank(since).unwrap_or(0)..].join(", ")
        ),
    ))
}
