//! The network configuration, which the runtime writes to standard input.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use super::failure::{Code, Failure};
use crate::protocol::cni::DEFAULT_SOCKET;

/// More than any result of other plugins, in bytes.
const MAX_INPUT: u64 = 4 << 20;

/// Longer than the agent's own limit, so that its words arrive.
const DEFAULT_TIMEOUT: u64 = 35;

/// What concerns this plugin. The rest is others'.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Configuration {
    pub cni_version: Option<String>,
    name: Option<String>,
    agent_socket: Option<PathBuf>,
    timeout_seconds: Option<u64>,
    /// What the plugins before this one did.
    pub prev_result: Option<Value>,
}

/// Reads JSON, whatever it says.
pub(super) fn read(input: impl Read) -> Result<Value, Failure> {
    let mut text = Vec::new();
    input
        .take(MAX_INPUT)
        .read_to_end(&mut text)
        .map_err(|error| {
            let message = "cannot read the network configuration from standard input";
            Failure::new(Code::Io, message, error.to_string())
        })?;
    serde_json::from_slice(&text).map_err(|error| {
        let message = "the network configuration on standard input is no JSON";
        Failure::new(Code::Undecodable, message, error.to_string())
    })
}

/// The version that a configuration says it is of, whatever else is wrong with it.
pub(super) fn version(value: &Value) -> Option<&str> {
    value.get("cniVersion").and_then(Value::as_str)
}

impl Configuration {
    pub fn new(value: Value) -> Result<Self, Failure> {
        let configuration: Self = serde_json::from_value(value)
            .map_err(|error| wrong("a key has a value of the wrong kind", &error.to_string()))?;
        if configuration.name.as_deref().is_none_or(str::is_empty) {
            return Err(wrong("it has no name", "add the network's \"name\""));
        }
        if !configuration.socket().is_absolute() {
            let problem = format!("agentSocket is {}", configuration.socket().display());
            let advice = format!("give an absolute path, such as {DEFAULT_SOCKET}");
            return Err(wrong(&problem, &advice));
        }
        let seconds = configuration.timeout().as_secs();
        if !(1..=600).contains(&seconds) {
            let problem = format!("timeoutSeconds is {seconds}");
            return Err(wrong(&problem, "give seconds from 1 to 600"));
        }
        Ok(configuration)
    }

    pub fn socket(&self) -> &Path {
        match &self.agent_socket {
            Some(socket) => socket,
            None => Path::new(DEFAULT_SOCKET),
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT))
    }
}

fn wrong(problem: &str, details: &str) -> Failure {
    let message = format!("the network configuration is wrong: {problem}");
    Failure::new(Code::InvalidConfiguration, message, details)
}
