//! Namespaces and cgroups that an application can reach: a socket goes by where it was opened and by who calls, in
//! the node's eyes and not in those of a namespace.

mod mesh;

use mesh::{Lists, Mesh, expect_outbound};
use osm_tests::{Client, Family, Need, Netns, SIDECAR_UID, Veth, actor::Place, missing};

const REMOTE: &str = "198.51.100.10:80";

#[test]
fn user_of_a_namespace_of_its_own_is_not_the_sidecar() {
    if missing(&[Need::Program("unshare")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let map = format!("--map-user={SIDECAR_UID}");
    let unshare = ["unshare", "--user", &map];
    let mut impostor = Client::start_behind("impostor", &pod.place(0), &unshare);
    expect_outbound(&mut sidecar, &impostor.connect(REMOTE), REMOTE, pod.ip4());
    for port in [15000, 15001, 15003, 15010] {
        let bound = impostor.listen(&format!("127.0.0.9:{port}"));
        assert_eq!(bound.error(), "EPERM", "{port}");
    }
    assert_eq!(mesh.counted("refuse-reserved-port-bind"), 4);
    assert_eq!(mesh.counted("redirect-outbound"), 1);
}

#[test]
fn socket_of_the_pod_s_goes_to_the_sidecar_from_any_namespace() {
    if missing(&[Need::Program("unshare")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let mut remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    let unshare = ["unshare", "--net"];
    let mut hermit = Client::start_behind("hermit", &pod.place(0), &unshare);
    // From where it is, nothing leads anywhere.
    assert_eq!(hermit.connect(REMOTE).error(), "ENETUNREACH");
    sidecar.expect_no_connection();
    remote.expect_no_connection();
    for family in [Family::V4, Family::V6] {
        let socket = hermit.take_socket(&mut app, family);
        let connection = hermit.reconnect(socket.id, REMOTE);
        expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    }
}

#[test]
fn socket_goes_by_the_cgroup_in_which_it_was_opened() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    // Who is in the pod's network and not in its cgroup is the node's root.
    let elsewhere = Place {
        cgroup: None,
        ..pod.place(0)
    };
    let mut outsider = Client::start("outsider", &elsewhere);
    let socket = outsider.take_socket(&mut app, Family::V4);
    let connection = outsider.reconnect(socket.id, REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    let socket = app.take_socket(&mut outsider, Family::V4);
    let connection = app.reconnect(socket.id, REMOTE);
    mesh::expect_direct(&mut sidecar, &connection, "remote");
}

/// It takes rights over the pod's network. Behind iptables it would be taken for inbound.
#[test]
fn what_the_pod_forwards_for_a_namespace_of_its_own_is_not_seen() {
    if missing(&[Need::Program("iptables-legacy")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let inner = Netns::new();
    let _ = Veth::new((&inner, "eth0"), (&pod.netns, "inner"))
        .addresses(&[("10.79.0.2/24", "10.79.0.1/24")]);
    inner.ip(&["route add default via 10.79.0.1"]);
    pod.netns.sysctl("net/ipv4/ip_forward", "1");
    let rule = "-w -t nat -A POSTROUTING -o eth0 -j MASQUERADE";
    let args: Vec<_> = rule.split(' ').collect();
    assert!(pod.netns.command("iptables-legacy", &args).status.success());
    let place = Place {
        netns: &inner,
        ..pod.place(0)
    };
    let connection = Client::start("inner", &place).connect(REMOTE);
    assert_eq!(connection.answered_by(), "remote");
    assert_eq!(connection.greeting().peer.ip(), pod.ip4());
    sidecar.expect_no_connection();
    assert_eq!(mesh.counted("redirect-outbound"), 0);
}
