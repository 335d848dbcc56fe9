//! Which events are shown.

use std::{process::Command, time::Duration};

use osm_tests::{Dial, Need, World, agent, missing, process::Process};
use serde_json::Value;

use crate::{EXCLUDED, LISTS, OWN, PATIENCE, REMOTE, Watch, mesh::Mesh, quiet_sidecar};

#[test]
fn filters_leave_what_fits_all_of_them() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let World { pod, outside, .. } = &mesh.world;
    let second = mesh.world.add_pod();
    let _ = mesh.agent.attach(&second).run().succeeded();
    let _sidecar = quiet_sidecar(pod);
    let _remote = outside.server("remote", &[REMOTE, EXCLUDED]);
    let mut clients = [pod.app(), pod.sidecar_client(), second.app()];
    let mut client = outside.client();
    let all = [
        "redirect-outbound",
        "pass-excluded-range",
        "pass-sidecar",
        "pass-sidecar",
        "redirect-outbound",
        "refuse-no-outbound-listener",
        "redirect-outbound",
        "refuse-no-outbound-listener",
        "redirect-inbound",
    ];
    let cases: [(&[&str], Vec<&str>); 9] = [
        (&[], all.to_vec()),
        (&["--pod", pod.name()], [&all[..4], &all[8..]].concat()),
        (
            &["--pod", second.name(), "--verdict", "redirect"],
            vec![all[0]; 2],
        ),
        (
            &["--reason", "pass-sidecar,redirect-inbound"],
            vec![all[2], all[2], all[8]],
        ),
        (&["--verdict", "pass"], all[1..4].to_vec()),
        (
            &["--verdict", "redirect,refuse", "--port", "8080"],
            vec![all[8]],
        ),
        (&["--uid", "1500"], vec![all[2]; 2]),
        // Nobody of the pod makes an inbound connection: not root either.
        (&["--uid", "0"], vec![]),
        (&["--count", "2"], all[..2].to_vec()),
    ];
    for (flags, wanted) in cases {
        let mut watch = Watch::start(&mesh, flags);
        for client in &mut clients {
            for to in [REMOTE, EXCLUDED] {
                let _ = client.connect(Dial::to(to).no_greeting());
            }
        }
        let _ = client.connect(Dial::to(OWN).no_greeting());
        let lines = if flags.contains(&"--count") {
            of_one_that_ends(&mut watch)
        } else {
            watch.end().0
        };
        let reasons = lines.iter().map(|event| event["reason"].as_str());
        let reasons: Vec<_> = reasons.collect();
        let wanted: Vec<_> = wanted.into_iter().map(Some).collect();
        assert_eq!(reasons, wanted, "{flags:?}");
    }
}

/// What a monitor shows that has enough at some time.
#[track_caller]
fn of_one_that_ends(watch: &mut Watch) -> Vec<Value> {
    let status = watch.0.wait(PATIENCE).expect("it ends by itself");
    assert!(status.success(), "{status}");
    let (stdout, _) = watch.0.output();
    let lines = stdout.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON")
}

/// On a terminal, `script` stands for it.
#[test]
fn colours_are_for_terminals_that_want_them() {
    if missing(&[Need::Program("script")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let state = mesh.agent.state().path().display();
    let binary = agent::binary().expect("the agent");
    let binary = binary.display();
    let monitor = format!("{binary} monitor --count 3 --duration 20 --state-dir {state}");
    for (no_colour, has_colours) in [(None, true), (Some("1"), false)] {
        let mut script = Command::new("script");
        script.args(["-qec", &monitor, "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        script.envs(no_colour.map(|value| ("NO_COLOR", value)));
        let mut script = Process::start("script", script);
        let mut app = mesh.world.pod.app();
        // Until it listens, it tells nothing.
        let ended = (0..500).any(|_| {
            let _ = app.connect(Dial::to(REMOTE).no_greeting());
            script.wait(Duration::from_millis(20)).is_some()
        });
        let (text, _) = script.output();
        assert!(ended, "{text}");
        assert!(text.contains("redirect-outbound"), "{text}");
        assert_eq!(text.contains('\u{1b}'), has_colours, "{text:?}");
    }
}
