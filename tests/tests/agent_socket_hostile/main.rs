//! The socket of init containers: who asks is known by the kernel, and nobody who asks badly is in
//! anybody else's way.

#[path = "../mesh/mod.rs"]
mod mesh;
#[path = "../requests/mod.rs"]
mod requests;

mod agents;
mod init;

use std::{process::Command, sync::mpsc, thread, time::Duration};

use osm_agent::{
    daemon::request::{Limits, Outcome, Place, Rate, Request, Socket},
    protocol::Answer,
};
use osm_tests::{Need, TempDir, World, missing, process::Process};
use requests::{ANSWER, Kind, PATIENCE, Served, generous, peer, peer_on_the_node, refuse};
use rstest::rstest;

const ENROL: &str = r#"send={"version":1,"request":"enrol"}\n"#;

fn world() -> Option<World> {
    if missing(&[Need::Program("nsenter"), Need::Program("sleep")]) {
        return None;
    }
    World::new()
}

/// One connection, of a process in a pod.
#[track_caller]
fn answer_to(steps: &[&str]) -> Option<(String, Outcome)> {
    let world = world()?;
    let limits = Limits {
        request: Duration::from_millis(500),
        ..generous()
    };
    let served = Served::refusing(limits);
    let mut peer = served.peer(&world.pod, steps);
    let line = peer.line(PATIENCE).expect("a line of the peer");
    let outcome = served.outcome();
    served.expect_served(&world.pod);
    Some((line, outcome))
}

#[rstest]
#[case::whole(&["connect", ENROL, "read"], ANSWER, Outcome::Answered)]
#[case::half_closed(&["connect", ENROL, "shut", "read"], ANSWER, Outcome::Answered)]
#[case::in_pieces(
    &["connect", "send={\"version\":1,", "send=\"request\":\"enrol\"}", "send=\\n", "read"],
    ANSWER,
    Outcome::Answered
)]
#[case::asking_for_another_pod(
    &[
        "connect",
        r#"send={"version":1,"request":"enrol","pod":"default/other","netns":"/proc/1/ns/net"}\n"#,
        "read",
    ],
    ANSWER,
    Outcome::Answered
)]
#[case::other_version(
    &["connect", r#"send={"version":2,"request":"enrol"}\n"#, "read"],
    r#"{"version":1,"refused":"the request is of version 2 of the protocol"#,
    Outcome::OtherVersion
)]
#[case::garbage(
    &["connect", r"send=GET / HTTP/1.1\n", "read"],
    r#"{"version":1,"refused":"the request is not of this protocol"#,
    Outcome::Garbage
)]
#[case::withdrawing(
    &["connect", r#"send={"version":1,"request":"withdraw"}\n"#, "read"],
    r#"{"version":1,"refused":"the request is not of this protocol"#,
    Outcome::Garbage
)]
#[case::without_line_feed(
    &["connect", r#"send={"version":1,"request":"enrol"}"#, "shut", "read"],
    r#"{"version":1,"refused":"the request does not end""#,
    Outcome::Incomplete
)]
#[case::nothing(
    &["connect", "shut", "read"],
    r#"{"version":1,"refused":"the request does not end""#,
    Outcome::Incomplete
)]
#[case::endless(
    &["connect", "fill=1000000", "read"],
    r#"{"version":1,"refused":"the request is longer than 4096 bytes""#,
    Outcome::TooLong
)]
#[case::silent(
    &["connect", "read"],
    r#"{"version":1,"refused":"no request within 0.5 s""#,
    Outcome::Slow
)]
#[case::dripping(
    &["connect", "drip=20", "read"],
    r#"{"version":1,"refused":"no request within 0.5 s""#,
    Outcome::Slow
)]
fn peer_gets_one_answer(#[case] steps: &[&str], #[case] answer: &str, #[case] wanted: Outcome) {
    let Some((line, outcome)) = answer_to(steps) else {
        return;
    };
    assert!(line.starts_with(answer), "{line}");
    assert_eq!(outcome, wanted);
}

#[test]
fn nobody_says_who_they_are_but_the_kernel() {
    let Some(world) = world() else { return };
    let (seen, peers) = mpsc::channel();
    let served = Served::new(Kind::Enrol, generous(), move |request| {
        if let Request::Enrol { peer, answer } = request {
            let _ = seen.send(peer);
            let _ = answer.send(Answer::Refused(String::new()));
        }
    });
    let other = world.add_pod();
    let lie = format!(
        r#"send={{"version":1,"request":"enrol","pid":1,"cgroup":"{}","netns":"{}"}}\n"#,
        other.cgroup.path().display(),
        other.netns.path().display()
    );
    for pod in [&world.pod, &other] {
        let process = served.peer(pod, &["connect", &lie, "read", "wait"]);
        let peer = peers.recv_timeout(PATIENCE).expect("a request");
        assert_eq!(peer.pid.cast_unsigned(), process.pid());
        assert_eq!(peer.netns.cookie().ok(), Some(pod.netns.cookie()));
        let root = osm_tests::cgroup::root().expect("a hierarchy");
        assert_eq!(root.join(peer.cgroup), pod.app_cgroup().path());
    }
}

#[test]
fn process_of_the_node_is_no_pod() {
    let Some(world) = world() else { return };
    let served = Served::refusing(generous());
    let mut peer = peer_on_the_node(&served.socket, &["ask"]);
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(
        line.contains("own network namespace; interception there"),
        "{line}"
    );
    assert_eq!(served.outcome(), Outcome::NoPod);
    served.expect_served(&world.pod);
}

/// Its number may be another process's by the time that anybody looks.
#[test]
fn peer_that_is_over_is_nobody() {
    let Some(world) = world() else { return };
    let directory = TempDir::new();
    let socket = directory.path().join("agent.sock");
    let listening = Socket::listen(&Place::for_pods(&socket)).expect("a socket");
    let mut gone = peer(&socket, &world.pod, &["connect", ENROL, "orphan"]);
    assert!(gone.wait(PATIENCE).is_some_and(|status| status.success()));
    let served = Served::over(listening, Kind::Enrol, generous(), refuse);
    assert_eq!(served.outcome(), Outcome::Vanished);
    served.expect_served(&world.pod);
}

#[test]
fn pod_that_holds_connections_is_refused_more_and_others_are_served() {
    let Some(world) = world() else { return };
    let other = world.add_pod();
    let limits = Limits {
        request: PATIENCE,
        ..Limits::ENROL
    };
    let served = Served::refusing(limits);
    let steps = ["connect=9", "say=held", "wait", "leave", "wait", "ask"];
    let mut greedy = served.peer(&world.pod, &steps);
    assert_eq!(greedy.line(PATIENCE).as_deref(), Some("held"));
    assert_eq!(served.count(5, Outcome::PodFull), 5);
    served.expect_served(&other);
    assert_eq!(served.outcome(), Outcome::Answered);
    greedy.write("");
    assert_eq!(served.count(4, Outcome::Incomplete), 4);
    greedy.write("");
    // What it held is given back.
    assert_eq!(greedy.line(PATIENCE).as_deref(), Some(ANSWER));
}

#[test]
fn pod_that_floods_is_refused_and_others_are_served() {
    let Some(world) = world() else { return };
    let other = world.add_pod();
    let served = Served::refusing(Limits::ENROL);
    let mut flood = served.peer(&world.pod, &["ask=100", "wait"]);
    let answers: Vec<_> = (0..100).map_while(|_| flood.line(PATIENCE)).collect();
    assert_eq!(answers.len(), 100, "{}", flood.stderr());
    let refused = |line: &&String| line.contains("this pod asks too often");
    let refused = answers.iter().filter(refused).count();
    assert!(
        answers[..10].iter().all(|line| line == ANSWER),
        "{answers:?}"
    );
    assert!(refused >= 50, "{answers:?}");
    assert_eq!(served.count(100, Outcome::PodFlood), refused);
    served.expect_served(&other);
}

/// With user namespaces, any user makes network namespaces.
#[test]
fn namespaces_of_its_own_give_a_pod_no_more() {
    let Some(world) = world() else { return };
    let other = world.add_pod();
    let served = Served::refusing(Limits::ENROL);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            r#"echo 0 >"$0/cgroup.procs"; for _ in $(seq 40); do unshare --net "$@"; done"#,
        ])
        .arg(world.pod.app_cgroup().path())
        .arg(env!("CARGO_BIN_EXE_peer"))
        .arg(&served.socket)
        .arg("ask");
    let mut flood = Process::start("peers", command);
    assert!(flood.wait(PATIENCE).is_some_and(|status| status.success()));
    let refused = served.count(40, Outcome::PodFlood);
    assert!(refused >= 10, "{refused} of 40");
    served.expect_served(&other);
}

#[test]
fn all_pods_together_have_a_limit() {
    let Some(world) = world() else { return };
    let other = world.add_pod();
    let limits = Limits {
        connections: 1,
        request: PATIENCE,
        ..Limits::ENROL
    };
    let served = Served::refusing(limits);
    let mut first = served.peer(&world.pod, &["connect", "say=held", "wait"]);
    assert_eq!(first.line(PATIENCE).as_deref(), Some("held"));
    let mut second = served.peer(&other, &["ask"]);
    let line = second.line(PATIENCE).expect("an answer");
    assert!(line.contains("too many requests at once"), "{line}");
    assert_eq!(served.outcome(), Outcome::Full);
    let limits = Limits {
        rate: Rate {
            burst: 1,
            per_second: 0,
        },
        ..Limits::ENROL
    };
    let served = Served::refusing(limits);
    served.expect_served(&world.pod);
    let mut second = served.peer(&other, &["ask"]);
    let line = second.line(PATIENCE).expect("an answer");
    assert!(line.contains("too many requests at once"), "{line}");
    assert_eq!(served.outcome(), Outcome::Answered);
    assert_eq!(served.outcome(), Outcome::Flood);
}

#[test]
fn peer_that_leaves_or_never_reads_is_in_nobody_s_way() {
    let Some(world) = world() else { return };
    let served = Served::new(Kind::Enrol, generous(), |request| {
        thread::sleep(Duration::from_millis(300));
        refuse(request);
    });
    let mut leaving = served.peer(&world.pod, &["connect", ENROL, "leave", "say=left", "wait"]);
    assert_eq!(leaving.line(PATIENCE).as_deref(), Some("left"));
    assert_eq!(served.outcome(), Outcome::Left);
    let _deaf = served.peer(&world.pod, &["connect", ENROL, "wait"]);
    assert_eq!(served.outcome(), Outcome::Answered);
    served.expect_served(&world.pod);
}

#[test]
fn what_the_loop_has_not_seen_yet_counts_as_the_pod_s() {
    let Some(world) = world() else { return };
    let (hold, kept) = mpsc::channel();
    let limits = Limits {
        answer: Duration::from_millis(200),
        connections_of_pod: 2,
        ..generous()
    };
    let served = Served::new(Kind::Enrol, limits, move |request| {
        let _ = hold.send(request);
    });
    let mut peer = served.peer(&world.pod, &["ask=3", "wait", "ask"]);
    for _ in 0..2 {
        let line = peer.line(PATIENCE).expect("an answer");
        assert!(line.contains("did not get to it within 0.2 s"), "{line}");
        assert_eq!(served.outcome(), Outcome::Late);
    }
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(line.contains("too many requests on their way"), "{line}");
    assert_eq!(served.outcome(), Outcome::PodFull);
    for _ in 0..2 {
        refuse(kept.recv_timeout(PATIENCE).expect("a request"));
    }
    thread::sleep(Duration::from_millis(200));
    peer.write("");
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(line.contains("did not get to it"), "{line}");
}

#[test]
fn agent_whose_loop_is_gone_says_so() {
    let Some(world) = world() else { return };
    let served = Served::new(Kind::Enrol, generous(), drop);
    let mut peer = served.peer(&world.pod, &["ask"]);
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(line.contains("the agent is stopping"), "{line}");
    assert_eq!(served.outcome(), Outcome::Stopping);
}

#[test]
fn long_answer_fits_a_line() {
    let Some(world) = world() else { return };
    let served = Served::new(Kind::Enrol, generous(), |request| {
        if let Request::Enrol { answer, .. } = request {
            let _ = answer.send(Answer::Refused("\u{1f980}\"\n".repeat(10_000)));
        }
    });
    let mut peer = served.peer(&world.pod, &["ask"]);
    let line = peer.line(PATIENCE).expect("an answer");
    assert!(line.len() < 4096, "{}", line.len());
    assert!(line.ends_with("\"}"), "{line}");
}
