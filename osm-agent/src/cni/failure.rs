//! What the runtime is told where something fails.

use serde::Serialize;

/// An error as the CNI specification has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// In short, with what was wrong.
    pub message: String,
    /// Why, and what to do.
    pub details: String,
}

/// Kinds of errors. Those below 100 are the specification's, section 5 "Error".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The network configuration is of a version that this plugin or this command does not know.
    IncompatibleVersion = 1,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Standard input can't be read.
    Io = 5,
    /// Standard input is no JSON.
    Undecodable = 6,
    /// The network configuration is wrong.
    InvalidConfiguration = 7,
    /// It may work later: the runtime tries again.
    TryAgainLater = 11,
    /// The plugin can't serve `ADD` now.
    NotAvailable = 50,
    /// The agent refuses to let the pod start.
    Refused = 100,
    /// The pod runs and is not intercepted.
    NotIntercepted = 101,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "cniVersion")]
    version: &'a str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    /// As the runtime reads it, in JSON.
    pub(super) fn shown(&self, version: &str) -> String {
        let shown = Shown {
            version,
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&shown).unwrap_or_default()
    }
}
