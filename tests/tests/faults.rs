//! A kernel that refuses, an agent that is killed, state that another one left: nothing
//! half-done, nothing lost.

mod mesh;

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Output},
    time::Duration,
};

use mesh::{Lists, Mesh, expect_direct, expect_outbound};
use nix::{errno::Errno, sys::signal::Signal};
use osm_tests::{
    Need, Pod, agent, missing,
    sys::seccomp::{self, Command as Bpf},
};

const REMOTE: &str = "198.51.100.10:80";
const PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list=81";

fn attach_args(mesh: &Mesh, pod: &Pod) -> Vec<String> {
    let attach = mesh.agent.attach(pod).option("--mode", "ebpf");
    attach.into_args()
}

/// Runs the agent where the kernel answers one command of bpf(2) with an error.
fn attach_where_bpf_fails(mesh: &Mesh, command: Bpf, errno: Errno) -> Output {
    run_where_bpf_fails(&attach_args(mesh, &mesh.world.pod), command, errno)
}

fn run_where_bpf_fails(args: &[String], command: Bpf, errno: Errno) -> Output {
    let mut agent = Command::new(agent::binary().expect("the agent"));
    agent.args(args);
    let output = seccomp::answering(command, |_| Some(errno), || agent.output());
    output
        .expect("the filter is taken")
        .expect("the agent runs")
}

#[test]
fn kernel_that_refuses_a_step_leaves_nothing_attached() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    for (command, errno, words) in [
        (
            Bpf::MapCreate,
            Errno::EPERM,
            ["create the BPF maps", "CAP_BPF"],
        ),
        (
            Bpf::MapCreate,
            Errno::ENOMEM,
            ["create the BPF maps", "nothing was changed"],
        ),
        (
            Bpf::ProgLoad,
            Errno::EINVAL,
            ["load the BPF program", "Linux 5.10"],
        ),
        (
            Bpf::ObjPin,
            Errno::ENOSPC,
            ["cannot", "nothing was changed"],
        ),
        (
            Bpf::LinkCreate,
            Errno::EINVAL,
            ["attach getsockopt to", "Linux 5.10"],
        ),
        (
            Bpf::LinkCreate,
            Errno::EPERM,
            ["attach getsockopt to", "CAP_NET_ADMIN"],
        ),
    ] {
        let output = attach_where_bpf_fails(&mesh, command, errno);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
        }
        assert!(mesh.agent.state().pins().is_empty(), "after {stderr}");
    }
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_direct(&mut sidecar, &pod.app().connect(REMOTE), "remote");
}

/// By default, what the kernel refuses to eBPF is done with iptables, and said.
#[test]
fn kernel_without_bpf_is_left_to_iptables_unless_ebpf_is_in_force() {
    let Some(mesh) = Mesh::new() else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let args = mesh.agent.attach(pod).into_args();
    let output = run_where_bpf_fails(&args, Bpf::ProgLoad, Errno::EINVAL);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("using iptables instead"), "{stderr}");
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    assert!(mesh.agent.state().pins().is_empty());
    // With eBPF in force, an error is an error: the means do not change under the pod.
    let _ = mesh.attach(&Lists::default()).succeeded();
    let pins = mesh.agent.state().pins();
    assert!(!pins.is_empty());
    let more = [&args[..], &["--annotation".into(), PORTS.into()]].concat();
    let output = run_where_bpf_fails(&more, Bpf::ObjPin, Errno::EPERM);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("iptables"), "{stderr}");
    assert_eq!(mesh.agent.state().pins(), pins);
}

#[test]
fn second_pod_that_fails_leaves_the_first_alone() {
    let Some(mesh) = Mesh::new() else { return };
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    let pins = mesh.agent.state().pins();
    let output = attach_where_bpf_fails(&mesh, Bpf::LinkCreate, Errno::EPERM);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(mesh.agent.state().pins(), pins);
    let mut sidecar = second.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_outbound(
        &mut sidecar,
        &second.app().connect(REMOTE),
        REMOTE,
        second.ip4(),
    );
}

#[test]
fn attach_without_privilege_says_what_is_missing() {
    let Some(mesh) = Mesh::new() else { return };
    let output = Command::new(agent::binary().expect("the agent"))
        .args(attach_args(&mesh, &mesh.world.pod))
        .uid(1000)
        .output()
        .expect("the agent runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "run as root"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn attach_killed_at_any_moment_is_recovered_by_the_next() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let args = attach_args(&mesh, pod);
    let mut killed = 0;
    for milliseconds in (0..40).map(|i| i * 12) {
        let mut agent = mesh.agent.start(&args);
        if agent.wait(Duration::from_millis(milliseconds)).is_none() {
            agent.signal(Signal::SIGKILL);
            killed += 1;
        }
        drop(agent);
        if milliseconds % 3 == 0 {
            // From any state that is left, either verb works.
            let outcome = mesh.agent.detach(pod);
            assert!(matches!(outcome.status.code(), Some(0 | 2)), "{outcome}");
        }
    }
    assert!(killed > 5, "{killed} were killed");
    let lists = Lists {
        excluded_ports: "81",
        ..Lists::default()
    };
    let _ = mesh.attach(&lists).succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh
        .world
        .outside
        .server("remote", &[REMOTE, "198.51.100.10:81"]);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_direct(&mut sidecar, &app.connect("198.51.100.10:81"), "remote");
    let _ = mesh.detach().succeeded();
    assert!(mesh.agent.state().pins().is_empty());
}

#[test]
fn state_of_another_version_is_refused_and_stays_in_force() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let meta = mesh
        .agent
        .state()
        .path()
        .join("maps/STATE")
        .display()
        .to_string();
    let value = "hex 63 00 00 00 ".to_owned() + &"00 ".repeat(60);
    let update = format!("map update pinned {meta} key 0 0 0 0 value {value}");
    let output = Command::new("bpftool")
        .args(update.split_whitespace())
        .output();
    let output = output.expect("bpftool runs");
    assert!(output.status.success(), "{output:?}");
    for outcome in [
        mesh.attach(&Lists {
            excluded_ports: "80",
            ..Lists::default()
        }),
        mesh.detach(),
    ] {
        assert_eq!(outcome.status.code(), Some(1), "{outcome}");
        assert!(outcome.stderr.contains("another version"), "{outcome}");
    }
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn one_pod_s_namespace_with_another_s_cgroup_is_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let second = mesh.world.add_pod();
    let _process = second.app();
    let mut args = attach_args(&mesh, &mesh.world.pod);
    let at = args
        .iter()
        .position(|arg| arg == "--cgroup")
        .expect("a flag");
    args[at + 1] = second.cgroup.path().display().to_string();
    let outcome = mesh.agent.run(&args);
    assert_eq!(outcome.status.code(), Some(2), "{outcome}");
    assert!(
        outcome.stderr.contains("none of its processes"),
        "{outcome}"
    );
}
