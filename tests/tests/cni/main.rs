//! `osm-agent cni`, as a container runtime runs it, against the agent's socket for root.

mod call;
#[path = "../mesh/mod.rs"]
mod mesh;
#[path = "../requests/mod.rs"]
mod requests;

use std::{
    ffi::OsString,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use call::{Call, Ended, previous};
use mesh::{Lists, Mesh, expect_outbound};
use osm_agent::{
    daemon::{
        request::{CniAction, CniCommand, Limits, Outcome, Request},
        status::Means,
    },
    protocol::cni::{Answer, PodIdentity},
};
use osm_tests::{Need, TempDir, World, agent, missing, process::Process};
use requests::{Kind, PATIENCE, Served, peer_on_the_node};
use rstest::rstest;
use serde_json::Value;
use tokio::sync::oneshot;

fn world() -> Option<World> {
    if missing(&[Need::Agent, Need::Program("nsenter")]) {
        return None;
    }
    World::new()
}

/// A loop that answers everything alike.
fn answering(answer: Answer) -> Served {
    Served::new(Kind::Cni, Limits::CNI, move |request| match request {
        Request::Cni {
            answer: waiting, ..
        } => drop(waiting.send(answer.clone())),
        Request::Enrol { .. } => panic!("{request:?}"),
    })
}

type Asked = (Box<CniCommand>, oneshot::Sender<Answer>);

/// A loop that leaves the answer to the test.
fn asking(limits: Limits) -> (Served, Receiver<Asked>) {
    let (seen, asked): (Sender<Asked>, _) = mpsc::channel();
    let served = Served::new(Kind::Cni, limits, move |request| match request {
        Request::Cni { command, answer } => drop(seen.send((command, answer))),
        Request::Enrol { .. } => panic!("{request:?}"),
    });
    (served, asked)
}

fn nothing() -> Value {
    Value::Null
}

#[rstest]
#[case::add("ADD", Answer::Intercepted(Means::Ebpf), Ok(previous()))]
#[case::add_by_iptables("ADD", Answer::Intercepted(Means::Iptables), Ok(previous()))]
#[case::add_outside("ADD", Answer::Outside("why".into()), Ok(previous()))]
#[case::add_refused("ADD", Answer::Refused("bad port 70000".into()), Err((100, "bad port 70000")))]
#[case::add_later("ADD", Answer::Retry("no cgroup yet".into()), Err((11, "no cgroup yet")))]
#[case::check("CHECK", Answer::Intercepted(Means::Ebpf), Ok(nothing()))]
#[case::check_outside("CHECK", Answer::Outside("why".into()), Ok(nothing()))]
#[case::check_refused("CHECK", Answer::Refused("link gone".into()), Err((101, "link gone")))]
#[case::check_later("CHECK", Answer::Retry("busy".into()), Err((11, "busy")))]
#[case::del("DEL", Answer::Outside("gone".into()), Ok(nothing()))]
#[case::del_refused("DEL", Answer::Refused("unknown".into()), Ok(nothing()))]
#[case::del_later("DEL", Answer::Retry("busy".into()), Ok(nothing()))]
#[case::status("STATUS", Answer::Retry("not asked".into()), Ok(nothing()))]
#[case::gc("GC", Answer::Retry("not asked".into()), Ok(nothing()))]
fn answer_of_the_agent_becomes_the_runtime_s(
    #[case] command: &str,
    #[case] answer: Answer,
    #[case] wanted: Result<Value, (u32, &str)>,
) {
    let Some(world) = world() else { return };
    let served = answering(answer);
    let ended = Call::new(command, &served.socket, &world.pod).end();
    match wanted {
        Ok(output) => ended.passed(&output),
        Err((code, words)) => ended.failed(code, words),
    }
}

#[rstest]
#[case("ADD", Some((11, "no node agent at /nonexistent/agent.sock")))]
#[case("CHECK", Some((11, "no node agent")))]
#[case("STATUS", Some((50, "no node agent")))]
#[case("DEL", None)]
#[case("GC", None)]
fn without_an_agent_pods_do_not_start_but_end(
    #[case] command: &str,
    #[case] wanted: Option<(u32, &str)>,
) {
    let Some(world) = world() else { return };
    let socket = Path::new("/nonexistent/agent.sock");
    let ended = Call::new(command, socket, &world.pod).end();
    match wanted {
        None => ended.passed(&nothing()),
        Some((code, words)) => ended.failed(code, words),
    }
}

#[test]
fn what_is_no_pod_starts_without_an_agent_and_as_the_agent_says_with_one() {
    let Some(world) = world() else { return };
    let socket = Path::new("/nonexistent/agent.sock");
    let mut call = Call::new("ADD", socket, &world.pod);
    call.args = "";
    call.end().passed(&previous());
    let served = answering(Answer::Refused("a file says so".into()));
    call.socket = &served.socket;
    call.end().failed(100, "a file says so");
}

#[test]
fn start_of_the_pod_is_held_until_the_answer_and_the_pod_is_known() {
    let Some(world) = world() else { return };
    let pod = &world.pod;
    let (served, asked) = asking(Limits::CNI);
    let mut plugin = Call::new("ADD", &served.socket, pod).start();
    let (command, answer) = asked.recv_timeout(PATIENCE).expect("a request");
    assert_eq!(command.action, CniAction::Add);
    let identity = PodIdentity {
        namespace: "default".into(),
        name: "web-0".into(),
        uid: Some("0b1e5c1e".into()),
    };
    assert_eq!(command.pod, Some(identity));
    assert_eq!(
        (command.container.as_str(), command.interface.as_str()),
        ("4f1c", "eth0")
    );
    let cookie = command.netns.map(|netns| netns.cookie().ok());
    assert_eq!(cookie, Ok(Some(pod.netns.cookie())));
    assert!(plugin.line(Duration::from_millis(300)).is_none());
    assert!(plugin.wait(Duration::ZERO).is_none(), "it does not wait");
    answer
        .send(Answer::Intercepted(Means::Ebpf))
        .expect("it waits");
    Ended::of(plugin).passed(&previous());
    assert_eq!(served.outcome(), Outcome::Answered);
}

#[test]
fn namespace_is_found_through_links_and_where_only_the_runtime_sees_it() {
    let Some(world) = world() else { return };
    let (served, asked) = asking(Limits::CNI);
    let files = TempDir::new();
    let link = files.path().join("link");
    let mount = files.file("netns", "");
    symlink(&mount, &link).expect("our own directory");
    let mut call = Call::new("ADD", &served.socket, &world.pod);
    call.netns = link;
    // A mount that nobody but the plugin sees, as in the runtime's mount namespace.
    let script = r#"mount --bind "$0" "$1" && shift && exec "$@""#;
    let mut program: Vec<OsString> = ["unshare", "--mount", "sh", "-c", script]
        .map(OsString::from)
        .into();
    program.extend([world.pod.netns.path().into(), mount.clone().into()]);
    program.append(&mut call.program);
    call.program = program;
    let plugin = call.start();
    let (command, answer) = asked.recv_timeout(PATIENCE).expect("a request");
    let cookie = command.netns.map(|netns| netns.cookie().ok());
    assert_eq!(cookie, Ok(Some(world.pod.netns.cookie())));
    assert_eq!(command.netns_path, Some(mount));
    let _ = answer.send(Answer::Outside(String::new()));
    Ended::of(plugin).passed(&previous());
}

#[test]
fn deleting_works_when_the_namespace_is_gone() {
    let Some(world) = world() else { return };
    let (served, asked) = asking(Limits::CNI);
    for netns in ["", "/run/netns/cni-gone"] {
        let mut call = Call::new("DEL", &served.socket, &world.pod);
        call.netns = netns.into();
        let plugin = call.start();
        let (command, answer) = asked.recv_timeout(PATIENCE).expect("a request");
        assert_eq!(command.action, CniAction::Del);
        assert!(command.netns.is_err());
        let _ = answer.send(Answer::Outside(String::new()));
        Ended::of(plugin).passed(&nothing());
    }
}

#[test]
fn agent_that_is_late_or_silent_is_tried_again() {
    let Some(world) = world() else { return };
    let limits = Limits {
        answer: Duration::from_millis(200),
        ..Limits::CNI
    };
    let (served, _asked) = asking(limits);
    let words = "did not get to it within 0.2 s";
    Call::new("ADD", &served.socket, &world.pod)
        .end()
        .failed(11, words);
    assert_eq!(served.outcome(), Outcome::Late);
    let (silent, _asked) = asking(Limits::CNI);
    let words = "no answer within 2 s";
    Call::new("ADD", &silent.socket, &world.pod)
        .end()
        .failed(11, words);
    Call::new("DEL", &silent.socket, &world.pod)
        .end()
        .passed(&nothing());
}

#[test]
fn too_much_at_once_is_tried_again() {
    let Some(world) = world() else { return };
    let limits = Limits {
        connections: 0,
        ..Limits::CNI
    };
    let (served, _asked) = asking(limits);
    let words = "too many requests at once";
    Call::new("ADD", &served.socket, &world.pod)
        .end()
        .failed(11, words);
}

/// Root in a pod is user 0 as well, and its init container may see the socket.
#[test]
fn nobody_in_a_pod_may_ask() {
    let Some(world) = world() else { return };
    let served = answering(Answer::Intercepted(Means::Ebpf));
    let steps = ["connect", r#"send={"version":1,"command":"del"}\n"#, "read"];
    let mut root = served.peer(&world.pod, &steps);
    let line = root.line(PATIENCE).expect("an answer");
    assert!(
        line.contains("only the container runtime may ask"),
        "{line}"
    );
    assert_eq!(served.outcome(), Outcome::Forbidden);
    let mut call = Call::new("ADD", &served.socket, &world.pod);
    let user = ["setpriv", "--reuid=1000", "--clear-groups"].map(OsString::from);
    call.program.splice(0..0, user);
    call.end().failed(11, "no node agent");
}

#[test]
fn impostor_is_not_believed() {
    let Some(world) = world() else { return };
    let directory = TempDir::new();
    std::os::unix::fs::chown(directory.path(), Some(1000), None).expect("our own");
    let socket = directory.path().join("agent.sock");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1000", "--clear-groups", env!("CARGO_BIN_EXE_peer")])
        .arg(&socket)
        .arg(r#"listen={"version":1,"intercepted":"ebpf"}\n"#);
    let mut impostor = Process::start("impostor", command);
    assert_eq!(impostor.line(PATIENCE).as_deref(), Some("listening"));
    let call = Call::new("ADD", &socket, &world.pod);
    call.end().failed(11, "user 1000 listens there");
}

#[test]
fn hostile_words_on_the_socket_are_refused() {
    let Some(_world) = world() else { return };
    let limits = Limits {
        request: Duration::from_millis(300),
        ..Limits::CNI
    };
    let (served, asked) = asking(limits);
    for (steps, outcome) in [
        (&["connect", "send=hello\\n", "read"][..], Outcome::Garbage),
        (&["connect", "fill=100000", "read"], Outcome::TooLong),
        (&["connect", "drip=20", "read"], Outcome::Slow),
        (
            &["connect", r#"send={"version":7,"command":"add"}\n"#, "read"],
            Outcome::OtherVersion,
        ),
    ] {
        let mut peer = peer_on_the_node(&served.socket, steps);
        let line = peer.line(PATIENCE).expect("an answer");
        assert!(line.starts_with(r#"{"version":1,"re"#), "{line}");
        assert_eq!(served.outcome(), outcome, "{steps:?}");
    }
    assert!(asked.try_recv().is_err());
}

#[test]
fn program_called_osm_cni_is_the_plugin() {
    let Some(world) = world() else { return };
    let files = TempDir::new();
    let plugin = files.path().join("osm-cni");
    symlink(agent::binary().expect("the agent"), &plugin).expect("our own directory");
    let served = answering(Answer::Outside(String::new()));
    let mut call = Call::new("ADD", &served.socket, &world.pod);
    call.program = vec![plugin.into()];
    call.end().passed(&previous());
}

#[test]
fn pod_that_was_added_is_intercepted_from_its_first_connection() {
    let Some(mesh) = Mesh::new() else { return };
    let (served, asked) = asking(Limits::CNI);
    let pod = &mesh.world.pod;
    let plugin = Call::new("ADD", &served.socket, pod).start();
    let (_, answer) = asked.recv_timeout(PATIENCE).expect("a request");
    let _ = mesh.attach(&Lists::default()).succeeded();
    let _ = answer.send(Answer::Intercepted(Means::Ebpf));
    Ended::of(plugin).passed(&previous());
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &["198.51.100.10:80"]);
    let connection = pod.app().connect("198.51.100.10:80");
    assert_eq!(connection.answered_by(), "remote");
    expect_outbound(&mut sidecar, &connection, "198.51.100.10:80", pod.ip4());
}
