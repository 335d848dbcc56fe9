//! What `osm-agent run` takes and refuses before it does anything.

use std::process::{Command, Output};

use rstest::rstest;

#[rstest]
#[case::two_sources(&["--kubernetes", "--node-name", "n", "--pods", "/p"], "--pods")]
#[case::two_configurations(&["--kubernetes", "--node-name", "n", "--config", "/c"], "--mesh-config-name")]
#[case::no_node(&["--kubernetes"], "--node-name")]
#[case::empty_node(&["--kubernetes", "--node-name", ""], "--node-name")]
#[case::nobody_to_ask(&["--no-agent-socket", "--no-cni-socket"], "--pods")]
#[case::socket_and_none(&["--agent-socket", "/s", "--no-agent-socket"], "--no-agent-socket")]
#[case::mode_of_no_socket(&["--agent-socket-mode", "0600", "--no-agent-socket"], "--no-agent-socket")]
#[case::cni_and_none(&["--cni-socket", "/s", "--no-cni-socket"], "--no-cni-socket")]
#[case::listen_and_none(&["--listen", "127.0.0.1:1", "--no-listen"], "--no-listen")]
#[case::mode_not_octal(&["--agent-socket-mode", "0668"], "octal")]
#[case::mode_with_more(&["--agent-socket-mode", "4666"], "octal")]
#[case::owner_by_name(&["--agent-socket-owner", "root:root"], "numbers")]
#[case::owner_without_group(&["--agent-socket-owner", "0"], "numbers")]
#[case::no_resync(&["--resync", "0"], "1..=86400")]
#[case::listen_by_name(&["--listen", "localhost:80"], "--listen")]
#[case::level_that_is_none(&["--log", "inof"], "expected a level")]
#[case::level_for_modules_only(&["--log", "kube=debug"], "expected a level")]
#[case::format_that_is_none(&["--log-format", "xml"], "--log-format")]
fn usage_that_is_wrong_is_status_2_and_says_what(#[case] args: &[&str], #[case] words: &str) {
    let output = run(args, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
    assert_eq!(output.stdout, b"");
}

#[rstest]
#[case::two_sources(&[("OSM_KUBERNETES", "1"), ("OSM_NODE_NAME", "n"), ("OSM_PODS", "/p")], "OSM_PODS")]
#[case::no_node(&[("OSM_KUBERNETES", "true"), ("OSM_NODE_NAME", "")], "OSM_NODE_NAME")]
#[case::socket_mode(&[("OSM_AGENT_SOCKET_MODE", "9")], "octal")]
#[case::resync(&[("OSM_RESYNC", "soon")], "--resync")]
#[case::listen(&[("OSM_LISTEN", "15905")], "--listen")]
#[case::log(&[("OSM_LOG", "verbose")], "--log")]
#[case::log_format(&[("OSM_LOG_FORMAT", "xml")], "--log-format")]
fn variables_count_as_flags_do(#[case] variables: &[(&str, &str)], #[case] words: &str) {
    let output = run(&[], variables);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(words), "{stderr}");
}

#[test]
fn variable_that_turns_the_api_server_off_is_no_second_source() {
    let off = [("OSM_KUBERNETES", "false"), ("OSM_PODS", "/p")];
    // Something else is wrong, and is what it complains about.
    let output = run(&["--no-agent-socket", "--listen", "odd"], &off);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("kubernetes"), "{stderr}");
}

#[test]
fn help_explains_with_examples_and_variables() {
    let output = run(&["--help"], &[]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for words in [
        "Examples:",
        "Exit status:",
        "SIGTERM",
        "/readyz",
        "[env: OSM_PODS",
        "[env: OSM_LOG",
        "[default: 127.0.0.1:15905]",
        "[default: /run/osm/agent.sock]",
        "[default: osm-system]",
        "stay intercepted",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let longest = text.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "a line of {longest:?} characters");
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osm-agent"))
        .arg("run")
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        // What is not refused must not run: no state can be there.
        .env("OSM_STATE_DIR", "/dev/null/osm")
        .output()
        .expect("it runs")
}
