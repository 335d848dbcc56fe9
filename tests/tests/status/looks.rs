//! Again and again, in colours, and where nobody reads it.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;
use osm_tests::{Need, agent, missing, node::PATIENCE};
use rstest::rstest;

use crate::{LISTS, NOBODY, mesh::Mesh};

#[rstest]
fn watching_shows_it_again_until_told_to_end(#[values("table", "json", "yaml")] format: &str) {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let state = mesh.agent.state().path().display().to_string();
    let mut watching = mesh.agent.start(&[
        "status",
        "--watch",
        "1",
        "-o",
        format,
        "--agent-url",
        NOBODY,
        "--state-dir",
        &state,
    ]);
    let mark = match format {
        "table" => "1 pods: ",
        "json" => "}",
        _ => "---",
    };
    let mut seen = 0;
    while seen < 3 {
        let line = watching.line(PATIENCE).expect("it goes on");
        seen += usize::from(line.starts_with(mark));
    }
    watching.signal(Signal::SIGINT);
    let status = watching.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    if missing(&[Need::Program("script")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let binary = agent::binary().expect("the agent");
    let state = mesh.agent.state().path().display();
    let command = format!(
        "{} status --agent-url {NOBODY} --state-dir {state}",
        binary.display()
    );
    for (variables, has_colours) in [
        (&[][..], true),
        (&[("NO_COLOR", "1")][..], false),
        (&[("TERM", "dumb")][..], false),
    ] {
        let mut script = Command::new("script");
        script
            .args(["-qec", &command, "/dev/null"])
            .env_remove("NO_COLOR");
        script.env("TERM", "xterm").envs(variables.iter().copied());
        let output = script.output().expect("script runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("does not listen"), "{text}");
        assert_eq!(
            text.contains('\u{1b}'),
            has_colours,
            "{variables:?} {text:?}"
        );
    }
}

#[test]
fn watching_ends_where_nobody_reads_it() {
    let Some(mesh) = Mesh::new() else { return };
    let mut command = Command::new(agent::binary().expect("the agent"));
    let state = mesh.agent.state().path();
    command.args([
        "status",
        "--watch",
        "1",
        "--agent-url",
        NOBODY,
        "--state-dir",
    ]);
    let mut child = command
        .arg(state)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("our child");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}
