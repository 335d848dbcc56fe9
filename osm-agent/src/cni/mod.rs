//! The CNI plugin: the last of a network's chain, which holds a pod's start until the node agent
//! has it intercepted.
//!
//! It speaks the [specification](https://www.cni.dev/docs/spec/) from 0.3.0 to 1.1.0, and knows
//! nothing by itself: it asks the agent ([`crate::protocol::cni`]).
//!
//! | command | the agent says | the runtime gets |
//! |---|---|---|
//! | `ADD` | intercepted, or outside of the mesh | the result of the plugins before |
//! | | refused | code 100: the pod does not start |
//! | | later, or nothing | code 11: the runtime tries again |
//! | `DEL`, `GC` | whatever, or nothing | success: the agent finds by itself what is gone |
//! | `CHECK` | intercepted, or outside of the mesh | success |
//! | | refused | code 101 |
//! | | later, or nothing | code 11 |
//! | `STATUS` | nothing | code 50 |
//!
//! A container that is no Kubernetes pod (no `K8S_POD_NAME` in `CNI_ARGS`) is outside of the mesh
//! unless the agent says otherwise: without an agent it starts.

mod configuration;
mod failure;
mod input;
mod version;

use std::io::Read;

use serde_json::Value;

use crate::protocol::{
    NoAnswer, VERSION,
    cni::{self as protocol, Answer, Verb},
};
use configuration::Configuration;
use input::{Attachment, Command};

pub use failure::{Code, Failure};
pub use input::Environment;
pub use version::SUPPORTED;

/// How the plugin ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the runtime reads, if anything: a result or an error in JSON.
    pub output: Option<String>,
    /// What failed; the exit status is not 0 then.
    pub failure: Option<Failure>,
}

/// Does what the runtime asks for.
pub fn run(environment: Environment<'_>, input: impl Read) -> Ended {
    let mut version = None;
    let result = dispatch(environment, input, &mut version);
    match result {
        Ok(output) => Ended {
            output,
            failure: None,
        },
        Err(failure) => Ended {
            output: Some(failure.shown(version.as_deref().unwrap_or(version::NEWEST))),
            failure: Some(failure),
        },
    }
}

/// Notes the version of the configuration, which errors are shown in too.
fn dispatch(
    environment: Environment<'_>,
    input: impl Read,
    version: &mut Option<String>,
) -> Result<Option<String>, Failure> {
    let command = Command::read(environment)?;
    let value = match configuration::read(input) {
        // Nothing about it depends on what is read.
        Err(_) if command == Command::Version => Value::Null,
        value => value?,
    };
    *version = configuration::version(&value).map(Into::into);
    if command == Command::Version {
        return Ok(Some(version::shown(version.as_deref())));
    }
    version::check(version.as_deref(), command)?;
    let configuration = Configuration::new(value)?;
    match command {
        Command::Add => {
            let attachment = Attachment::read(environment, command)?;
            add(configuration, attachment).map(Some)
        }
        Command::Check => {
            check(&configuration, Attachment::read(environment, command)?)?;
            Ok(None)
        }
        Command::Del => {
            let attachment = Attachment::read(environment, command)?;
            let _ = ask(&configuration, Verb::Del, attachment);
            Ok(None)
        }
        Command::Status => {
            status(&configuration)?;
            Ok(None)
        }
        // The agent compares with the kernel by itself, all the time.
        Command::Gc | Command::Version => Ok(None),
    }
}

fn add(mut configuration: Configuration, attachment: Attachment) -> Result<String, Failure> {
    let Some(result) = configuration.prev_result.take() else {
        return Err(Failure::new(
            Code::InvalidConfiguration,
            "the network configuration has no prevResult",
            "this plugin makes no network: put it last in the \"plugins\" of a .conflist",
        ));
    };
    match ask(&configuration, Verb::Add, attachment)? {
        Answer::Intercepted(_) | Answer::Outside(_) => {
            Ok(passed_on(result, configuration.cni_version))
        }
        Answer::Refused(why) => {
            let message = "the node agent does not let the pod start";
            Err(Failure::new(Code::Refused, message, why))
        }
        Answer::Retry(why) => Err(later(why)),
    }
}

fn check(configuration: &Configuration, attachment: Attachment) -> Result<(), Failure> {
    match ask(configuration, Verb::Check, attachment)? {
        Answer::Intercepted(_) | Answer::Outside(_) => Ok(()),
        Answer::Refused(why) => {
            let message = "the pod is not intercepted";
            Err(Failure::new(Code::NotIntercepted, message, why))
        }
        Answer::Retry(why) => Err(later(why)),
    }
}

fn status(configuration: &Configuration) -> Result<(), Failure> {
    match protocol::is_ready(configuration.socket(), configuration.timeout()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = "the node agent is not ready";
            let details = "see its log, or wait until it has started";
            Err(Failure::new(Code::NotAvailable, message, details))
        }
        Err(error) => Err(no_agent(configuration, Code::NotAvailable, &error)),
    }
}

fn ask(
    configuration: &Configuration,
    command: Verb,
    attachment: Attachment,
) -> Result<Answer, Failure> {
    let is_pod = attachment.pod.is_some();
    let request = protocol::Request {
        version: VERSION,
        command,
        container: attachment.container,
        netns: attachment.netns,
        interface: attachment.interface,
        pod: attachment.pod,
    };
    match protocol::ask(configuration.socket(), configuration.timeout(), &request) {
        Ok(answer) => Ok(answer),
        Err(error) if is_pod => Err(no_agent(configuration, Code::TryAgainLater, &error)),
        Err(_) => Ok(Answer::Outside(
            "it is no pod, and there is no agent".into(),
        )),
    }
}

fn later(why: String) -> Failure {
    let message = "the node agent can't have the pod intercepted yet";
    Failure::new(Code::TryAgainLater, message, why)
}

fn no_agent(configuration: &Configuration, code: Code, error: &NoAnswer) -> Failure {
    let socket = configuration.socket().display();
    Failure::new(
        code,
        format!("no node agent at {socket}"),
        format!("{error}; see to it that osm-agent runs on this node with that socket"),
    )
}

/// The result of the plugins before, as it is. By the specification it says its version, which
/// old runtimes leave to the configuration.
fn passed_on(mut result: Value, version: Option<String>) -> String {
    if let (Some(members), Some(version)) = (result.as_object_mut(), version) {
        members
            .entry("cniVersion")
            .or_insert_with(|| version.into());
    }
    result.to_string()
}
