//! `osm-agent explain`: what it says is what happens, and whose rule it is.

mod mesh;

use mesh::{Lists, Mesh, expect_direct, expect_inbound, expect_outbound, expect_refused};
use osm_tests::{Actor, Dial, Need, Node, Outcome, SIDECAR_UID, missing};
use rstest::rstest;
use serde_json::{Value, json};

const REMOTE: &str = "198.51.100.10:80";
const LOCAL: &str = "10.77.1.2:8080";
const CONFIG: &str = "
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
spec:
  traffic:
    outboundIPRangeExclusionList: [203.0.113.0/24, 198.51.100.0/24]
    outboundPortExclusionList: [5432]
    inboundPortExclusionList: [9090]
";

/// `explain` for the mesh's pod.
#[track_caller]
fn run(mesh: &Mesh, flags: &[&str]) -> Outcome {
    let command = [&["explain"], flags].concat();
    mesh.agent.ask(&mesh.world.pod, &command)
}

#[track_caller]
fn explain(mesh: &Mesh, flags: &[&str]) -> Value {
    let outcome = run(mesh, &[flags, &["-o", "json"][..]].concat()).succeeded();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// What happens now to a connection of an application, as `explain` would put it.
#[track_caller]
fn tried(mesh: &Mesh, sidecar: &mut Actor, to: &str) -> &'static str {
    let _remote = mesh.world.outside.server("remote", &[to]);
    let mut app = mesh.world.pod.app();
    let connection = app.connect(to);
    if connection.greeting().peer == connection.local() {
        expect_direct(sidecar, &connection, "remote");
        return "pass";
    }
    expect_outbound(sidecar, &connection, to, mesh.world.pod.ip4());
    "redirect"
}

#[rstest]
#[case::excluded_by_both(
    "198.51.100.10:80", "pass-excluded-range", "198.51.100.0/24",
    &["spec.traffic.outboundIPRangeExclusionList", "openservicemesh.io/outbound-ip-range-exclusion-list"]
)]
#[case::excluded_by_mesh(
    "203.0.113.7:80", "pass-excluded-range", "203.0.113.0/24",
    &["spec.traffic.outboundIPRangeExclusionList"]
)]
#[case::port_of_mesh(
    "192.0.2.20:5432", "pass-excluded-port", "5432",
    &["spec.traffic.outboundPortExclusionList"]
)]
#[case::port_of_pod(
    "192.0.2.20:6379", "pass-excluded-port", "6379",
    &["openservicemesh.io/outbound-port-exclusion-list"]
)]
#[case::included_by_pod(
    "192.0.2.20:80", "redirect-outbound", "192.0.2.0/24",
    &["openservicemesh.io/outbound-ip-range-inclusion-list"]
)]
fn rule_that_decides_is_named_with_whose_it_is(
    #[case] to: &str,
    #[case] reason: &str,
    #[case] item: &str,
    #[case] written_in: &[&str],
) {
    let Some(mesh) = Mesh::new() else {
        return;
    };
    let attach = mesh.attach_without_lists().config(CONFIG);
    let lists = [
        ("outbound-ip-range-exclusion-list", "198.51.100.0/24"),
        ("outbound-ip-range-inclusion-list", "192.0.2.0/24"),
        ("outbound-port-exclusion-list", "6379"),
    ];
    let annotated = lists.iter().fold(attach, |attach, (key, value)| {
        attach.annotation(&format!("openservicemesh.io/{key}"), value)
    });
    let _ = annotated.run().succeeded();
    let mut sidecar = mesh.world.pod.sidecar();
    let said = explain(&mesh, &["--to", to]);
    assert_eq!(said["reason"], reason, "{said}");
    assert_eq!(said["rule"]["item"], item, "{said}");
    assert_eq!(said["rule"]["written_in"], json!(written_in), "{said}");
    assert_eq!(said["verdict"], tried(&mesh, &mut sidecar, to), "{said}");
    // The sidecar's user is not asked about lists.
    let uid = SIDECAR_UID.to_string();
    let said = explain(&mesh, &["--to", to, "--uid", &uid]);
    assert_eq!(said["reason"], "pass-sidecar", "{said}");
    assert_eq!(said["rule"]["item"], Value::Null);
}

#[test]
fn inbound_is_explained_as_it_happens() {
    let Some(mesh) = Mesh::new() else {
        return;
    };
    let _ = mesh.attach_without_lists().config(CONFIG).run().succeeded();
    let mut sidecar = mesh.world.pod.sidecar();
    let from = ["--inbound", "--from", "10.77.1.1"];
    for (to, reason) in [
        (LOCAL, "redirect-inbound"),
        ("10.77.1.2:9090", "pass-excluded-inbound-port"),
        ("10.77.1.2:15901", "pass-reserved-port"),
    ] {
        let said = explain(&mesh, &[&["--to", to][..], &from].concat());
        assert_eq!(said["reason"], reason, "{said}");
        let _server = mesh.world.pod.server("app", &[to]);
        let mut client = mesh.world.outside.client();
        if said["verdict"] == "redirect" {
            let connection = client.connect(Dial::to(to).no_greeting());
            expect_inbound(&mut sidecar, &connection, to);
        } else {
            let connection = client.connect(to);
            assert_eq!(connection.answered_by(), "app", "{to}");
        }
    }
}

#[test]
fn missing_listener_and_detached_link_are_said() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let said = explain(&mesh, &["--to", REMOTE]);
    assert_eq!(said["verdict"], "refuse", "{said}");
    assert_eq!(said["seen"], Value::Null);
    assert!(
        said["but"].to_string().contains("does not listen"),
        "{said}"
    );
    expect_refused(&mut mesh.world.pod.app(), Dial::to(REMOTE));

    let _sidecar = mesh.world.pod.sidecar();
    let said = explain(&mesh, &["--to", REMOTE]);
    assert_eq!(said["verdict"], "redirect", "{said}");
    assert_eq!(said["but"], json!([]), "{said}");
    mesh.agent.state().detach_link("connect4");
    let said = explain(&mesh, &["--to", REMOTE]);
    let but = said["but"].to_string();
    assert!(but.contains("the link connect4 is detached"), "{said}");
}

#[rstest]
fn live_connection_shows_what_is_remembered_at_both_ends(#[values(false, true)] one_by_one: bool) {
    let Some(mesh) = Mesh::handing_over(one_by_one) else {
        return;
    };
    let mut sidecar = mesh.world.pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = mesh.world.pod.app();
    let connection = app.connect(REMOTE);
    let own = connection.local().to_string();
    expect_outbound(&mut sidecar, &connection, REMOTE, mesh.world.pod.ip4());
    let ends = explain(&mesh, &["--connection", &own]);
    let of = |pid: u32| {
        let ends = ends.as_array().expect("a list").iter();
        let mut ends = ends.filter(|end| end["pid"] == pid);
        ends.next()
            .unwrap_or_else(|| panic!("no end of {pid}: {ends:#?}"))
    };
    let (at_app, at_sidecar) = (of(app.pid()), of(sidecar.pid()));
    assert_eq!(at_app["shown_peer"], REMOTE);
    assert_eq!(at_app["shown_local"], own.as_str());
    assert_eq!(at_sidecar["shown_peer"], own.as_str());
    assert_eq!(at_sidecar["original_destination"], REMOTE);
    for (end, is_dialler) in [(at_app, true), (at_sidecar, false)] {
        let kept = &end["remembered"];
        if one_by_one {
            assert_eq!(kept["dialled"], REMOTE, "{end}");
            assert_eq!(kept["is_dialler"], is_dialler, "{end}");
        } else {
            assert_eq!(*kept, Value::Null, "{end}");
        }
    }
    // It was only looked at.
    assert_eq!(app.send(connection.id, "still there").text, "still there");
    let text = run(&mesh, &["--connection", &own]).succeeded().stdout;
    assert!(
        text.contains(&format!("SO_ORIGINAL_DST       {REMOTE}")),
        "{text}"
    );
}

#[test]
fn wrong_questions_say_what_is_wrong_and_what_there_is() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut outsider = mesh.world.outside.client();
    let pid = outsider.process().pid().to_string();
    for (flags, code, words) in [
        (&["--to", REMOTE, "--pid", &pid][..], 2, "is no process of"),
        (&["--to", "nowhere"], 2, "invalid"),
        (&[], 2, "required"),
        (&["--to", REMOTE, "--inbound"], 2, "--from"),
        (
            &["--connection", "192.0.2.1:1"],
            2,
            "has a connection with it",
        ),
    ] {
        let outcome = run(&mesh, flags).failed();
        assert_eq!(outcome.status.code(), Some(code), "{outcome}");
        assert!(outcome.stderr.contains(words), "{outcome}");
    }
    let other = ["explain", "--pod", "other", "--to", REMOTE];
    let outcome = mesh.agent.ask_all(&other).failed();
    assert!(outcome.stderr.contains(mesh.world.pod.name()), "{outcome}");
}

#[test]
fn running_agent_does_not_keep_it_from_answering() {
    let Some((world, node)) = Node::intercepting("{traffic: {outboundPortExclusionList: [5432]}}")
    else {
        return;
    };
    let name = format!("test/{}", world.pod.name());
    let asked = ["explain", "--pod", &name, "--to", "192.0.2.20:5432"];
    let said = node.agent().ask_all(&asked).succeeded().stdout;
    assert!(said.contains("pass (pass-excluded-port)"), "{said}");
    assert!(
        said.contains("5432 (spec.traffic.outboundPortExclusionList)"),
        "{said}"
    );
}
