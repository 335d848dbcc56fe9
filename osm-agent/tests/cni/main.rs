//! What the CNI plugin says of its versions, and of what is wrong with its input.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use osm_agent::cni::{Ended, SUPPORTED, run};
use rstest::rstest;
use serde_json::{Value, json};

/// What a runtime sets; `None` takes a variable away.
fn call(changes: &[(&str, Option<&str>)], input: &str) -> Ended {
    let usual = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "4f1c"),
        ("CNI_NETNS", "/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
    ];
    let look_up = |name: &str| {
        let other = changes.iter().find(|(key, _)| *key == name);
        let usual = || usual.iter().find(|(key, _)| *key == name);
        match other {
            Some((_, value)) => value.map(OsString::from),
            None => usual().map(|(_, value)| OsString::from(value)),
        }
    };
    run(&look_up, input.as_bytes())
}

fn configuration(changes: &Value) -> String {
    let mut configuration = json!({
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "osm-cni",
        "agentSocket": "/nonexistent/agent.sock",
        "prevResult": { "ips": [] },
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        configuration[key] = value.clone();
    }
    configuration.to_string()
}

fn output(ended: &Ended) -> Value {
    let output = ended.output.as_deref().expect("an output");
    serde_json::from_str(output).expect("JSON")
}

#[track_caller]
fn expect_failure(ended: &Ended, code: u32, words: &str) {
    let output = output(ended);
    assert!(ended.failure.is_some(), "{output}");
    assert_eq!(output["code"], code, "{output}");
    let message = output["msg"].as_str().expect("a message");
    assert!(message.contains(words), "{words:?} is not in {message:?}");
    assert!(!output["details"].as_str().expect("details").is_empty());
}

#[rstest]
#[case(&[("CNI_COMMAND", None)], 4, "CNI_COMMAND is not set")]
#[case(&[("CNI_COMMAND", Some("add"))], 4, "CNI_COMMAND is \"add\", which is none of ADD, DEL")]
#[case(&[("CNI_CONTAINERID", None)], 4, "CNI_CONTAINERID is not set")]
#[case(&[("CNI_CONTAINERID", Some(""))], 4, "CNI_CONTAINERID is not set")]
#[case(&[("CNI_CONTAINERID", Some("../x"))], 4, "CNI_CONTAINERID is \"../x\"")]
#[case(&[("CNI_NETNS", None)], 4, "CNI_NETNS is not set")]
#[case(&[("CNI_IFNAME", None)], 4, "CNI_IFNAME is not set")]
#[case(&[("CNI_IFNAME", Some("an/interface"))], 4, "CNI_IFNAME is \"an/interface\"")]
#[case(&[("CNI_IFNAME", Some("interface-of-16c"))], 4, "CNI_IFNAME is")]
#[case(&[("CNI_ARGS", Some("K8S_POD_NAME"))], 4, "CNI_ARGS has the item \"K8S_POD_NAME\"")]
#[case(&[("CNI_ARGS", Some("K8S_POD_NAME=web-0"))], 4, "CNI_ARGS has only one of")]
#[case(&[("CNI_COMMAND", Some("CHECK")), ("CNI_NETNS", None)], 4, "CNI_NETNS is not set")]
#[case(&[("CNI_COMMAND", Some("DEL")), ("CNI_CONTAINERID", None)], 4, "CNI_CONTAINERID")]
fn wrong_environment_is_named(
    #[case] changes: &[(&str, Option<&str>)],
    #[case] code: u32,
    #[case] words: &str,
) {
    expect_failure(&call(changes, &configuration(&json!({}))), code, words);
}

#[rstest]
#[case("", 6, "is no JSON")]
#[case("{\"cniVersion\":", 6, "is no JSON")]
#[case(&configuration(&json!({ "name": null })), 7, "it has no name")]
#[case(&configuration(&json!({ "name": "" })), 7, "it has no name")]
#[case(&configuration(&json!({ "prevResult": null })), 7, "has no prevResult")]
#[case(&configuration(&json!({ "agentSocket": "agent.sock" })), 7, "agentSocket is agent.sock")]
#[case(&configuration(&json!({ "agentSocket": 7 })), 7, "a value of the wrong kind")]
#[case(&configuration(&json!({ "timeoutSeconds": 0 })), 7, "timeoutSeconds is 0")]
#[case(&configuration(&json!({ "timeoutSeconds": 601 })), 7, "timeoutSeconds is 601")]
#[case(&configuration(&json!({ "cniVersion": null })), 1, "incompatible CNI version \"0.1.0\"")]
#[case(&configuration(&json!({ "cniVersion": "0.2.0" })), 1, "incompatible CNI version \"0.2.0\"")]
#[case(&configuration(&json!({ "cniVersion": "2.0.0" })), 1, "incompatible CNI version \"2.0.0\"")]
fn wrong_configuration_is_named(#[case] input: &str, #[case] code: u32, #[case] words: &str) {
    expect_failure(&call(&[], input), code, words);
}

#[test]
fn commands_are_those_of_the_version() {
    for (command, since) in [
        ("ADD", 0),
        ("DEL", 0),
        ("CHECK", 2),
        ("STATUS", 4),
        ("GC", 4),
    ] {
        for (at, version) in SUPPORTED.into_iter().enumerate() {
            let input = configuration(&json!({ "cniVersion": version }));
            let ended = call(&[("CNI_COMMAND", Some(command))], &input);
            let code = ended.failure.map_or(0, |failure| failure.code as u32);
            assert_eq!(code == 1, at < since, "{command} {version}: {code}");
        }
    }
}

#[test]
fn versions_are_told_without_an_agent_and_without_a_configuration() {
    let ask = |input: &str| output(&call(&[("CNI_COMMAND", Some("VERSION"))], input));
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("", "1.1.0")] {
        let told = ask(input);
        assert_eq!(
            told,
            json!({ "cniVersion": version, "supportedVersions": supported })
        );
    }
}

#[test]
fn errors_are_of_the_configuration_s_version() {
    let input = configuration(&json!({ "cniVersion": "0.4.0", "prevResult": null }));
    assert_eq!(output(&call(&[], &input))["cniVersion"], "0.4.0");
}

#[test]
fn result_without_a_version_gets_the_configuration_s() {
    let ended = call(&[], &configuration(&json!({ "cniVersion": "0.3.1" })));
    assert_eq!(output(&ended), json!({ "cniVersion": "0.3.1", "ips": [] }));
}

#[test]
fn nothing_but_its_own_id_keeps_a_container_from_being_deleted() {
    for args in ["K8S_POD_NAME", "K8S_POD_NAME=web-0", ";;"] {
        let changes = [
            ("CNI_COMMAND", Some("DEL")),
            ("CNI_NETNS", None),
            ("CNI_ARGS", Some(args)),
        ];
        let ended = call(&changes, &configuration(&json!({ "prevResult": null })));
        assert_eq!((ended.failure, ended.output), (None, None), "{args}");
    }
}

#[test]
fn variables_that_are_no_text_are_named() {
    let odd = |name: &str| {
        Some(match name {
            "CNI_COMMAND" => "ADD".into(),
            _ => OsString::from_vec(vec![0xff, 0xfe]),
        })
    };
    let ended = run(&odd, configuration(&json!({})).as_bytes());
    expect_failure(&ended, 4, "CNI_CONTAINERID is no text");
}
