//! Agents in processes of their own: short of files, and without a view of the pods' processes.

use std::{path::Path, process::Command, time::Instant};

use osm_agent::daemon::request::Outcome;
use osm_tests::{TempDir, process::Process};

use crate::{
    requests::{ANSWER, Kind, PATIENCE, Served, generous, peer, refuse},
    world,
};

/// An agent in a process of its own: its PID namespace and its limits are not the test's.
fn agent_process(program: &[&str], socket: &Path) -> Process {
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .arg(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "agents::serves_other_tests",
            "--ignored",
            "--nocapture",
        ])
        .env("OSM_TEST_SOCKET", socket);
    let mut process = Process::start("agent", command);
    expect_line(&mut process, "ready");
    process
}

#[track_caller]
fn expect_line(process: &mut Process, wanted: &str) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match process.line(PATIENCE) {
            Some(line) if line.ends_with(wanted) => return,
            Some(_) => {}
            None => break,
        }
    }
    panic!("no {wanted:?}: {}", process.stderr());
}

#[test]
#[ignore = "an agent for other tests, which start it"]
fn serves_other_tests() {
    let Some(socket) = std::env::var_os("OSM_TEST_SOCKET") else {
        return;
    };
    let served = Served::at(socket.as_ref(), Kind::Enrol, generous(), refuse);
    println!("> ready");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    if line.trim() == "starve" {
        starve(&served);
    }
    for outcome in &served.outcomes {
        println!("> {}", outcome.name());
    }
}

/// No more files, until it was noticed.
fn starve(served: &Served) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("less");
    println!("> starved");
    while served.outcome() != Outcome::NotAccepted {}
    println!("> noticed");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
}

#[test]
fn agent_without_files_goes_on_when_it_has_some() {
    let Some(world) = world() else { return };
    let directory = TempDir::new();
    let socket = directory.path().join("agent.sock");
    let mut agent = agent_process(&["env"], &socket);
    agent.write("starve");
    expect_line(&mut agent, "starved");
    let mut waiting = peer(&socket, &world.pod, &["ask=2"]);
    expect_line(&mut agent, "noticed");
    agent.write("");
    for _ in 0..2 {
        assert_eq!(waiting.line(PATIENCE).as_deref(), Some(ANSWER));
    }
}

#[test]
fn agent_in_a_pid_namespace_of_its_own_asks_for_host_pid() {
    let Some(world) = world() else { return };
    let directory = TempDir::new();
    let socket = directory.path().join("agent.sock");
    let program = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut agent = agent_process(&program, &socket);
    let mut peer = peer(&socket, &world.pod, &["ask"]);
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(line.contains("has to run with hostPID: true"), "{line}");
    agent.write("");
    expect_line(&mut agent, "invisible");
}
