//! Pods without a cgroup of their own in version 2: one set of links above all of them.

mod mesh;

use std::{fs, path::Path, time::Instant};

use mesh::{Lists, Mesh, expect_direct, expect_inbound, expect_outbound};
use osm_agent::{
    config,
    ebpf::Ebpf,
    interceptor::{Enrolled, Found, Interceptor as _},
    pod::{Cgroup, Netns, Pod, cgroup_root},
    policy::Policy,
};

const REMOTE: &str = "198.51.100.10:80";

fn pod_of(pod: &osm_tests::Pod, cgroup: &Path, shares_cgroup: bool) -> Pod {
    let root = cgroup_root().expect("a hierarchy");
    let netns = Netns::open(&pod.netns.path()).expect("a namespace");
    let cgroup = Cgroup::open(cgroup, &root).expect("a cgroup");
    let mut found = Pod::new(Some(pod.name().into()), netns, cgroup, Vec::new()).expect("a pod");
    found.shares_cgroup = shares_cgroup;
    found
}

fn no_lists() -> Policy {
    Policy::compile(&config::Lists::default(), true)
}

#[test]
fn pods_of_one_cgroup_share_its_links_and_are_let_go_of_one_by_one() {
    let Some(mesh) = Mesh::new() else { return };
    let above = osm_tests::Cgroup::new();
    let first = mesh.world.add_pod_in(above.child("first"));
    let second = mesh.world.add_pod_in(above.child("second"));
    let outsider = mesh.world.add_pod_in(above.child("outsider"));
    let pods = [&first, &second].map(|pod| pod_of(pod, above.path(), true));
    let state = mesh.agent.state().path();
    let mut ebpf = Ebpf::open(state).expect("the state");
    for pod in &pods {
        let enrolled = ebpf.enrol(pod, Some(&no_lists())).expect("enrolled");
        assert!(matches!(enrolled, Enrolled::New { .. }), "{enrolled:?}");
        let found = ebpf.compare(pod, Some(&no_lists())).expect("compared");
        assert_eq!(found, Found::AsWanted);
    }
    let set = state.join(format!("cgroups/{:016x}", above.id()));
    assert_eq!(fs::read_dir(&set).expect("the set").count(), 10);
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    for pod in [&first, &second] {
        let mut sidecar = pod.sidecar();
        let _local = pod.server("local", &["0.0.0.0:8080"]);
        expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
        let local = format!("{}:8080", pod.ip4());
        let inbound = mesh.world.outside.client().connect(local.as_str());
        expect_inbound(&mut sidecar, &inbound, &local);
    }
    // A pod of the same cgroup that is in no mesh.
    let mut sidecar = outsider.sidecar();
    expect_direct(&mut sidecar, &outsider.app().connect(REMOTE), "remote");
    // Damage to the set is damage to each of its pods, and repaired once.
    fs::remove_file(set.join("connect4")).expect("a pin");
    let found = ebpf.compare(&pods[1], None).expect("compared");
    assert_eq!(found, Found::Faulty(vec!["connect4 was missing".into()]));
    ebpf.enrol(&pods[0], None).expect("repaired");
    let found = ebpf.compare(&pods[1], None).expect("compared");
    assert_eq!(found, Found::AsWanted);
    ebpf.withdraw(&pods[0].netns).expect("let go of");
    assert!(set.is_dir());
    let mut sidecar = first.sidecar();
    expect_direct(&mut sidecar, &first.app().connect(REMOTE), "remote");
    let mut sidecar = second.sidecar();
    expect_outbound(
        &mut sidecar,
        &second.app().connect(REMOTE),
        REMOTE,
        second.ip4(),
    );
    ebpf.withdraw(&pods[1].netns).expect("let go of");
    assert!(!set.exists());
    ebpf.remove_if_unused().expect("removed");
    assert!(mesh.agent.state().pins().is_empty());
}

/// How long it takes, for those who change it: `--ignored --nocapture`, built with `--release`.
#[test]
#[ignore = "prints times"]
fn many_pods_are_enrolled_compared_and_let_go_of() {
    const PODS: u32 = 60;
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let made: Vec<_> = (0..PODS).map(|_| mesh.world.add_pod()).collect();
    let pods: Vec<_> = made
        .iter()
        .map(|pod| pod_of(pod, pod.cgroup.path(), false))
        .collect();
    let mut ebpf = Ebpf::open(mesh.agent.state().path()).expect("the state");
    let policy = no_lists();
    let start = Instant::now();
    for pod in &pods {
        ebpf.enrol(pod, Some(&policy)).expect("enrolled");
    }
    println!("enrol: {:?} a pod", start.elapsed() / PODS);
    let start = Instant::now();
    for pod in &pods {
        let found = ebpf.compare(pod, Some(&policy)).expect("compared");
        assert_eq!(found, Found::AsWanted);
    }
    println!("compare: {:?} a pod", start.elapsed() / PODS);
    let start = Instant::now();
    for pod in &pods {
        ebpf.withdraw(&pod.netns).expect("let go of");
    }
    println!("withdraw: {:?} a pod", start.elapsed() / PODS);
}
