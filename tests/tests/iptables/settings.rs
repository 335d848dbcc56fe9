//! What the mesh can ask for beyond lists.

use osm_tests::{Dial, Listener, Need, TempDir, missing};

use crate::mesh::{expect_direct, expect_inbound, expect_outbound, expect_refused};
use crate::scene::{Backend, Scene};

fn config(files: &TempDir, spec: &str) -> String {
    let text = format!(
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {{{spec}}}\n"
    );
    files.file("mesh.yaml", &text).display().to_string()
}

#[test]
fn traffic_by_an_excluded_interface_is_left_alone() {
    let Some(scene) = Scene::new() else { return };
    let pod = scene.pod();
    pod.add_interface(&scene.world.outside, "eth1", 1);
    let files = TempDir::new();
    let config = config(&files, "traffic: {networkInterfaceExclusionList: [eth1]}");
    let to = ["198.51.100.10:80", "10.78.1.1:80"];
    let _remote = scene.world.outside.server("remote", &to);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let mut sidecar = pod.sidecar();
    let (mut app, mut client) = (pod.app(), scene.world.outside.client());
    for backend in Backend::ALL {
        scene.apply(backend, &["--config", &config]);
        expect_outbound(&mut sidecar, &app.connect(to[0]), to[0], pod.ip4());
        expect_direct(&mut sidecar, &app.connect(to[1]), "remote");
        expect_inbound(
            &mut sidecar,
            &client.connect("10.77.1.2:8080"),
            "10.77.1.2:8080",
        );
        expect_direct(&mut sidecar, &client.connect("10.78.1.2:8080"), "local");
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

#[test]
fn pod_ip_takes_the_sidecar_to_what_binds_the_pod_address_only() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Ipv6]) {
        return;
    }
    let pod = scene.pod();
    let files = TempDir::new();
    let config = config(&files, "sidecar: {localProxyMode: PodIP}");
    let _local = pod.server("local", &["10.77.1.2:8080", "[fd77:1::2]:8080"]);
    let (mut caller, mut app) = (pod.sidecar_client(), pod.app());
    for backend in Backend::ALL {
        // The address is found where it is not given.
        scene.apply(backend, &["--config", &config, "--ip-families", "dual"]);
        for localhost in ["127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(caller.connect(localhost).answered_by(), "local");
            expect_refused(&mut app, Dial::to(localhost));
        }
        let _ = scene.iptables(&["cleanup"]).succeeded();
        expect_refused(&mut caller, Dial::to("127.0.0.1:8080"));
    }
}

#[test]
fn native_ipv6_is_intercepted_with_dual_stack_only() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Ipv6]) {
        return;
    }
    let pod = scene.pod();
    let remote = "[2001:db8::10]:80";
    let _remote = scene.world.outside.server("remote", &[remote]);
    let mut sidecar = pod.sidecar_with(&["--outbound", "[::]:15001", "--inbound", "[::]:15003"]);
    let (mut app, mut client) = (pod.app(), scene.world.outside.client());
    let _local = pod.server("local", &["[::]:8080"]);
    let inside = "[fd77:1::2]:8080";
    for backend in Backend::ALL {
        scene.apply(backend, &["--ip-families", "dual"]);
        for (connection, listener, dialled) in [
            (app.connect(remote), Listener::Outbound, remote),
            (client.connect(inside), Listener::Inbound, inside),
        ] {
            let accepted = sidecar.accepted_from(connection.local());
            assert_eq!(accepted.listener, listener);
            assert_eq!(accepted.original_destination().to_string(), dialled);
            assert_eq!(connection.peer().to_string(), dialled);
        }
        // Without, the rules of IPv6 go.
        scene.apply(backend, &[]);
        assert!(!scene.nat(backend)[1].contains("PROXY_"));
        expect_direct(&mut sidecar, &app.connect(remote), "remote");
        expect_direct(&mut sidecar, &client.connect(inside), "local");
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}
