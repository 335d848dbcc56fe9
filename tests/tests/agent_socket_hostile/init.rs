//! The real init container, which behaves.

use std::{process::Command, sync::mpsc};

use osm_agent::{
    daemon::request::{Limits, Outcome, Rate, Request},
    protocol::{Answer, Mode},
};
use osm_tests::{Pod, agent, process::Process};

use crate::{
    mesh,
    requests::{Kind, PATIENCE, Served},
    world,
};

#[test]
fn real_init_container_gets_the_answer() {
    let Some(world) = world() else { return };
    let served = Served::refusing(Limits::ENROL);
    let mut ended = init(&world.pod, &served);
    assert!(ended.wait(PATIENCE).is_some_and(|status| !status.success()));
    let (_, stderr) = ended.output();
    assert!(stderr.contains("refuses: the test's loop"), "{stderr}");
    assert_eq!(served.outcome(), Outcome::Answered);
    // Refused at once, before its request is read: it is told nevertheless.
    let limits = Limits {
        rate_of_pod: Rate {
            burst: 0,
            per_second: 0,
        },
        ..Limits::ENROL
    };
    let served = Served::refusing(limits);
    let mut ended = init(&world.pod, &served);
    let _ = ended.wait(PATIENCE);
    let (_, stderr) = ended.output();
    assert!(
        stderr.contains("refuses: this pod asks too often"),
        "{stderr}"
    );
}

#[test]
fn real_init_container_is_enrolled_and_proves_it() {
    let Some(mesh) = mesh::Mesh::new() else {
        return;
    };
    let (seen, requests) = mpsc::channel();
    let served = Served::new(Kind::Enrol, Limits::ENROL, move |request| {
        let _ = seen.send(request);
    });
    let mut ended = init(&mesh.world.pod, &served);
    let request = requests.recv_timeout(PATIENCE).expect("a request");
    let Request::Enrol { peer, answer } = request else {
        panic!("{request:?}");
    };
    assert_eq!(
        peer.netns.cookie().ok(),
        Some(mesh.world.pod.netns.cookie())
    );
    let _ = mesh.attach(&mesh::Lists::default()).succeeded();
    answer.send(Answer::Mode(Mode::Ebpf)).expect("it waits");
    let status = ended.wait(PATIENCE).expect("an end");
    let (stdout, stderr) = ended.output();
    assert!(status.success(), "{stdout} {stderr}");
    assert!(
        stdout.contains("outbound: proven: 192.0.2.1:80 arrived at 15001"),
        "{stdout}"
    );
    assert_eq!(served.outcome(), Outcome::Answered);
}

fn init(pod: &Pod, served: &Served) -> Process {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", pod.netns.path().display()))
        .args(["sh", "-c", r#"echo 0 >"$0/cgroup.procs" && exec "$@""#])
        .arg(pod.app_cgroup().path())
        .arg(agent::binary().expect("the agent"))
        .args(["init", "--mode=ebpf", "--agent-socket"])
        .arg(&served.socket);
    Process::start("init", command)
}
