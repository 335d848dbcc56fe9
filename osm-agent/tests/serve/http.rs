//! What HTTP says, and whom it serves.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use osm_agent::daemon::{
    serve::heartbeat::Heartbeat,
    status::{State, Status},
};
use rstest::rstest;

use crate::server::{HANG, Server, failed, intercepted, pod, synced};

#[test]
fn health_of_a_loop_that_makes_progress_is_ok() {
    let server = Server::start(Status::default());
    let answer = server.get("/healthz");
    assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"));
}

#[test]
fn health_of_a_loop_that_is_stuck_is_unavailable_until_it_goes_on() {
    let heartbeat = Heartbeat::with_limit(Duration::from_millis(300));
    let server = Server::start_with(synced(Vec::new()), heartbeat);
    until(|| server.get("/healthz").code == 503);
    let answer = server.get("/healthz");
    assert!(answer.body.contains("made no progress"), "{answer:?}");
    // What it said before it stuck is not what there is.
    assert_eq!(server.get("/readyz").code, 503);
    until(|| {
        server.heartbeat.beat();
        server.get("/healthz").code == 200
    });
}

#[rstest]
#[case::nobody(synced(vec![]))]
#[case::verified(synced(vec![intercepted("a/b")]))]
#[case::not_started(synced(vec![pod("a/b", State::Waiting("no process yet".into()))]))]
#[case::not_to_be(synced(vec![pod("a/b", State::Refused("hostNetwork".into()))]))]
#[case::last_good_lists(Status { mesh_problem: Some("port 0".into()), ..synced(vec![]) })]
fn readiness_is_ok(#[case] status: Status) {
    let server = Server::start(status);
    let answer = server.get("/readyz");
    assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"));
}

#[test]
fn readiness_while_pods_can_not_be_looked_at_is_unavailable() {
    let server = Server::start(Status {
        survey_problem: Some("Read-only file system".into()),
        ..synced(vec![intercepted("a/b")])
    });
    let answer = server.get("/readyz");
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("Read-only"), "{answer:?}");
}

#[test]
fn readiness_before_all_sources_spoke_is_unavailable() {
    let server = Server::start(Status {
        is_synced: false,
        ..synced(vec![intercepted("a/b")])
    });
    let answer = server.get("/readyz");
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("sources"), "{answer:?}");
}

#[test]
fn readiness_with_failed_pods_names_them_and_why() {
    let server = Server::start(synced(vec![
        failed("a/one", "no cgroup"),
        intercepted("a/two"),
        failed("a/three", "first\nsecond"),
    ]));
    let answer = server.get("/readyz");
    assert_eq!(answer.code, 503);
    assert_eq!(answer.body, "a/one: no cgroup\na/three: first second\n");
    server
        .status
        .send_replace(synced(vec![intercepted("a/one")]));
    assert_eq!(server.get("/readyz").code, 200);
}

#[rstest]
#[case::as_many_as_fit(20, 20, "a/19: no cgroup")]
#[case::one_too_many(21, 20, "and 2 more; see /status")]
#[case::many(250, 20, "and 231 more; see /status")]
fn readiness_with_many_failed_pods_is_not_endless(
    #[case] pods: usize,
    #[case] lines: usize,
    #[case] last: &str,
) {
    let pods = (0..pods).map(|n| failed(&format!("a/{n}"), "no cgroup"));
    let server = Server::start(synced(pods.collect()));
    let answer = server.get("/readyz");
    assert_eq!(answer.body.lines().count(), lines, "{answer:?}");
    assert_eq!(answer.body.lines().last(), Some(last));
}

#[test]
fn status_is_json_of_all_that_is_known() {
    let mut status = synced(vec![
        failed("a/one", "no \"cgroup\""),
        intercepted("a/two"),
        pod("a/three", State::Waiting("starts".into())),
        pod("a/four", State::Refused("hostNetwork".into())),
    ]);
    status.pods[1].lists_problem = Some("port 0".into());
    status.mesh_problem = Some("bad".into());
    let server = Server::start(status.clone());
    let answer = server.get("/status");
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: application/json"));
    let read: Status = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(read, status);
    let value: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(value["pods"][1]["state"], "intercepted");
    assert_eq!(value["pods"][1]["detail"], "ebpf");
}

#[test]
fn metrics_come_with_their_type() {
    let server = Server::start(Status::default());
    let answer = server.get("/metrics");
    assert_eq!(answer.code, 200);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{answer:?}");
    // What is measured of the process differs every time.
    let lines = server.metrics.text().lines().count();
    assert_eq!(answer.body.lines().count(), lines, "{answer:?}");
    assert!(answer.body.ends_with("\n# EOF\n"), "{answer:?}");
}

#[rstest]
#[case::unknown("GET / HTTP/1.1", 404)]
#[case::below("GET /status/a HTTP/1.1", 404)]
#[case::writing("POST /status HTTP/1.1", 405)]
#[case::removing("DELETE /metrics HTTP/1.1", 405)]
#[case::head("HEAD /healthz HTTP/1.1", 200)]
#[case::old("GET /healthz HTTP/1.0", 200)]
#[case::odd("hello", 400)]
fn request_is_answered_with_its_code(#[case] line: &str, #[case] code: u16) {
    let server = Server::start(Status::default());
    let answer = server.ask(&format!("{line}\r\nHost: agent\r\n\r\n"));
    assert_eq!(answer.code, code, "{answer:?}");
    if line != "GET /healthz HTTP/1.0" {
        assert_eq!(answer.body, "");
    }
}

#[test]
fn request_without_end_is_refused() {
    let server = Server::start(Status::default());
    let mut stream = server.connect();
    // It may close before it has read all of it.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\n");
    let _ = stream.write_all(format!("X: {}\r\n", "a".repeat(20_000)).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("200 OK"), "{answer}");
    assert_eq!(server.get("/healthz").code, 200);
}

#[test]
fn slow_clients_keep_nobody_out() {
    let server = Server::start(Status::default());
    let mut slow: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for stream in &mut slow {
        // The first ones are closed already.
        let _ = stream.write_all(b"GET /healthz HTT");
    }
    assert_eq!(server.get("/healthz").code, 200);
    let is_open = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).expect("a socket");
        let read = stream.read(&mut [0; 64]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let open = slow.iter().filter(|stream| is_open(stream)).count();
    assert!((1..=32).contains(&open), "{open} are open still");
}

#[test]
fn client_that_sends_nothing_is_cut_off() {
    let server = Server::start(Status::default());
    let mut stream = server.connect();
    let read = stream.read(&mut [0; 64]).expect("closed within the limit");
    assert_eq!(read, 0);
}

#[test]
fn client_that_drips_is_cut_off() {
    let server = Server::start(Status::default());
    let mut stream = server.connect();
    let since = Instant::now();
    let request = b"GET /healthz HTTP/1.1\r\nX: "
        .iter()
        .chain([b'a'; 200].iter());
    for byte in request {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        assert!(since.elapsed() < HANG, "it reads for ever");
        thread::sleep(Duration::from_millis(100));
    }
    panic!("it has read all of it");
}

/// Waits for it to come true.
#[track_caller]
fn until(mut is_true: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_true() {
        assert!(since.elapsed() < HANG, "it never came true");
        thread::sleep(Duration::from_millis(10));
    }
}
