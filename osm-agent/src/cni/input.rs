//! What the runtime says by environment variables.

use std::{ffi::OsString, path::PathBuf};

use super::failure::{Code, Failure};
use crate::protocol::cni::PodIdentity;

/// Looks up a variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What can be asked of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Status,
        Self::Gc,
        Self::Version,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    pub fn read(environment: Environment<'_>) -> Result<Self, Failure> {
        let name = required(environment, "CNI_COMMAND")?;
        let found = Self::ALL.into_iter().find(|command| command.name() == name);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            wrong(
                "CNI_COMMAND",
                &format!("is {name:?}, which is none of {all}"),
            )
        })
    }
}

/// One container's attachment to the network.
#[derive(Debug)]
pub(super) struct Attachment {
    pub container: String,
    pub netns: Option<PathBuf>,
    pub interface: String,
    /// None where no Kubernetes speaks.
    pub pod: Option<PodIdentity>,
}

impl Attachment {
    pub fn read(environment: Environment<'_>, command: Command) -> Result<Self, Failure> {
        let container = required(environment, "CNI_CONTAINERID")?;
        if !is_container(&container) {
            let problem = format!("is {container:?}, which is no container's ID");
            return Err(wrong("CNI_CONTAINERID", &problem));
        }
        let interface = required(environment, "CNI_IFNAME")?;
        if !is_interface(&interface) {
            let problem = format!("is {interface:?}, which is no interface's name");
            return Err(wrong("CNI_IFNAME", &problem));
        }
        let netns = environment("CNI_NETNS").filter(|path| !path.is_empty());
        // It may be gone when the container is deleted.
        if netns.is_none() && command != Command::Del {
            return Err(missing("CNI_NETNS"));
        }
        let pod = match pod(environment) {
            // Nothing may keep a container from being deleted for ever.
            Err(_) if command == Command::Del => None,
            pod => pod?,
        };
        Ok(Self {
            container,
            netns: netns.map(resolved),
            interface,
            pod,
        })
    }
}

/// The agent follows the path from this process's root, where symbolic links would mislead it.
fn resolved(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    path.canonicalize().unwrap_or(path)
}

/// `K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;…`
fn pod(environment: Environment<'_>) -> Result<Option<PodIdentity>, Failure> {
    let Some(args) = text(environment, "CNI_ARGS")? else {
        return Ok(None);
    };
    let (mut namespace, mut name, mut uid) = (None, None, None);
    for item in args.split(';').filter(|item| !item.is_empty()) {
        let Some((key, value)) = item.split_once('=') else {
            let problem = format!("has the item {item:?}, which is no KEY=VALUE");
            return Err(wrong("CNI_ARGS", &problem));
        };
        let place = match key {
            "K8S_POD_NAMESPACE" => &mut namespace,
            "K8S_POD_NAME" => &mut name,
            "K8S_POD_UID" => &mut uid,
            _ => continue,
        };
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    match (namespace, name) {
        (Some(namespace), Some(name)) => Ok(Some(PodIdentity {
            namespace,
            name,
            uid,
        })),
        (None, None) => Ok(None),
        _ => Err(wrong(
            "CNI_ARGS",
            "has only one of K8S_POD_NAMESPACE and K8S_POD_NAME",
        )),
    }
}

fn required(environment: Environment<'_>, name: &str) -> Result<String, Failure> {
    text(environment, name)?.ok_or_else(|| missing(name))
}

fn text(environment: Environment<'_>, name: &str) -> Result<Option<String>, Failure> {
    let value = environment(name).filter(|value| !value.is_empty());
    value
        .map(|value| value.into_string().map_err(|_| wrong(name, "is no text")))
        .transpose()
}

fn missing(name: &str) -> Failure {
    wrong(name, "is not set")
}

fn wrong(name: &str, problem: &str) -> Failure {
    Failure::new(
        Code::InvalidEnvironment,
        format!("the environment variable {name} {problem}"),
        "this program is to be run by a container runtime, by the CNI specification",
    )
}

/// As the specification has it.
fn is_container(id: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(is_inner)
}

/// As the kernel has it.
fn is_interface(name: &str) -> bool {
    let is_odd = |c: char| c == '/' || c == ':' || c.is_whitespace();
    name.len() <= 15 && !matches!(name, "." | "..") && !name.contains(is_odd)
}
