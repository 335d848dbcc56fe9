//! Where the node agent finds pods: real cgroups, namespaces and processes.

mod fixtures;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use osm_agent::daemon::{
    locate::Whereabouts,
    source::{PodSpec, SidecarPlace},
};
use osm_tests::{Need, Netns, World, missing};

use fixtures::{PATIENCE, Sleeper, Tree, expect_in, expect_not_yet, expect_unfit, spec, uid, wait};

#[test]
fn pod_of_either_driver_is_found_by_its_uid() {
    let Some(world) = World::new() else { return };
    let netns = &world.pod.netns;
    for nesting in [
        "kubepods/podUID",
        "kubelet/kubepods/besteffort/podUID",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice",
        "system.slice/docker-1.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_ID.slice",
    ] {
        let (mut tree, uid) = (Tree::new(), uid());
        let path = nesting
            .replace("U_ID", &uid.replace('-', "_"))
            .replace("UID", &uid);
        let cgroup = tree.make(&path);
        let container = tree.make(&format!("{path}/container"));
        expect_not_yet(tree.locate(&spec(&uid), None), "has no process yet");
        let sleeper = Sleeper::new(Some(netns), &[&container]);
        let pod = expect_in(tree.locate(&spec(&uid), None), netns);
        assert_eq!(pod.cgroup.path(), cgroup);
        assert_eq!(pod.name, "default/web");
        assert!(pod.addresses.contains(&world.pod.ip4()), "{pod:?}");
        assert_eq!((pod.sidecar_uid, pod.shares_cgroup), (1500, false));
        drop(sleeper);
    }
}

/// As the runtimes name it, with either driver; crun has processes one level below.
#[test]
fn sidecar_s_container_is_found_by_its_id_once_it_has_a_process() {
    let Some(world) = World::new() else { return };
    let netns = &world.pod.netns;
    for (directory, processes_in) in [
        ("4f2a", ""),
        ("cri-containerd-4f2a.scope", ""),
        ("crio-4f2a.scope", "/container"),
    ] {
        let (mut tree, uid) = (Tree::new(), uid());
        let pod = format!("kubepods/pod{uid}");
        let app = tree.make(&format!("{pod}/77/4f2a"));
        let beside = tree.make(&format!("{pod}/crio-conmon-4f2a.scope"));
        let _others = [&app, &beside].map(|it| Sleeper::new(Some(netns), &[it]));
        let own = tree.make(&format!("{pod}/{directory}{processes_in}"));
        let mut spec = spec(&uid);
        let id = |tree: &Tree, spec: &PodSpec| {
            let pod = expect_in(tree.locate(spec, None), netns);
            pod.sidecar_cgroup.id(Some(1)).expect("an id")
        };
        assert_eq!(id(&tree, &spec), None, "nobody says which it is");
        spec.sidecar = Some(SidecarPlace::Container("4f2a".into()));
        assert_eq!(id(&tree, &spec), None, "{directory}");
        let sleeper = Sleeper::new(Some(netns), &[&own]);
        let expected = own.metadata().expect("a cgroup").ino();
        assert_eq!(id(&tree, &spec), Some(expected), "{directory}");
        drop(sleeper);
        assert_eq!(id(&tree, &spec), None, "{directory}");
        spec.sidecar = Some(SidecarPlace::Cgroup(own.clone()));
        assert_eq!(id(&tree, &spec), Some(expected), "{directory}");
        spec.sidecar = Some(SidecarPlace::Cgroup(own.join("later")));
        assert_eq!(id(&tree, &spec), None, "it may come yet");
        let other = world.pod.sidecar_cgroup().path();
        spec.sidecar = Some(SidecarPlace::Cgroup(other.into()));
        let why = format!("{}: is not below the pod's cgroup", other.display());
        expect_unfit(tree.locate(&spec, None), &why);
    }
}

#[test]
fn cgroup_that_a_pod_names_after_another_pod_is_not_that_pod_s() {
    let Some(world) = World::new() else { return };
    let (mut tree, [own, other]) = (Tree::new(), [uid(), uid()]);
    let inside = tree.make(&format!("kubepods/pod{own}/kubepods/pod{other}"));
    let _sleeper = Sleeper::new(Some(&world.pod.netns), &[&inside]);
    expect_not_yet(tree.locate(&spec(&other), None), "no cgroup below");
    let _ = expect_in(tree.locate(&spec(&own), None), &world.pod.netns);
}

#[test]
fn of_two_cgroups_with_a_uid_the_root_owner_s_counts_and_else_none() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid) = (Tree::new(), uid());
    let own = tree.make(&format!("kubepods/pod{uid}"));
    let other = tree.make(&format!("user.slice/pod{uid}"));
    let _sleeper = Sleeper::new(Some(&world.pod.netns), &[&own]);
    expect_unfit(tree.locate(&spec(&uid), None), "two cgroups have the name");
    std::os::unix::fs::chown(&other, Some(1000), None).expect("a delegated cgroup");
    let pod = expect_in(tree.locate(&spec(&uid), None), &world.pod.netns);
    assert_eq!(pod.cgroup.path(), own);
}

#[test]
fn pod_without_process_is_found_by_the_namespace_that_is_known() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid) = (Tree::new(), uid());
    let path = world.pod.netns.path();
    let with_netns = |path: PathBuf| PodSpec {
        netns: Some(path),
        ..spec(&uid)
    };
    expect_not_yet(tree.locate(&spec(&uid), Some(&path)), "no cgroup below");
    tree.make(&format!("kubepods/pod{uid}"));
    let pod = expect_in(tree.locate(&spec(&uid), Some(&path)), &world.pod.netns);
    assert_eq!(pod.sidecar_uid, 1500);
    let _ = expect_in(tree.locate(&with_netns(path), None), &world.pod.netns);
    let absent = with_netns("/nonexistent/netns".into());
    expect_not_yet(
        tree.locate(&absent, None),
        "/nonexistent/netns does not exist",
    );
    let bare = Netns::new();
    expect_not_yet(tree.locate(&spec(&uid), Some(&bare.path())), "no address");
    for (path, words) in [
        ("/proc/self/ns/net", "own network namespace"),
        ("/proc/self/ns/uts", "is not a network namespace"),
        ("/dev/null", "is not a network namespace"),
    ] {
        expect_unfit(tree.locate(&with_netns(path.into()), None), words);
    }
}

#[test]
fn cgroup_that_the_source_names_wins_and_must_be_a_pod_s() {
    let Some(world) = World::new() else { return };
    let mut tree = Tree::new();
    let cgroup = tree.make("web");
    let with_cgroup = |path: &Path| PodSpec {
        cgroup: Some(path.into()),
        ..spec(&uid())
    };
    let _sleeper = Sleeper::new(Some(&world.pod.netns), &[&cgroup]);
    for path in [Path::new("web"), &cgroup] {
        let pod = expect_in(tree.locate(&with_cgroup(path), None), &world.pod.netns);
        assert_eq!(pod.cgroup.path(), cgroup);
    }
    let absent = with_cgroup(Path::new("absent"));
    expect_not_yet(tree.locate(&absent, None), "absent does not exist");
    let root = osm_tests::cgroup::root().expect("a hierarchy");
    expect_unfit(tree.locate(&with_cgroup(&root), None), "is the root cgroup");
    let given = with_cgroup(Path::new("/tmp"));
    expect_unfit(tree.locate(&given, None), "is not a cgroup");
    let neither = PodSpec {
        uid: None,
        ..spec("")
    };
    expect_unfit(
        tree.locate(&neither, None),
        "neither its UID nor its cgroup",
    );
    // The cgroup of one pod and the network namespace of another one.
    let (other, path) = (world.add_pod(), with_cgroup(Path::new("web")));
    let mixed = PodSpec {
        netns: Some(other.netns.path()),
        ..path
    };
    expect_unfit(tree.locate(&mixed, None), "of the same pod");
}

#[test]
fn oldest_process_says_which_network_namespace_is_the_pod_s() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid, other) = (Tree::new(), uid(), world.add_pod());
    let cgroup = tree.make(&format!("kubepods/pod{uid}"));
    let container = tree.make(&format!("kubepods/pod{uid}/app"));
    let oldest = Sleeper::new(Some(&world.pod.netns), &[&container]);
    // Start times are counted in hundredths of a second.
    thread::sleep(Duration::from_millis(30));
    let _newer = Sleeper::new(Some(&other.netns), &[&cgroup]);
    let hint = other.netns.path();
    let _ = expect_in(tree.locate(&spec(&uid), Some(&hint)), &world.pod.netns);
    drop(oldest);
    let _ = expect_in(tree.locate(&spec(&uid), None), &other.netns);
}

#[test]
fn network_namespace_that_a_program_made_itself_is_not_the_pod_s() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid, netns) = (Tree::new(), uid(), &world.pod.netns);
    let cgroup = tree.make(&format!("kubepods/pod{uid}"));
    let _app = Sleeper::unshared(&["--net"], netns, &cgroup);
    thread::sleep(Duration::from_millis(30));
    let _newer = Sleeper::new(Some(netns), &[&cgroup]);
    let _ = expect_in(tree.locate(&spec(&uid), None), netns);
}

#[test]
fn container_that_is_being_started_in_the_node_s_namespace_is_waited_for() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid, netns) = (Tree::new(), uid(), &world.pod.netns);
    let cgroup = tree.make(&format!("kubepods/pod{uid}"));
    let starting = Sleeper::new(None, &[&cgroup]);
    expect_not_yet(tree.locate(&spec(&uid), None), "has just started");
    thread::sleep(Duration::from_millis(30));
    let pod = Sleeper::new(Some(netns), &[&cgroup]);
    let _ = expect_in(tree.locate(&spec(&uid), None), netns);
    drop(pod);
    thread::sleep(Duration::from_secs(11));
    expect_unfit(tree.locate(&spec(&uid), None), "own network namespace");
    drop(starting);
}

#[test]
fn sidecar_s_user_is_that_of_the_pod_s_user_namespace() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid, netns) = (Tree::new(), uid(), &world.pod.netns);
    let cgroup = tree.make(&format!("kubepods/pod{uid}"));
    for (map, expected) in [
        (None, Err(())),
        (Some("0 1000000 65536\n"), Ok(1_001_500)),
        (Some("0 1000000 1500\n1500 7 1\n"), Ok(7)),
        (Some("0 1000000 1500\n"), Err(())),
    ] {
        let sleeper = Sleeper::unshared(&[], netns, &cgroup);
        if let Some(map) = map {
            sleeper.map_users(map);
        }
        let whereabouts = tree.locate(&spec(&uid), None);
        match (map, expected) {
            (_, Ok(expected)) => {
                let pod = expect_in(whereabouts, netns);
                assert_eq!(pod.sidecar_uid, expected, "{map:?}");
            }
            (None, _) => expect_not_yet(whereabouts, "has no users yet"),
            (Some(_), _) => expect_unfit(whereabouts, "has no UID 1500"),
        }
    }
}

#[test]
fn recorded_pod_is_found_by_the_numbers_that_the_kernel_knows() {
    let Some(world) = World::new() else { return };
    let (mut tree, netns, uid) = (Tree::new(), &world.pod.netns, uid());
    let other = world.add_pod();
    let by_hand = tree.make("web");
    let container = tree.make(&format!("kubepods/pod{uid}/container"));
    for path in [by_hand, container] {
        let cgroup = tree.below.iter().find(|it| it.path() == path);
        let id = cgroup.expect("it was made").id();
        let locate = |cookie| {
            let locator = tree.locator();
            let index = locator.index().expect("the hierarchy can be read");
            locator.locate_known("default/web", id, cookie, &index)
        };
        expect_not_yet(locate(netns.cookie()), "no process of its cgroup");
        let _older = Sleeper::new(Some(&other.netns), &[&path]);
        let _own = Sleeper::new(Some(netns), &[&path]);
        let pod = expect_in(locate(netns.cookie()), netns);
        assert_eq!(pod.cgroup.path(), path);
        let _ = expect_in(locate(other.netns.cookie()), &other.netns);
        expect_not_yet(locate(world.outside.netns.cookie()), "no process of its");
    }
    let locator = tree.locator();
    let index = locator.index().expect("the hierarchy can be read");
    let gone = locator.locate_known("default/web", u64::MAX, netns.cookie(), &index);
    expect_not_yet(gone, "does not exist");
}

/// A cgroup of version 1, gone with this guard.
struct Legacy(Vec<PathBuf>);

impl Legacy {
    fn new(hierarchy: &Path, uid: &str) -> Self {
        let top = hierarchy.join(osm_tests::process::unique_name());
        let pod = top.join(format!("pod{uid}"));
        fs::create_dir_all(&pod).expect("a cgroup of version 1");
        Self(vec![top, pod])
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for path in self.0.iter().rev() {
            while fs::remove_dir(path).is_err() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn pod_of_version_1_is_found_in_the_shared_cgroup() {
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
    let pids = mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let is_pids = fields[2] == "cgroup" && fields[3].split(',').any(|it| it == "pids");
        is_pids.then(|| PathBuf::from(fields[1]))
    });
    let Some(hierarchy) = pids else {
        println!("skipped: no cgroup hierarchy of version 1 with pids");
        return;
    };
    let Some(world) = World::new() else { return };
    let (mut tree, netns, uid) = (Tree::new(), &world.pod.netns, uid());
    let shared = tree.make("runtime.service");
    let legacy = Legacy::new(&hierarchy, &uid);
    let locate = |shared: &Path, hint: Option<&Path>| {
        let locator = tree.locator().with_shared_cgroup(Some(shared.to_owned()));
        let index = locator.index().expect("the hierarchies can be read");
        locator.locate(&spec(&uid), &index, hint)
    };
    expect_not_yet(locate(&shared, None), "has no process yet");
    let _stranger = Sleeper::new(Some(&world.outside.netns), &[&shared]);
    let pod = Sleeper::new(Some(netns), &[&legacy.0[1]]);
    expect_unfit(locate(&shared, None), "is not in the shared cgroup");
    pod.join(&shared);
    let it = expect_in(locate(Path::new("runtime.service"), None), netns);
    assert!(it.shares_cgroup);
    assert_eq!(it.cgroup.path(), shared);
    let root = osm_tests::cgroup::root().expect("a hierarchy");
    expect_unfit(locate(&root, None), "is the root cgroup");
    let known = {
        let locator = tree.locator().with_shared_cgroup(Some(shared.clone()));
        let index = locator.index().expect("the hierarchies can be read");
        let id = it.cgroup.id().expect("an id");
        locator.locate_known("default/web", id, netns.cookie(), &index)
    };
    assert!(expect_in(known, netns).shares_cgroup);
}

#[test]
fn process_that_comes_and_goes_does_not_keep_its_pod_from_being_found() {
    let Some(world) = World::new() else { return };
    let (mut tree, uid, netns) = (Tree::new(), uid(), &world.pod.netns);
    let cgroup = tree.make(&format!("kubepods/pod{uid}"));
    let mut oldest = Sleeper::new(Some(netns), &[&cgroup]);
    let script = format!(
        "echo $$ >{}/cgroup.procs; while :; do /bin/true; done",
        cgroup.display()
    );
    let churn = Sleeper::of(&["sh", "-c", &script], Some(netns), &[]);
    for _ in 0..300 {
        let _ = expect_in(tree.locate(&spec(&uid), None), netns);
    }
    drop(churn);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(oldest.0.id().cast_signed()),
        Signal::SIGKILL,
    )
    .expect("our child");
    // A zombie is no process that can be looked into.
    wait(|| {
        let whereabouts = tree.locate(&spec(&uid), None);
        matches!(whereabouts, Whereabouts::NotYet(text) if text.contains("no process"))
    });
    oldest.0.wait().expect("our child");
}

#[test]
fn many_pods_are_found_in_one_pass() {
    const PODS: usize = 250;
    if missing(&[Need::Root, Need::CgroupV2, Need::Program("ip")]) {
        return;
    }
    let mut tree = Tree::new();
    let pods: Vec<_> = (0..PODS)
        .map(|number| {
            let (uid, netns) = (uid(), Netns::new());
            netns.ip(&[format!("addr add 10.99.{number}.1/32 dev lo")]);
            let cgroup = tree.make(&format!("kubepods/burstable/pod{uid}"));
            let sleepers = [(); 2].map(|()| Sleeper::new(Some(&netns), &[&cgroup]));
            (uid, netns, sleepers)
        })
        .collect();
    let locator = tree.locator();
    let started = Instant::now();
    let index = locator.index().expect("the hierarchy can be read");
    let indexed = started.elapsed();
    let all: Vec<_> = pods
        .iter()
        .map(|(uid, ..)| locator.locate(&spec(uid), &index, None))
        .collect();
    let located = started.elapsed();
    println!("{PODS} pods: index {indexed:?}, all {located:?}");
    assert_eq!(index.pods(), PODS);
    for (whereabouts, (_, netns, _)) in all.into_iter().zip(&pods) {
        let _ = expect_in(whereabouts, netns);
    }
}
