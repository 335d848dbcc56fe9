//! `osm-agent status`, asking a server of the agent's.

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use osm_agent::daemon::status::{Means, PodStatus, State, Status};
use rstest::rstest;
use serde_json::Value;

use crate::server::{Server, failed, pod, synced};

#[test]
fn table_has_problems_first() {
    let mut lists = intercepted_by("a/lists", Means::Iptables);
    lists.lists_problem = Some("port 0".into());
    let server = Server::start(synced(vec![
        intercepted_by("a/fine", Means::Iptables),
        pod("a/new", State::Waiting("no process yet".into())),
        lists,
        failed("a/broken-one", "no cgroup\u{1b}[2J"),
        pod("a/host", State::Refused("hostNetwork".into())),
    ]));
    let text = shown(&server.address.to_string(), &[]);
    let problems = text.find("PROBLEMS").expect("there are some");
    let table = text.find("POD ").expect("a table");
    assert!(problems < table, "{text}");
    for words in [
        "no cgroup [2J",
        "refused, the last good ones are in force: port 0",
    ] {
        let at = text
            .find(words)
            .unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(problems < at && at < table, "{text}");
    }
    let rows: Vec<Vec<&str>> = text[table..]
        .lines()
        .map(|line| line.split_whitespace().take(4).collect())
        .collect();
    assert_eq!(
        rows[1..6],
        [
            ["a/broken-one", "PROBLEM", "unknown", "-"],
            ["a/lists", "PROBLEM", "iptables", "-!"],
            ["a/host", "refused", "none", "-"],
            ["a/new", "waiting", "none", "-"],
            ["a/fine", "ok", "iptables", "-"],
        ]
    );
    let summary = "5 pods: 1 ok, 1 waiting, 1 left alone, 2 with problems.\n";
    assert!(text.ends_with(summary), "{text}");
}

#[test]
fn table_says_what_is_wrong_with_all_of_it() {
    let server = Server::start(Status {
        is_synced: false,
        mesh_problem: Some("mesh.yaml: port 0".into()),
        survey_problem: Some("Read-only file system".into()),
        pods: Vec::new(),
    });
    let text = shown(&format!("http://{}/", server.address), &[]);
    assert!(
        text.contains("The node agent runs: http://127.0.0.1:"),
        "{text}"
    );
    assert!(text.contains("sources of pods and configuration"), "{text}");
    assert!(text.contains("mesh.yaml: port 0"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.ends_with("\n0 pods.\n"), "{text}");
}

#[test]
fn names_and_problems_of_any_length_stay_within_a_hundred_columns() {
    let name = format!("{}/{}", "n".repeat(63), "p".repeat(253));
    let why = format!("{} {}", "word ".repeat(60), "w".repeat(300));
    let server = Server::start(synced(vec![
        failed(&name, &why),
        intercepted_by(&format!("{name}q"), Means::Iptables),
    ]));
    let address = server.address.to_string();
    for args in [&[][..], &["--pod", &name]] {
        let text = shown(&address, args);
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
    let text = shown(&address, &[]);
    assert!(text.contains("nnn…ppp"), "{text}");
    let json = shown(&address, &["-o", "json"]);
    assert!(json.contains(&format!("{name:?}")), "{json}");
}

#[test]
fn json_and_yaml_hold_the_same() {
    let mut lists = intercepted_by("a/lists", Means::Iptables);
    lists.lists_problem = Some("port 0".into());
    let server = Server::start(synced(vec![
        lists,
        failed("a/b: c", "no 'cgroup'\n- x: \"y\""),
    ]));
    let address = server.address.to_string();
    let json: Value = serde_json::from_str(&shown(&address, &["-o", "json"])).expect("JSON");
    let yaml: Value = serde_saphyr::from_str(&shown(&address, &["-o", "yaml"])).expect("YAML");
    assert_eq!(json, yaml);
    assert_eq!(json["version"], 1);
    assert_eq!(json["agent"]["is_running"], true);
    assert_eq!(json["agent"]["is_synced"], true);
    let [first, second] = [&json["pods"][0], &json["pods"][1]];
    assert_eq!(first["name"], "a/b: c");
    assert_eq!(first["state"], "failed");
    assert_eq!(first["mode"], "unknown");
    assert_eq!(first["detail"], "no 'cgroup' - x: \"y\"");
    assert_eq!(second["mode"], "iptables");
    assert_eq!(second["lists_problem"], "port 0");
    assert_eq!(second["policy"], Value::Null);
    assert!(second["problems"][0]["todo"].is_string());
}

#[test]
fn pod_that_the_agent_says_is_pinned_and_is_not_is_a_problem() {
    let server = Server::start(synced(vec![intercepted_by("a/lost", Means::Ebpf)]));
    let text = shown(&server.address.to_string(), &[]);
    assert!(
        text.contains("nothing of it is pinned in /nonexistent"),
        "{text}"
    );
    assert!(text.contains("--state-dir"), "{text}");
}

#[test]
fn problems_fail_it_only_where_that_is_asked_for() {
    let fine = Server::start(synced(vec![intercepted_by("a/fine", Means::Iptables)]));
    let bad = Server::start(synced(vec![failed("a/bad", "no cgroup")]));
    for (server, args, code) in [
        (&fine, &[][..], 0),
        (&fine, &["--fail-on-problems"], 0),
        (&bad, &[], 0),
        (&bad, &["--fail-on-problems"], 1),
    ] {
        let output = status(&server.address.to_string(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?} {output:?}");
    }
}

#[test]
fn pod_that_nobody_knows_is_wrong_usage() {
    let server = Server::start(synced(vec![intercepted_by("a/fine", Means::Iptables)]));
    let address = server.address.to_string();
    assert!(shown(&address, &["--pod", "a/fine"]).contains("iptables"));
    let output = status(&address, &["--pod", "a/other"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("osm-agent: --pod a/other: "), "{error}");
}

#[test]
fn agent_that_is_not_there_is_told_and_is_no_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let text = shown(&address, &["--fail-on-problems"]);
    let first = text.lines().next().expect("a line");
    assert!(
        first.starts_with(&format!("No node agent at http://{address}")),
        "{text}"
    );
    assert!(text.contains("--agent-url"), "{text}");
    let json: Value = serde_json::from_str(&shown(&address, &["-o", "json"])).expect("JSON");
    assert_eq!(json["agent"]["is_running"], false);
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[rstest]
#[case::another_protocol("220 mail ESMTP\r\n", "does not speak HTTP")]
#[case::another_server("HTTP/1.1 404 Not Found\r\n\r\n", "404")]
#[case::nothing("", "does not speak HTTP")]
#[case::another_document("HTTP/1.1 200 OK\r\n\r\n<html>", "understood")]
fn somebody_else_on_the_port_is_a_problem(#[case] answer: &'static str, #[case] words: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 1024];
        let _ = std::io::Read::read(&mut stream, &mut request);
        let _ = stream.write_all(answer.as_bytes());
    });
    let output = status(&address, &["--fail-on-problems"]);
    server.join().expect("the server ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text.contains("is no node agent") && text.contains(words),
        "{text}"
    );
    assert!(text.contains("--agent-url"), "{text}");
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

fn intercepted_by(name: &str, means: Means) -> PodStatus {
    pod(name, State::Intercepted(means))
}

#[track_caller]
fn shown(address: &str, args: &[&str]) -> String {
    let output = status(address, args);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    text
}

fn status(url: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osm-agent"))
        .args(["status", "--state-dir", "/nonexistent", "--agent-url", url])
        .args(args)
        .output()
        .expect("it runs")
}
