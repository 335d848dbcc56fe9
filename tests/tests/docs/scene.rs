//! Where blocks run: a pod with an application and a sidecar, and paths that stand for them.
//!
//! Blocks are written for a node and say `default/web-0`, 4711 and `kubepods/pod1234`; here these
//! are the pod that the scene has, a process in it, and its cgroup. Nothing else is touched: the
//! state directory, the sockets and the working directory, which has a `mesh.yaml`, are the scene's.

use std::{ffi::OsStr, path::Path, process::Command, time::Duration};

use osm_tests::{
    Actor, Need, Node, Outcome, Pod, TempDir, World, actor, actor::Place, agent, missing,
    process::Process,
};
use serde_json::{Map, Value, json};

/// How long a block may take.
const LIMIT: Duration = Duration::from_mins(1);

/// The mesh's configuration: of the agent, and of the file `mesh.yaml`.
const SPEC: &str = "{traffic: {outboundPortExclusionList: [5432]}}";
const MESH: &str = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                    spec: {traffic: {outboundPortExclusionList: [5432]}}\n";

/// What there is before the first block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The pod is not intercepted.
    Nothing,
    /// It is, by `osm-agent attach`.
    Attached,
    /// Likewise, and somebody has detached one of its links.
    LinkDetached,
    /// It is, by a node agent that runs.
    Agent,
    /// The same, and one of its annotations has become bad.
    BadList,
}

/// A kind of scene.
#[derive(Clone, Copy)]
struct Kind {
    before: Before,
    has_sidecar: bool,
    /// Whether blocks run in the pod, as an init container does.
    is_inside: bool,
}

const PLAIN: Kind = Kind {
    before: Before::Nothing,
    has_sidecar: true,
    is_inside: false,
};

/// What blocks may say.
const KINDS: [(&str, Kind); 8] = [
    ("pod", PLAIN),
    (
        "attached pod",
        Kind {
            before: Before::Attached,
            ..PLAIN
        },
    ),
    (
        "attached pod, link detached",
        Kind {
            before: Before::LinkDetached,
            ..PLAIN
        },
    ),
    (
        "node",
        Kind {
            before: Before::Agent,
            ..PLAIN
        },
    ),
    (
        "node, no sidecar",
        Kind {
            before: Before::Agent,
            has_sidecar: false,
            ..PLAIN
        },
    ),
    (
        "node, bad list",
        Kind {
            before: Before::BadList,
            ..PLAIN
        },
    ),
    (
        "init container",
        Kind {
            has_sidecar: false,
            is_inside: true,
            ..PLAIN
        },
    ),
    (
        "init container, node agent",
        Kind {
            before: Before::Agent,
            has_sidecar: false,
            is_inside: true,
        },
    ),
];

/// Whether there is such a scene.
pub fn exists(name: &str) -> bool {
    KINDS.iter().any(|(it, _)| *it == name)
}

pub struct Scene {
    kind: Kind,
    files: TempDir,
    node: Node,
    app: Actor,
    _sidecar: Option<Actor>,
    world: World,
}

impl Scene {
    /// Sets it; none where the test has to be skipped.
    pub fn set(name: &str) -> Option<Self> {
        let (_, kind) = KINDS.iter().find(|(it, _)| *it == name)?;
        if missing(&[
            Need::Program("iptables-nft-restore"),
            Need::Program("bash"),
            Need::Program("bpftool"),
        ]) {
            return None;
        }
        let (world, mut node) = (World::new()?, Node::new()?);
        let files = TempDir::new();
        let mesh = files.file("mesh.yaml", MESH);
        node.mesh(SPEC);
        let pod = &world.pod;
        let app = pod.server("app", &["0.0.0.0:8080"]);
        let sidecar = kind.has_sidecar.then(|| pod.sidecar());
        match kind.before {
            Before::Nothing => {}
            Before::Attached => attach(&node, pod, &mesh),
            Before::LinkDetached => {
                attach(&node, pod, &mesh);
                node.state().detach_link("connect4");
            }
            Before::Agent | Before::BadList => {
                node.add_pod_file("web-0", &pod_file(pod, ""));
                node.start();
                node.wait("the pod is intercepted", |node| {
                    node.status()["pods"][0]["state"] == "intercepted"
                });
            }
        }
        if kind.before == Before::BadList {
            node.add_pod_file("web-0", &pod_file(pod, "5432, 70000"));
            node.wait("the list is refused", |node| {
                node.status()["pods"][0]["lists_problem"].is_string()
            });
        }
        Some(Self {
            kind: *kind,
            files,
            node,
            app,
            _sidecar: sidecar,
            world,
        })
    }

    /// Runs a block to its end, with what it says on both outputs.
    pub fn run(&self, block: &str) -> Outcome {
        let script = format!("{}\n{}", self.prelude(), self.here(block));
        let arguments = ["bash", "-euo", "pipefail", "-c", &script];
        let mut process = if self.kind.is_inside {
            let pod = &self.world.pod;
            let place = Place {
                netns: &pod.netns,
                cgroup: Some(pod.app_cgroup()),
                uid: None,
            };
            actor::program("block", &place, &arguments)
        } else {
            let mut command = Command::new(arguments[0]);
            command.args(&arguments[1..]);
            Process::start("block", command)
        };
        let Some(status) = process.wait(LIMIT) else {
            panic!("not done after {LIMIT:?}:\n{block}\n{}", process.stderr());
        };
        let (stdout, stderr) = process.output();
        Outcome {
            status,
            stdout,
            stderr,
        }
    }

    /// What the node agent counts.
    pub fn metrics(&self) -> String {
        self.node.get("/metrics").1
    }

    /// A block with this scene's paths.
    fn here(&self, block: &str) -> String {
        let socket = self.node.socket().display().to_string();
        let cgroup = self.world.pod.cgroup.path().display().to_string();
        let cni = self.node.cni_socket().display().to_string();
        [
            ("kubepods/pod1234", cgroup.as_str()),
            ("4711", &self.app.pid().to_string()),
            ("/run/osm/agent.sock", &socket),
            ("/run/osm-cni/agent.sock", &cni),
        ]
        .iter()
        .fold(block.to_owned(), |text, (of_node, here)| {
            text.replace(of_node, here)
        })
    }

    fn prelude(&self) -> String {
        let binary = agent::binary().expect("there was one");
        let directory = binary.parent().expect("it is in a directory");
        let state = self.node.state().path().display();
        let mut lines = vec![
            format!("cd '{}'", self.files.path().display()),
            format!("export PATH='{}':\"$PATH\" NO_COLOR=1", directory.display()),
            format!("export OSM_STATE_DIR='{state}'"),
            format!("export OSM_AGENT_SOCKET='{}'", self.node.socket().display()),
        ];
        // Where there is none, nobody listens: not one that this machine may have.
        let has_agent = matches!(self.kind.before, Before::Agent | Before::BadList);
        let url = if has_agent {
            self.node.url()
        } else {
            "http://127.0.0.1:1".into()
        };
        lines.push(format!("export OSM_AGENT_URL='{url}'"));
        lines.join("\n")
    }
}

fn attach(node: &Node, pod: &Pod, mesh: &Path) {
    let (netns, state) = (pod.netns.path(), node.state().path());
    let _ = node
        .agent()
        .run(&[
            OsStr::new("attach"),
            OsStr::new("--pod=default/web-0"),
            OsStr::new("--mode=ebpf"),
            OsStr::new("--netns"),
            netns.as_os_str(),
            OsStr::new("--cgroup"),
            pod.cgroup.path().as_os_str(),
            OsStr::new("--state-dir"),
            state.as_os_str(),
            OsStr::new("--config"),
            mesh.as_os_str(),
        ])
        .succeeded();
}

/// The pod's file, with these ports excluded.
fn pod_file(pod: &Pod, ports: &str) -> Value {
    let mut annotations = Map::new();
    if !ports.is_empty() {
        let key = "openservicemesh.io/outbound-port-exclusion-list";
        annotations.insert(key.into(), ports.into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "default", "name": "web-0", "annotations": annotations },
        "osm": { "netns": pod.netns.path(), "cgroup": pod.cgroup.path() },
    })
}
