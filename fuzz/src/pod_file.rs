//! A file of the directory of pods.

use osm_agent::{config::Lists, fuzzed, pod::check_name};

use super::check_message;

/// Reads it: names and paths are such as the rest of the agent can take.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (spec, doubts) = match fuzzed::pod_file(&text, "web.yaml") {
        Ok(read) => read,
        Err(error) => return check_message(&error.to_string(), "web.yaml: "),
    };
    assert!(check_name(&spec.name).is_ok(), "{spec:?}");
    assert_eq!(spec.name.matches('/').count(), 1, "{spec:?}");
    assert!(spec.uid.is_some() || spec.cgroup.is_some(), "{spec:?}");
    let texts = [Some(&spec.name), spec.uid.as_ref()];
    for text in texts.into_iter().flatten() {
        assert!(text.chars().all(|c| c.is_ascii_graphic()), "{spec:?}");
    }
    assert!(
        spec.netns.as_ref().is_none_or(|path| path.is_absolute()),
        "{spec:?}"
    );
    for doubt in &doubts {
        check_message(doubt, "web.yaml: the annotation ");
    }
    if let Err(error) = Lists::from_annotations(&spec.annotations) {
        check_message(&error.to_string(), "annotation ");
    }
}
