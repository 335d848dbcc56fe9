//! What a container runtime says to the CNI plugin: variables, a line each, then an empty line
//! and the network configuration.

use std::{collections::HashMap, ffi::OsString};

use osm_agent::cni::{self, Code};
use serde_json::{Map, Value};

/// Nobody listens there: the plugin is alone, whatever the configuration says.
const NOWHERE: &str = "/proc/no/agent.sock";

/// Runs the plugin: it ends with a result or an error as the specification has them.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (variables, configuration) = text.split_once("\n\n").unwrap_or((&text, ""));
    let variables: HashMap<&str, &str> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let environment = |name: &str| variables.get(name).map(OsString::from);
    let ended = cni::run(&environment, alone(configuration).as_bytes());
    if let Some(failure) = &ended.failure {
        let output = ended.output.as_deref().expect("an error is shown");
        let shown: Value = serde_json::from_str(output).expect("JSON");
        assert_eq!(shown["code"], failure.code as u32);
        assert!(shown["cniVersion"].is_string() && !failure.message.is_empty());
        assert_ne!(failure.code, Code::Refused, "nobody has refused");
        return;
    }
    match (variables.get("CNI_COMMAND"), &ended.output) {
        (Some(&"ADD"), Some(output)) => check_passed_on(configuration, output),
        (Some(&"VERSION"), Some(output)) => {
            let shown: Value = serde_json::from_str(output).expect("JSON");
            let versions = shown["supportedVersions"].as_array().map(Vec::len);
            assert_eq!(versions, Some(cni::SUPPORTED.len()));
        }
        (Some(&("DEL" | "GC")), None) => {}
        // Without a pod there is nothing to be held up.
        (Some(&"CHECK"), None) => assert!(!variables.contains_key("K8S_POD_NAME")),
        other => panic!("{other:?}"),
    }
}

/// The configuration with nobody to ask. What is no object stays as it is.
fn alone(configuration: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(configuration) {
        Ok(mut members) if members.contains_key("agentSocket") || members.len() > 1 => {
            // What is of the wrong kind is for the plugin to say.
            if members.get("agentSocket").is_none_or(Value::is_string) {
                members.insert("agentSocket".into(), NOWHERE.into());
            }
            Value::Object(members).to_string()
        }
        _ => configuration.to_owned(),
    }
}

/// The result of the plugins before is passed on, with its version said.
fn check_passed_on(configuration: &str, output: &str) {
    let configuration: Value = serde_json::from_str(configuration).expect("it was taken");
    let mut output: Value = serde_json::from_str(output).expect("JSON");
    let mut before = configuration["prevResult"].clone();
    for result in [&mut output, &mut before] {
        if let Some(members) = result.as_object_mut() {
            members.remove("cniVersion");
        }
    }
    assert_eq!(output, before);
}
