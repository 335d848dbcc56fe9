//! The agent with exactly the rights that its manifest gives it, and nothing that it could write to
//! but what the manifest mounts.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use osm_tests::node::PATIENCE;
use osm_tests::{
    Actor, Agent, Need, Node, Outcome, Pod, SIDECAR_UID, TempDir, World, agent, cgroup, missing,
};
use rstest::rstest;
use serde_json::Value;

use crate::{
    REMOTE,
    mesh::{expect_direct, expect_inbound, expect_outbound, expect_refused},
    mode,
    requests::{cni, init},
};

const OWN: &str = "10.77.1.2:8080";
const OTHER: &str = "198.51.100.10:5432";

/// Makes what a container runtime makes, as far as it limits the agent; then $1 are the
/// capabilities, and the rest is the command.
const CONTAINER: &str = r#"#!/bin/sh
[ "$1" = inside ] || exec unshare --mount --propagation private "$0" inside "$@"
shift
set -e
mount --rbind /tmp /tmp
mount --rbind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro CGROUPS
mount -o remount,bind,ro /
for place in /var/x /run/x CGROUPS/x; do
    mkdir "$place" 2>/dev/null && exit 99
done
exec setpriv --no-new-privs --inh-caps -all --bounding-set CAPABILITIES AGENT "$@"
"#;

/// The agent in a container with the manifest's capabilities, all but `without`.
struct Contained {
    files: TempDir,
}

impl Contained {
    fn new(without: Option<&str>) -> Self {
        let mut capabilities = vec!["-all".to_owned()];
        let given = capabilities_of_the_manifest();
        if let Some(without) = without {
            assert!(given.iter().any(|name| name == without), "{given:?}");
        }
        let kept = given.iter().filter(|name| Some(name.as_str()) != without);
        capabilities.extend(kept.map(|name| format!("+{}", name.to_lowercase())));
        let agent = agent::binary().expect("there is one");
        let cgroups = cgroup::root().expect("pods have cgroups");
        let script = CONTAINER
            .replace("CGROUPS", &cgroups.display().to_string())
            .replace("CAPABILITIES", &capabilities.join(","))
            .replace("AGENT", &agent.display().to_string());
        let files = TempDir::new();
        let path = files.file("container", &script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
        Self { files }
    }

    fn program(&self) -> PathBuf {
        self.files.path().join("container")
    }

    /// `osm-agent attach` for a pod, by eBPF.
    fn attach(&self, agent: &mut Agent, pod: &Pod) -> Outcome {
        agent.replace(self.program());
        agent.attach(pod).option("--mode", "ebpf").run()
    }
}

/// Of the agent's container in `deploy/manifests`.
pub fn capabilities_of_the_manifest() -> Vec<String> {
    let text = deployed("manifests/osm-interceptor.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let agents = objects.iter().find(|it| it["kind"] == "DaemonSet");
    let container = &agents.expect("a DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
    let names = capabilities["add"].as_array().expect("a list").iter();
    names
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect()
}

fn deployed(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A sidecar as container runtimes start it: its files below /proc are its user's.
#[track_caller]
fn sidecar(pod: &Pod) -> Actor {
    let becomes_itself = ["exec", "/proc/self/exe", "--", "sidecar"];
    let sidecar = Actor::start("sidecar", &pod.place(SIDECAR_UID), &becomes_itself);
    let owner = fs::metadata(format!("/proc/{}/fd", sidecar.pid())).expect("it runs");
    assert_eq!(owner.uid(), SIDECAR_UID);
    sidecar
}

fn can_contain() -> bool {
    !missing(&[Need::Program("unshare"), Need::Program("setpriv")])
}

#[test]
fn agent_with_the_rights_of_its_manifest_does_all_its_jobs_by_ebpf() {
    let (true, Some(world), Some(mut node)) = (can_contain(), World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    // Older than the enrolment: its listeners have to be taken up.
    let mut sidecar = sidecar(pod);
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let (mut app, mut client) = (pod.app(), world.outside.client());
    node.mesh(&mode("ebpf"));
    node.add_pod(pod, &[]);
    let container = Contained::new(None);
    node.start_binary(&container.program());
    node.wait_intercepted(pod);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_inbound(&mut sidecar, &client.connect(OWN), OWN);

    node.add_pod(pod, &[("outbound-port-exclusion-list", "5432")]);
    node.wait("the list is in force", |_| {
        let connection = app.connect(OTHER);
        let is_direct = connection.greeting().peer == connection.local();
        if !is_direct {
            sidecar.accepted_from(connection.local());
        }
        is_direct
    });
    expect_direct(&mut sidecar, &app.connect(OTHER), "remote");

    let second = world.add_pod();
    node.add_pod(&second, &[]);
    init(&node, &second, "ebpf").run().exited(0).proving_all();
    // The init container of the chart's init.mode: ebpf.
    let bare = init(&node, &second, "ebpf").capabilities(&["setuid"]).run();
    let _ = bare.exited(0).saying("intercepted by eBPF");
    let third = world.add_pod();
    node.add_pod(&third, &[]);
    let _ = cni(&node, "ADD", &third).succeeded();

    node.remove_pod(pod);
    node.wait("the pod is let go of", |node| node.pod(pod).is_none());
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
    let _ = node.stop().succeeded();
}

#[rstest]
fn agent_with_the_rights_of_its_manifest_falls_back(#[values("legacy", "nft")] backend: &str) {
    let (true, Some(world), Some(node)) = (can_contain(), World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--iptables-backend", backend);
    let pod = &world.pod;
    let mut sidecar = sidecar(pod);
    let _remote = world.outside.server("remote", &[REMOTE]);
    node.mesh(&mode("iptables"));
    node.add_pod(pod, &[]);
    let container = Contained::new(None);
    node.start_binary(&container.program());
    node.wait_intercepted(pod);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn agent_without_a_right_of_its_manifest_says_so_and_does_not_start() {
    if !can_contain() {
        return;
    }
    for name in ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"] {
        let Some(node) = Node::new() else { return };
        let container = Contained::new(Some(name));
        let mut process = node.spawn(&container.program());
        let status = process.wait(PATIENCE).expect("it ends");
        let (_, said) = process.output();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("this process lacks CAP_{name};")),
            "{said}"
        );
    }
}

/// What the agent itself does not insist on shows that it is needed all the same.
#[test]
fn interception_without_a_right_of_the_manifest_is_not_whole() {
    let (true, Some(world)) = (can_contain(), World::new()) else {
        return;
    };
    let pod = &world.pod;
    let mut sidecar = sidecar(pod);
    let _remote = world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let Some(mut agent) = Agent::new() else {
        return;
    };
    let without = Contained::new(Some("SYS_PTRACE")).attach(&mut agent, pod);
    assert!(without.stderr.contains("Permission denied"), "{without}");
    let without = Contained::new(Some("DAC_READ_SEARCH")).attach(&mut agent, pod);
    let _ = without.succeeded();
    expect_refused(&mut app, REMOTE.into());
    let _ = Contained::new(None).attach(&mut agent, pod).succeeded();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn iptables_legacy_without_the_right_of_the_manifest_fails_in_words() {
    let (true, Some(world), Some(node)) = (can_contain(), World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--iptables-backend", "legacy");
    node.mesh(&mode("iptables"));
    node.add_pod(&world.pod, &[]);
    let container = Contained::new(Some("NET_RAW"));
    node.start_binary(&container.program());
    node.wait("it says so", |node| {
        node.pod(&world.pod)
            .is_some_and(|pod| pod["detail"].to_string().contains("lacks CAP_NET_RAW"))
    });
}

#[test]
fn unit_for_systemd_gives_the_same_rights_as_the_manifest() {
    let unit = deployed("systemd/osm-agent.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let mut given: Vec<_> = line.expect("a limit").split(' ').collect();
    let manifest = capabilities_of_the_manifest();
    let mut expected: Vec<_> = manifest.iter().map(|name| format!("CAP_{name}")).collect();
    given.sort_unstable();
    expected.sort_unstable();
    assert_eq!(given, expected);
}

/// Settings of the kernel are read-only in a container, but one has to be written then.
#[test]
fn agent_with_the_rights_of_its_manifest_goes_from_one_means_to_the_other() {
    let (true, Some(world), Some(mut node)) = (can_contain(), World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let mut sidecar = sidecar(pod);
    let _remote = world.outside.server("remote", &[REMOTE]);
    node.mesh(&mode("ebpf"));
    node.add_pod(pod, &[]);
    let container = Contained::new(None);
    node.start_binary(&container.program());
    node.wait_intercepted(pod);
    node.mesh(&mode("iptables"));
    node.wait("it is done by iptables", |node| {
        node.pod(pod).is_some_and(|pod| pod["detail"] == "iptables")
    });
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    let setting = pod
        .netns
        .command("cat", &["/proc/sys/net/netfilter/nf_conntrack_tcp_loose"]);
    assert_eq!(
        String::from_utf8_lossy(&setting.stdout),
        "0\n",
        "{}",
        node.log()
    );
}
