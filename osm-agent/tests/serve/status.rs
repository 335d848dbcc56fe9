//! `osm-agent status`, asking a server of the agent's.

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use osm_agent::daemon::status::{State, Status};
use rstest::rstest;

use crate::server::{Server, failed, intercepted, pod, synced};

#[test]
fn table_has_problems_first() {
    let mut lists = intercepted("a/lists");
    lists.lists_problem = Some("port 0".into());
    let server = Server::start(synced(vec![
        intercepted("a/fine"),
        pod("a/new", State::Waiting("no process yet".into())),
        lists,
        failed("a/broken-one", "no cgroup\u{1b}[2J"),
        pod("a/host", State::Refused("hostNetwork".into())),
    ]));
    let output = status(&server.address.to_string(), &[]);
    assert!(output.status.success(), "{output:?}");
    let expected = "\
POD           STATE        DETAIL
a/broken-one  failed       no cgroup [2J
a/lists       intercepted  by ebpf; last good lists: port 0
a/host        refused      hostNetwork
a/new         waiting      no process yet
a/fine        intercepted  by ebpf
5 pods: 2 intercepted, 1 waiting, 1 failed, 1 refused.
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn table_says_what_is_wrong_with_all_of_it() {
    let server = Server::start(Status {
        is_synced: false,
        mesh_problem: Some("mesh.yaml: port 0".into()),
        pods: Vec::new(),
    });
    let output = status(&format!("http://{}/", server.address), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("sources"), "{text}");
    assert!(lines[1].contains("mesh.yaml: port 0"), "{text}");
    assert_eq!(lines[2], "0 pods: 0 intercepted.");
}

#[test]
fn json_is_what_the_agent_says() {
    let said = synced(vec![intercepted("a/fine"), failed("a/b", "no cgroup")]);
    let server = Server::start(said.clone());
    let output = status(&server.address.to_string(), &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let read: Status = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(read, said);
}

#[test]
fn agent_that_is_not_there_is_told_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let error = refused(&address);
    assert!(error.contains(&address), "{error}");
    assert!(error.contains("--agent-url"), "{error}");
}

#[rstest]
#[case::another_protocol("220 mail ESMTP\r\n", "does not speak HTTP")]
#[case::another_server("HTTP/1.1 404 Not Found\r\n\r\n", "404")]
#[case::nothing("", "does not speak HTTP")]
#[case::another_document("HTTP/1.1 200 OK\r\n\r\n<html>", "understand")]
fn somebody_else_on_the_port_is_told(#[case] answer: &'static str, #[case] words: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 1024];
        let _ = std::io::Read::read(&mut stream, &mut request);
        let _ = stream.write_all(answer.as_bytes());
    });
    let error = refused(&address);
    server.join().expect("the server ends");
    assert!(error.contains(words), "{error}");
}

#[rstest]
#[case::encrypted("https://127.0.0.1:1")]
#[case::no_port("127.0.0.1")]
#[case::path("http://127.0.0.1:1/status")]
#[case::user("http://a@127.0.0.1:1")]
fn url_that_is_none_is_wrong_usage(#[case] url: &str) {
    let output = status(url, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[track_caller]
fn refused(address: &str) -> String {
    let output = status(address, &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("osm-agent: "), "{error}");
    error
}

fn status(url: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osm-agent"))
        .args(["status", "--agent-url", url])
        .args(args)
        .output()
        .expect("it runs")
}
