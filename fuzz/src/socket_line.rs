//! What comes over the agent's two Unix sockets, and what a stranger there answers to clients.

use std::fmt::Debug;

use osm_agent::{
    fuzzed,
    protocol::{
        self, MAX_LINE, VERSION,
        cni::{self, Readiness},
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads it as every message: what is one is the same when it is written and read again, and
/// what is none is answered with one line.
pub fn run(input: &[u8]) {
    reread::<protocol::Request>(input);
    reread::<protocol::Response>(input);
    reread::<cni::Request>(input);
    reread::<cni::Response>(input);
    reread::<Readiness>(input);
    let [to_enrol, to_cni] = fuzzed::refusals(input);
    if let Some(line) = to_enrol {
        let response: protocol::Response = response(&line);
        let protocol::Answer::Refused(text) = response.answer else {
            panic!("{response:?}");
        };
        assert!(!text.is_empty() && !text.contains(char::is_control));
    }
    if let Some(line) = to_cni {
        let response: cni::Response = response(&line);
        let (cni::Answer::Refused(text) | cni::Answer::Retry(text)) = response.answer else {
            panic!("{response:?}");
        };
        assert!(!text.is_empty() && !text.contains(char::is_control));
    }
}

fn reread<T: DeserializeOwned + Serialize + PartialEq + Debug>(input: &[u8]) {
    let Ok(message) = protocol::parse::<T>(input) else {
        return;
    };
    assert!(input.len() as u64 >= 2 && input.contains(&b'\n'));
    let mut line = Vec::new();
    protocol::write_line(&mut line, &message).expect("a vector takes it");
    // Written anew it may be longer: a byte of a text that is no character takes three.
    if line.len() as u64 <= MAX_LINE {
        let again: T = protocol::parse(&line).expect("it was written by us");
        assert_eq!(again, message);
    }
}

fn response<T: DeserializeOwned>(line: &[u8]) -> T {
    assert!(line.len() as u64 <= MAX_LINE, "{} bytes", line.len());
    assert_eq!(
        line.iter().position(|byte| *byte == b'\n'),
        Some(line.len() - 1)
    );
    let version: serde_json::Value = serde_json::from_slice(line).expect("JSON");
    assert_eq!(version["version"], VERSION);
    protocol::parse(line).expect("a response of ours")
}
