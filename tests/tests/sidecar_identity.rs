//! By what the sidecar is known: its user, or its user in its own container.

mod mesh;

use mesh::{
    Lists, Mesh, SHARED, expect_direct, expect_outbound, expect_redirected, expect_refused,
};
use osm_tests::{Actor, Cgroup, Client, Dial, Listener, Outcome, Pod, SIDECAR_UID, actor::Place};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";
const OWN: &str = "10.77.1.2:8080";

/// A place for somebody who runs as the sidecar's user.
fn place<'a>(pod: &'a Pod, cgroup: &'a Cgroup) -> Place<'a> {
    Place {
        netns: &pod.netns,
        cgroup: Some(cgroup),
        uid: Some(SIDECAR_UID),
    }
}

#[track_caller]
fn attach(mesh: &Mesh, identity: &str, sidecar_cgroup: Option<&Cgroup>) -> Outcome {
    let config = format!(
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         spec: {{sidecar: {{identity: {identity}}}}}\n"
    );
    let mut attach = mesh.attach_without_lists().config(&config);
    if let Some(cgroup) = sidecar_cgroup {
        attach = attach.option("--sidecar-cgroup", cgroup.path());
    }
    attach.run()
}

#[rstest]
#[case::by_cgroup("uid-and-cgroup", true, true)]
#[case::cgroup_not_known("uid-and-cgroup", false, false)]
#[case::by_user("uid", true, false)]
fn application_of_the_sidecar_s_user(
    #[case] identity: &str,
    #[case] is_known: bool,
    #[case] is_intercepted: bool,
) {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let cgroup = is_known.then(|| pod.sidecar_cgroup());
    let _ = attach(&mesh, identity, cgroup).succeeded();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut stranger = pod.stranger();
    let (mut owner, mut app) = (pod.sidecar_client(), pod.app());
    // The sidecar itself, and any other user, are what they always are.
    expect_direct(&mut sidecar, &owner.connect(REMOTE), "remote");
    expect_redirected(
        &mut sidecar,
        Listener::Inbound,
        &owner.connect(OWN),
        OWN,
        pod.ip4(),
    );
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_direct(&mut sidecar, &app.connect(OWN), "local");
    let remote = stranger.connect(REMOTE);
    if is_intercepted {
        expect_outbound(&mut sidecar, &remote, REMOTE, pod.ip4());
        expect_direct(&mut sidecar, &stranger.connect(OWN), "local");
        assert_eq!(stranger.listen("0.0.0.0:15010").error(), "EPERM");
    } else {
        expect_direct(&mut sidecar, &remote, "remote");
        let own = stranger.connect(OWN);
        expect_redirected(&mut sidecar, Listener::Inbound, &own, OWN, pod.ip4());
        assert_eq!(stranger.listen("0.0.0.0:15010").error, None);
    }
}

#[test]
fn identity_changes_under_a_running_pod() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let own = pod.sidecar_cgroup();
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut stranger = pod.stranger();
    for identity in ["uid", "uid-and-cgroup", "uid"] {
        let _ = attach(&mesh, identity, Some(own)).succeeded();
        let connection = stranger.connect(REMOTE);
        if identity == "uid" {
            expect_direct(&mut sidecar, &connection, "remote");
        } else {
            expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
        }
    }
    // The sidecar's container starts anew, in another cgroup.
    let new = pod.cgroup.child("sidecar-1");
    sidecar.stop();
    let _ = attach(&mesh, "uid-and-cgroup", Some(&new)).succeeded();
    let mut sidecar = Actor::start("sidecar", &place(pod, &new), &["sidecar"]);
    let mut former = pod.sidecar_client();
    for client in [&mut stranger, &mut former] {
        expect_outbound(&mut sidecar, &client.connect(REMOTE), REMOTE, pod.ip4());
    }
    let mut owner = Client::start("owner", &place(pod, &new));
    expect_direct(&mut sidecar, &owner.connect(REMOTE), "remote");
}

/// New lists say nothing of it.
#[test]
fn cgroup_that_was_given_once_stays_known() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut stranger = pod.stranger();
    let _ = attach(&mesh, "uid", Some(pod.sidecar_cgroup())).succeeded();
    for _ in 0..2 {
        let _ = attach(&mesh, "uid-and-cgroup", None).succeeded();
        let connection = stranger.connect(REMOTE);
        expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    }
    assert_eq!(mesh.status()["sidecar_cgroup"], pod.sidecar_cgroup().id());
}

/// Whether the listener is older than the enrolment or not.
#[rstest]
fn listener_of_the_sidecar_s_user_elsewhere_gets_nothing(#[values(false, true)] is_older: bool) {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let config = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                  spec: {sidecar: {identity: uid-and-cgroup}, traffic: {reservedPortGuard: false}}\n";
    let attach = || {
        let attach = mesh.attach_without_lists().config(config);
        let _ = attach
            .option("--sidecar-cgroup", pod.sidecar_cgroup().path())
            .run()
            .succeeded();
    };
    let listen = || Actor::start("thief", &place(pod, pod.app_cgroup()), &["sidecar"]);
    let thief = if is_older {
        let thief = listen();
        attach();
        thief
    } else {
        attach();
        listen()
    };
    expect_nothing_for(thief, &mesh);
}

/// All is refused while a thief listens in the sidecar's place, and served when the sidecar does.
#[track_caller]
fn expect_nothing_for(mut thief: Actor, mesh: &Mesh) {
    let (pod, outside) = (&mesh.world.pod, &mesh.world.outside);
    expect_refused(&mut pod.app(), Dial::to(REMOTE));
    expect_refused(&mut outside.client(), Dial::to(OWN));
    thief.expect_no_connection();
    thief.stop();
    let mut sidecar = pod.sidecar();
    let _remote = outside.server("remote", &[REMOTE]);
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
}

/// What it opened while it was the sidecar by its user is the sidecar's no more.
#[test]
fn listener_from_before_the_identity_was_changed_gets_nothing() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let remote = mesh.world.outside.server("remote", &[REMOTE]);
    let _ = attach(&mesh, "uid", Some(pod.sidecar_cgroup())).succeeded();
    let mut thief = Actor::start("thief", &place(pod, pod.app_cgroup()), &["sidecar"]);
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut thief, &connection, REMOTE, pod.ip4());
    let _ = thief.drain();
    let _ = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    drop(remote);
    expect_nothing_for(thief, &mesh);
}

/// Nor what it bound then and listens on only now.
#[test]
fn socket_bound_before_the_identity_was_changed_gets_nothing() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = attach(&mesh, "uid", Some(pod.sidecar_cgroup())).succeeded();
    let mut stranger = pod.stranger();
    let bound = ["0.0.0.0:15001", "0.0.0.0:15003"].map(|address| stranger.bind(address).id);
    let _ = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    for id in bound {
        assert_eq!(stranger.listen_on(id).error, None);
    }
    expect_refused(&mut pod.app(), Dial::to(REMOTE));
    expect_refused(&mut mesh.world.outside.client(), Dial::to(OWN));
}

/// As many connections as show that each of a few listeners gets some.
const MANY: usize = 64;

/// The kernel would share out the connections among all sockets of a user that share a port.
#[test]
fn listener_that_shares_the_sidecar_s_ports_elsewhere_gets_nothing() {
    let Some(mesh) = Mesh::new() else { return };
    let (pod, outside) = (&mesh.world.pod, &mesh.world.outside);
    let _remote = outside.server("remote", &[REMOTE]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let flags = [&["sidecar"], &SHARED[..]].concat();
    let mut thief = Actor::start("thief", &place(pod, pod.app_cgroup()), &flags);
    let _ = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    let mut workers = [(); 3].map(|()| pod.sidecar_with(&SHARED));
    let (mut app, mut client) = (pod.app(), outside.client());
    for _ in 0..MANY {
        assert_eq!(app.connect(REMOTE).answered_by(), "remote");
        assert_eq!(client.connect(OWN).answered_by(), "local");
    }
    thief.expect_no_connection();
    for worker in &mut workers {
        assert_ne!(worker.drain().len(), 0, "a worker got nothing");
    }
    let [first, mut second, third] = workers;
    first.stop();
    third.stop();
    for _ in 0..MANY {
        assert_eq!(app.connect(REMOTE).answered_by(), "remote");
    }
    assert_eq!(second.drain().len(), MANY);
    second.stop();
    expect_refused(&mut app, Dial::to(REMOTE));
    thief.expect_no_connection();
}

/// Root need not be the sidecar's user for that.
#[test]
fn socket_given_to_the_sidecar_s_user_shares_its_ports_by_user_only() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let mut thief = pod.client(0);
    let socket = thief.bind_as(SIDECAR_UID, "0.0.0.0:15001").id;
    let cgroup = Some(pod.sidecar_cgroup());
    let _ = attach(&mesh, "uid-and-cgroup", cgroup).succeeded();
    let mut sidecar = pod.sidecar_with(&SHARED);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    assert_eq!(thief.listen_on(socket).error, None);
    let mut app = pod.app();
    for _ in 0..MANY {
        assert_eq!(app.connect(REMOTE).answered_by(), "remote");
    }
    assert_eq!(sidecar.drain().len(), MANY);
    let _ = attach(&mesh, "uid", cgroup).succeeded();
    for _ in 0..MANY {
        assert!(app.connect(Dial::to(REMOTE).no_greeting()).connected);
    }
    let got = sidecar.drain().len();
    assert!((1..MANY).contains(&got), "{got} of {MANY}");
    assert_eq!(thief.accept(socket).local().port(), 15001);
}

/// The sidecar's own listeners are found in its container, as they are elsewhere.
#[test]
fn sidecar_from_before_the_enrolment_is_found() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _ = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    let again = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    assert!(again.stdout.contains("already"), "{again}");
}

#[test]
fn processes_of_the_sidecar_s_user_elsewhere_are_warned_of() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _sidecar = pod.sidecar();
    let warnings = |mesh: &Mesh| mesh.status()["warnings"].to_string();
    let own = pod.sidecar_cgroup();
    let _ = attach(&mesh, "uid-and-cgroup", None).succeeded();
    assert!(warnings(&mesh).contains("is not known"));
    let _ = attach(&mesh, "uid", None).succeeded();
    assert_eq!(warnings(&mesh), "[]");
    let stranger = pod.stranger();
    let said = warnings(&mesh);
    assert!(said.contains("in 2 of its containers"), "{said}");
    let who = format!("({})", stranger.pid());
    for (identity, fate) in [
        ("uid", "and is not intercepted"),
        ("uid-and-cgroup", "and is intercepted like any other"),
    ] {
        let _ = attach(&mesh, identity, Some(own)).succeeded();
        let said = warnings(&mesh);
        assert!(said.contains(&who) && said.contains(fate), "{said}");
    }
    drop(stranger);
    assert_eq!(warnings(&mesh), "[]");
    // The one it is known by is gone.
    let former = pod.cgroup.child("former");
    let _ = attach(&mesh, "uid-and-cgroup", Some(&former)).succeeded();
    assert_eq!(mesh.status()["sidecar_cgroup"], former.id());
    drop(former);
    let said = warnings(&mesh);
    assert!(said.contains("container is gone"), "{said}");
}

#[test]
fn explain_asks_for_the_cgroup_of_a_process() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let _ = attach(&mesh, "uid-and-cgroup", Some(pod.sidecar_cgroup())).succeeded();
    let _sidecar = pod.sidecar();
    let state = mesh.agent.state().path().display().to_string();
    for (client, reason) in [
        (pod.stranger(), "redirect-outbound"),
        (pod.sidecar_client(), "pass-sidecar"),
    ] {
        let pid = client.pid().to_string();
        let args = ["explain", "--pod", pod.name(), "--to", REMOTE];
        let more = ["--pid", &pid, "--state-dir", &state];
        let said = mesh.agent.run(&[&args[..], &more].concat()).succeeded();
        assert!(said.stdout.contains(reason), "{said}");
    }
}

#[test]
fn cgroup_that_is_not_the_pod_s_is_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let _ = mesh.attach(&Lists::default()).succeeded();
    let other = mesh.world.add_pod();
    for cgroup in [&mesh.world.pod.cgroup, other.sidecar_cgroup()] {
        let refused = attach(&mesh, "uid-and-cgroup", Some(cgroup)).failed();
        assert!(
            refused.stderr.contains("is not below the pod's cgroup"),
            "{refused}"
        );
    }
}
