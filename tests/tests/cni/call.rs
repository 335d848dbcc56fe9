//! A call of the container runtime.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use osm_tests::{Pod, agent, process::Process};
use serde_json::{Value, json};

use crate::requests::PATIENCE;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
                    K8S_POD_INFRA_CONTAINER_ID=4f1c;K8S_POD_UID=0b1e5c1e";

/// What the plugins before did.
pub fn previous() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "mac": "1e:82:c1:1a:4a:6d", "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.77.1.2/24", "gateway": "10.77.1.1", "interface": 0 }],
        "dns": {},
        "somebody's": { "own": [1, 2.5, null] },
    })
}

/// One call of the runtime.
pub struct Call<'a> {
    pub command: &'a str,
    pub args: &'a str,
    pub version: &'a str,
    pub socket: &'a Path,
    pub netns: PathBuf,
    pub program: Vec<OsString>,
}

impl<'a> Call<'a> {
    pub fn new(command: &'a str, socket: &'a Path, pod: &'a Pod) -> Self {
        Self {
            command,
            args: ARGS,
            version: "1.1.0",
            socket,
            netns: pod.netns.path(),
            program: vec![agent::binary().expect("the agent").into(), "cni".into()],
        }
    }

    pub fn start(&self) -> Process {
        let configuration = json!({
            "cniVersion": self.version,
            "name": "pods",
            "type": "osm-cni",
            "agentSocket": self.socket,
            "timeoutSeconds": 2,
            "prevResult": previous(),
            "other": true,
        });
        // Standard input ends, as a runtime's does.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"printf %s "$0" | "$@""#, &configuration.to_string()])
            .args(&self.program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", "4f1c")
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", self.args);
        Process::start("osm-agent cni", command)
    }

    #[track_caller]
    pub fn end(&self) -> Ended {
        Ended::of(self.start())
    }
}

/// How it ended.
pub struct Ended {
    status: Option<i32>,
    output: Value,
    stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn of(mut process: Process) -> Self {
        let status = process.wait(PATIENCE).expect("an end");
        let (stdout, stderr) = process.output();
        Self {
            status: status.code(),
            output: serde_json::from_str(&stdout).unwrap_or(Value::Null),
            stderr,
        }
    }

    #[track_caller]
    pub fn passed(self, output: &Value) {
        assert_eq!(self.status, Some(0), "{} {}", self.output, self.stderr);
        assert_eq!(self.output, *output);
    }

    #[track_caller]
    pub fn failed(self, code: u32, words: &str) {
        let text = self.output.to_string();
        assert_eq!(self.status, Some(1), "{text} {}", self.stderr);
        assert_eq!(self.output["code"], code, "{text}");
        assert_eq!(self.output["cniVersion"], "1.1.0", "{text}");
        assert!(text.contains(words), "{words:?} is not in {text}");
        assert!(self.stderr.contains(words), "{}", self.stderr);
    }
}
