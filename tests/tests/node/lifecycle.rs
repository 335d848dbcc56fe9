//! A pod's life, as files tell of it.

use std::time::Instant;

use osm_tests::{Node, World};
use rstest::rstest;

use crate::{
    REMOTE,
    mesh::{expect_direct, expect_inbound, expect_outbound},
    mode,
};

const OTHER: &str = "198.51.100.10:5432";
const OWN: &str = "10.77.1.2:8080";

#[rstest]
fn pod_file_that_comes_changes_and_goes_is_followed(#[values("ebpf", "iptables")] means: &str) {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    node.mesh(&mode(means));
    node.start();
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let (mut app, mut client) = (pod.app(), world.outside.client());
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");

    node.add_pod(pod, &[]);
    let appeared = Instant::now();
    node.wait_intercepted(pod);
    println!("intercepted by {means} after {:?}", appeared.elapsed());
    assert_eq!(node.pod(pod).expect("it is shown")["detail"], means);
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    expect_outbound(&mut sidecar, &app.connect(OTHER), OTHER, pod.ip4());
    expect_inbound(&mut sidecar, &client.connect(OWN), OWN);

    node.add_pod(pod, &[("outbound-port-exclusion-list", "5432")]);
    let took = node.wait("the list is in force", |_| {
        let connection = app.connect(OTHER);
        let is_direct = connection.greeting().peer == connection.local();
        if !is_direct {
            sidecar.accepted_from(connection.local());
        }
        is_direct
    });
    println!("list of the pod in force after {took:?}");
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());

    node.remove_pod(pod);
    node.wait("the pod is let go", |node| node.pod(pod).is_none());
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
    let ended = node.stop().succeeded();
    assert!(ended.stderr.contains("pods stay intercepted"), "{ended}");
}
