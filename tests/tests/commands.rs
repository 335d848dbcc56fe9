//! Bad input: one clear error with what to do, the right status, and nothing left attached.

mod mesh;

use mesh::{Lists, Mesh, expect_outbound};
use osm_tests::Outcome;

/// One line, this status, these words.
#[track_caller]
fn expect_error(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(status), "{outcome}");
    let error = outcome.stderr.trim_end();
    assert_eq!(error.lines().count(), 1, "{outcome}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[track_caller]
fn attach(mesh: &Mesh, netns: &str, cgroup: &str, more: &[&str]) -> Outcome {
    let state = mesh.agent.state().path().display().to_string();
    let args = [
        &[
            "attach",
            "--netns",
            netns,
            "--cgroup",
            cgroup,
            "--state-dir",
            &state,
        ],
        more,
    ]
    .concat();
    mesh.agent.run(&args)
}

#[test]
fn places_that_are_no_pod_s_are_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let (netns, cgroup) = (
        pod.netns.path().display().to_string(),
        pod.cgroup.path().display().to_string(),
    );
    let root = root_of(&cgroup);
    let own = own_cgroup(&root);
    let cases: [(&str, &str, &[&str]); 9] = [
        (
            "/nonexistent",
            &cgroup,
            &[
                "--netns /nonexistent",
                "cannot be opened",
                "/run/netns/NAME",
            ],
        ),
        (
            "/etc/hostname",
            &cgroup,
            &["--netns /etc/hostname", "is not a network namespace"],
        ),
        (
            "/proc/self/ns/mnt",
            &cgroup,
            &["--netns /proc/self/ns/mnt", "is not a network namespace"],
        ),
        ("/proc/1/ns/net", &cgroup, &["--netns /proc/1/ns/net"]),
        (
            "/proc/self/ns/net",
            &cgroup,
            &[
                "--netns /proc/self/ns/net",
                "own network namespace",
                "hostNetwork",
            ],
        ),
        (
            &netns,
            "/nonexistent",
            &["--cgroup /nonexistent", "cannot be opened"],
        ),
        (&netns, "/tmp", &["--cgroup /tmp", "is not a cgroup", &root]),
        (&netns, &root, &["is the root cgroup", "below"]),
        (&netns, &own, &["--cgroup", "give a pod's directory below"]),
    ];
    for (netns, cgroup, words) in cases {
        expect_error(&attach(&mesh, netns, cgroup, &[]), 2, words);
        assert!(mesh.agent.state().pins().is_empty());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_lists_are_refused_and_the_last_good_ones_stay() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "outbound-port-exclusion-list",
            "80,70000",
            &["outbound-port-exclusion-list", "70000", "65535"],
        ),
        (
            "inbound-port-exclusion-list",
            "80,,81",
            &["inbound-port-exclusion-list", "empty"],
        ),
        ("outbound-port-exclusion-list", "http", &["http", "65535"]),
        (
            "outbound-ip-range-exclusion-list",
            "10.0.0.0/99",
            &["10.0.0.0/99"],
        ),
        (
            "outbound-ip-range-inclusion-list",
            "10.0.0.1",
            &["10.0.0.1", "/32"],
        ),
        (
            "outbound-ip-range-inclusion-list",
            "",
            &["outbound-ip-range-inclusion-list", "empty"],
        ),
    ];
    for (key, value, words) in cases {
        let outcome = mesh
            .agent
            .attach(pod)
            .annotation(&format!("openservicemesh.io/{key}"), value)
            .run();
        expect_error(&outcome, 2, words);
        assert!(
            mesh.agent.state().pins().is_empty(),
            "a new pod does not start half-intercepted"
        );
    }
    let _ = mesh
        .attach(&Lists {
            excluded_ports: "81",
            ..Lists::default()
        })
        .succeeded();
    for (key, value, words) in cases {
        let outcome = mesh
            .agent
            .attach(pod)
            .annotation(&format!("openservicemesh.io/{key}"), value)
            .run();
        expect_error(&outcome, 2, words);
    }
    let config = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {traffic: {interceptionMode: magic}}\n";
    expect_error(
        &mesh.agent.attach(pod).config(config).run(),
        2,
        &["mesh-config.yaml", "interceptionMode", "magic"],
    );
    let mut sidecar = pod.sidecar();
    let _remote = mesh
        .world
        .outside
        .server("remote", &["198.51.100.10:80", "198.51.100.10:81"]);
    let mut app = pod.app();
    expect_outbound(
        &mut sidecar,
        &app.connect("198.51.100.10:80"),
        "198.51.100.10:80",
        pod.ip4(),
    );
    mesh::expect_direct(&mut sidecar, &app.connect("198.51.100.10:81"), "remote");
}

#[test]
fn pods_are_not_mixed_up() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let second = mesh.world.add_pod();
    let [netns, cgroup, second_netns, second_cgroup] = [
        pod.netns.path(),
        pod.cgroup.path().into(),
        second.netns.path(),
        second.cgroup.path().into(),
    ]
    .map(|path| path.display().to_string());
    let outcome = attach(&mesh, &netns, &cgroup, &["--pod", "another"]);
    expect_error(&outcome, 2, &["--pod another", "attached as", pod.name()]);
    let outcome = attach(&mesh, &second_netns, &second_cgroup, &["--pod", pod.name()]);
    expect_error(&outcome, 2, &[pod.name(), "another network namespace"]);
    let outcome = attach(&mesh, &netns, &second_cgroup, &["--pod", pod.name()]);
    expect_error(&outcome, 2, &["--cgroup", "another cgroup"]);
    let outcome = attach(&mesh, &second_netns, &cgroup, &["--pod", "second"]);
    expect_error(&outcome, 2, &["--cgroup", "intercepted already"]);
    let outcome = attach(
        &mesh,
        &second_netns,
        &second_cgroup,
        &["--pod", "with space"],
    );
    expect_error(&outcome, 2, &["--pod \"with space\"", "not a pod's name"]);
    expect_error(&mesh.agent.detach(&second), 2, &["no such pod is attached"]);
    let _ = mesh.detach().succeeded();
    expect_error(&mesh.detach(), 2, &["no such pod is attached"]);
}

#[test]
fn second_state_directory_for_one_pod_is_refused() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let other = osm_tests::StateDir::new();
    let other = other.path().display().to_string();
    let netns = mesh.world.pod.netns.path().display().to_string();
    let cgroup = mesh.world.pod.cgroup.path().display().to_string();
    let args = [
        "attach",
        "--netns",
        &netns,
        "--cgroup",
        &cgroup,
        "--state-dir",
        &other,
    ];
    expect_error(
        &mesh.agent.run(&args),
        2,
        &["intercepted already", "detach it there first"],
    );
}

#[test]
fn detach_by_network_namespace_finds_the_pod() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let netns = mesh.world.pod.netns.path().display().to_string();
    let state = mesh.agent.state().path().display().to_string();
    let outcome = mesh
        .agent
        .run(&["detach", "--netns", &netns, "--state-dir", &state])
        .succeeded();
    assert!(outcome.stdout.contains(mesh.world.pod.name()), "{outcome}");
    assert!(mesh.agent.state().pins().is_empty());
}

#[test]
fn wrong_usage_is_status_2() {
    let Some(mesh) = Mesh::new() else { return };
    for args in [
        &["attach"][..],
        &["detach"],
        &["detach", "--pod", "a", "--netns", "b"],
        &["nonsense"],
        &[
            "attach",
            "--netns",
            "a",
            "--cgroup",
            "b",
            "--annotation",
            "novalue",
        ],
        &[
            "attach",
            "--netns",
            "a",
            "--cgroup",
            "b",
            "--pod-address",
            "nonsense",
        ],
    ] {
        let outcome = mesh.agent.run(args);
        assert_eq!(outcome.status.code(), Some(2), "{args:?}: {outcome}");
        assert!(!outcome.stderr.is_empty());
    }
    assert!(
        mesh.agent
            .run(&["--help"])
            .succeeded()
            .stdout
            .contains("attach")
    );
}

#[test]
fn state_directory_that_is_not_ours_is_refused_untouched() {
    let Some(mesh) = Mesh::new() else { return };
    let files = osm_tests::TempDir::new();
    let file = files.file("precious", "data");
    let netns = mesh.world.pod.netns.path().display().to_string();
    let cgroup = mesh.world.pod.cgroup.path().display().to_string();
    let state = files.path().display().to_string();
    let args = [
        "attach",
        "--netns",
        &netns,
        "--cgroup",
        &cgroup,
        "--state-dir",
        &state,
    ];
    expect_error(
        &mesh.agent.run(&args),
        2,
        &["--state-dir", "not on a bpffs"],
    );
    assert_eq!(
        std::fs::read_to_string(file).expect("it is still there"),
        "data"
    );
}

#[test]
fn pod_addresses_given_are_those_that_count() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    pod.netns.ip(&["addr add 10.77.1.3/32 dev eth0"]);
    let _ = mesh
        .agent
        .attach(pod)
        .option("--pod-address", "10.77.1.2")
        .option("--pod-address", "10.77.1.3")
        .run()
        .succeeded();
    let mut sidecar = pod.sidecar();
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut app = pod.app();
    for to in ["10.77.1.2:8080", "10.77.1.3:8080"] {
        mesh::expect_direct(&mut sidecar, &app.connect(to), "local");
        // Between two of its own addresses the pod still talks to itself.
        let dial = osm_tests::Dial::to(to).bind("10.77.1.3:0");
        mesh::expect_direct(&mut sidecar, &app.connect(dial), "local");
    }
}

/// The cgroup v2 hierarchy that a cgroup is in.
fn root_of(cgroup: &str) -> String {
    let parent = std::path::Path::new(cgroup)
        .parent()
        .expect("a pod's cgroup has a parent");
    parent.display().to_string()
}

/// This process's own cgroup.
fn own_cgroup(root: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/cgroup").expect("our cgroup");
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .expect("cgroup v2");
    format!("{root}{own}")
}
