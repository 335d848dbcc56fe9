//! What the source of files says, of real files that change.

mod source;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use osm_agent::daemon::source::{Membership, PodSpec, files::FileOptions};
use source::{Directory, Source};

/// An upper bound: nothing that is said takes so long.
const SOON: Duration = Duration::from_secs(10);

/// How long is waited for what must not be said.
const SILENCE: Duration = Duration::from_millis(800);

/// How often files are read that nobody says anything of.
const OFTEN: Duration = Duration::from_millis(20);

const PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";

fn mesh(port: u16) -> String {
    format!(
        "kind: MeshConfig\napiVersion: config.openservicemesh.io/v1alpha2\n\
         spec: {{traffic: {{outboundPortExclusionList: [{port}]}}}}\n"
    )
}

fn pod(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{PORTS}: \"{ports}\"}}}}\n\
         osm: {{netns: /run/netns/{name}, cgroup: test/{name}}}\n"
    )
}

fn spec(name: &str, ports: &str) -> PodSpec {
    PodSpec {
        name: format!("default/{name}"),
        uid: None,
        membership: Membership::InMesh,
        annotations: BTreeMap::from([(PORTS.to_owned(), ports.to_owned())]),
        netns: Some(format!("/run/netns/{name}").into()),
        cgroup: Some(format!("test/{name}").into()),
        sidecar: None,
    }
}

fn specs<const N: usize>(pods: [(&str, PodSpec); N]) -> BTreeMap<String, PodSpec> {
    pods.map(|(key, spec)| (key.to_owned(), spec)).into()
}

#[test]
fn pod_files_appear_change_and_go() {
    let directory = Directory::new();
    for (name, text) in [
        ("web.yaml", pod("web", "80")),
        (".hidden.yaml", pod("hidden", "1")),
        ("web.yaml~", pod("backup", "1")),
        ("#web.yaml#", pod("unsaved", "1")),
        ("README", "hello".into()),
    ] {
        directory.write(name, &text);
    }
    fs::create_dir(directory.path("old.yaml")).expect("a directory");
    let source = Source::of_pods(&directory);
    assert_eq!(source.pods(), specs([("web.yaml", spec("web", "80"))]));

    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"},
                   "osm": {"cgroup": "test/db"}}"#;
    directory.write("db.json", json);
    source.pods_until(|pods| {
        pods.get("db.json")
            .is_some_and(|it| it.name == "default/db")
    });

    directory.replace("web.yaml", &pod("web", "81"));
    source.pods_until(|pods| pods.get("web.yaml") == Some(&spec("web", "81")));

    fs::rename(directory.path("web.yaml"), directory.path("shop.yml")).expect("renamed");
    source.pods_until(|pods| pods.contains_key("shop.yml") && !pods.contains_key("web.yaml"));

    fs::remove_file(directory.path("shop.yml")).expect("removed");
    source.pods_until(|pods| pods.len() == 1 && pods.contains_key("db.json"));

    directory.write("notes.txt", "nothing of ours");
    directory.replace("db.json", json);
    source.expect_silence();
    assert!(source.end().is_ok());
}

#[test]
fn bad_pod_file_keeps_what_it_said_and_hides_no_other() {
    let directory = Directory::new();
    directory.write("a.yaml", &pod("a", "80"));
    directory.write("b.yaml", "kind: [");
    let source = Source::of_pods(&directory);
    let pods = source.pods();
    assert_eq!(pods["a.yaml"], spec("a", "80"));
    let Membership::Unreadable(reason) = &pods["b.yaml"].membership else {
        panic!("{pods:?}");
    };
    assert!(
        reason.contains("b.yaml: cannot be read as YAML"),
        "{reason}"
    );
    assert_eq!(pods["b.yaml"].name, "b.yaml");

    directory.replace("a.yaml", "kind: Pod\napiVersion: v1\nosm: {}\n");
    source.expect_silence();
    directory.write("c.yaml", &pod("c", "82"));
    source.pods_until(|pods| {
        assert_eq!(pods["a.yaml"], spec("a", "80"));
        pods.get("c.yaml") == Some(&spec("c", "82"))
    });
    assert_eq!(source.errors(), 0, "all of it could be read");
    directory.replace("b.yaml", &pod("b", "81"));
    source.pods_until(|pods| pods.get("b.yaml") == Some(&spec("b", "81")));
    // Once it is gone, it is not remembered.
    fs::remove_file(directory.path("a.yaml")).expect("removed");
    source.pods_until(|pods| !pods.contains_key("a.yaml"));
}

#[test]
fn second_file_of_a_pod_is_left_out_and_said_to_be() {
    let directory = Directory::new();
    directory.write("b.yaml", &pod("web", "80"));
    directory.write("c.yaml", &pod("c", "82").replace("test/c", "test/web"));
    let source = Source::of_pods(&directory);
    let why = |pods: &BTreeMap<String, PodSpec>, key: &str| match &pods[key].membership {
        Membership::Unreadable(why) => why.clone(),
        other => panic!("{key}: {other:?}"),
    };
    let pods = source.pods();
    assert_eq!(pods["b.yaml"], spec("web", "80"));
    let said = why(&pods, "c.yaml");
    assert!(
        said.contains("b.yaml has the same cgroup test/web"),
        "{said}"
    );
    // The one that was there before counts, though another comes first by its name.
    directory.write("a.yaml", &pod("web", "81"));
    source.pods_until(|pods| {
        pods.contains_key("a.yaml") && {
            assert_eq!(pods["b.yaml"], spec("web", "80"));
            why(pods, "a.yaml").contains("b.yaml has the same name default/web")
        }
    });
    fs::remove_file(directory.path("b.yaml")).expect("removed");
    source.pods_until(|pods| pods.get("a.yaml") == Some(&spec("web", "81")));
}

#[test]
fn mesh_config_is_followed_through_every_way_of_writing_it() {
    let directory = Directory::new();
    let path = directory.path("mesh.yaml");
    let source = Source::new(Some(path.clone()), None);
    let missing = source.mesh().expect_err("it is not there");
    assert!(missing.contains("mesh.yaml: cannot be read"), "{missing}");

    directory.write("mesh.yaml", &mesh(80));
    source.expect_port(80);
    directory.write("mesh.yaml", &mesh(81));
    source.expect_port(81);
    directory.replace("mesh.yaml", &mesh(82));
    source.expect_port(82);
    directory.replace("mesh.yaml", &mesh(0));
    let bad = source.mesh().expect_err("0 is no port");
    assert!(bad.contains("outboundPortExclusionList[0] is 0"), "{bad}");
    directory.replace("mesh.yaml", &mesh(82));
    source.expect_port(82);
    fs::remove_file(&path).expect("removed");
    assert!(source.mesh().is_err());
    directory.write("elsewhere", &mesh(83));
    symlink("elsewhere", &path).expect("a link");
    source.expect_port(83);
    directory.replace("mesh.yaml", &mesh(83));
    source.expect_silence();
}

#[test]
fn mesh_config_behind_links_is_followed_where_they_lead() {
    let (directory, far) = (Directory::new(), Directory::new());
    far.write("mesh.yaml", &mesh(80));
    let path = directory.path("mesh.yaml");
    symlink(far.path("mesh.yaml"), &path).expect("a link");
    let source = Source::new(Some(path), None);
    source.expect_port(80);
    far.replace("mesh.yaml", &mesh(81));
    source.expect_port(81);
}

/// As the kubelet updates a volume of a ConfigMap.
fn publish(directory: &Directory, version: &str, file: &str, text: &str) {
    let data = directory.path(version);
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join(file), text).expect("a file");
    let _ = fs::remove_file(directory.path("..data_tmp"));
    symlink(version, directory.path("..data_tmp")).expect("a link");
    fs::rename(directory.path("..data_tmp"), directory.path("..data")).expect("swapped");
}

#[test]
fn swapped_config_map_is_read_again() {
    for file in ["mesh.yaml", "web.yaml"] {
        let is_mesh = file == "mesh.yaml";
        let text = |port: u16| {
            if is_mesh {
                mesh(port)
            } else {
                pod("web", &port.to_string())
            }
        };
        let directory = Directory::new();
        publish(&directory, "..1", file, &text(80));
        symlink(Path::new("..data").join(file), directory.path(file)).expect("a link");
        let source = if is_mesh {
            Source::new(Some(directory.path(file)), None)
        } else {
            Source::of_pods(&directory)
        };
        let expect = |port: u16| {
            if is_mesh {
                source.expect_port(port);
            } else {
                let ports = port.to_string();
                source.pods_until(|pods| pods.get(file) == Some(&spec("web", &ports)));
            }
        };
        expect(80);
        publish(&directory, "..2", file, &text(81));
        fs::remove_dir_all(directory.path("..1")).expect("removed");
        expect(81);
        publish(&directory, "..3", file, &text(82));
        expect(82);
    }
}

#[test]
fn directory_that_vanishes_changes_nothing_until_it_is_back() {
    let parent = Directory::new();
    let pods = parent.path("pods");
    fs::create_dir(&pods).expect("a directory");
    fs::write(pods.join("web.yaml"), pod("web", "80")).expect("a file");
    let source = Source::new(None, Some(pods.clone()));
    assert!(source.mesh().is_ok());
    assert_eq!(source.pods(), specs([("web.yaml", spec("web", "80"))]));

    assert_eq!(source.errors(), 0);

    fs::rename(&pods, parent.path("away")).expect("renamed");
    source.expect_silence();
    let since = Instant::now();
    while source.errors() == 0 {
        assert!(since.elapsed() < SOON, "nobody counts it");
        thread::sleep(OFTEN);
    }
    fs::create_dir(&pods).expect("a directory");
    source.pods_until(BTreeMap::is_empty);
    fs::write(pods.join("web.yaml"), pod("web", "81")).expect("a file");
    source.pods_until(|pods| pods.get("web.yaml") == Some(&spec("web", "81")));
}

#[test]
fn directory_that_is_missing_at_start_is_an_error() {
    let parent = Directory::new();
    parent.write("file", "");
    for name in ["missing", "file"] {
        let mut source = Source::new(None, Some(parent.path(name)));
        let error = source.join().expect_err("there is no directory");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(&format!("{name}: cannot be read")), "{text}");
    }
}

#[test]
fn files_read_again_without_news_say_nothing() {
    let directory = Directory::new();
    directory.write("mesh.yaml", &mesh(80));
    let source = Source::with(FileOptions {
        mesh_config: Some(directory.path("mesh.yaml")),
        pods: Some(directory.0.clone()),
        resync: OFTEN,
    });
    source.expect_port(80);
    let pods = source.pods();
    // The MeshConfig is no pod file.
    assert!(matches!(
        pods["mesh.yaml"].membership,
        Membership::Unreadable(_)
    ));
    source.expect_silence();
}

#[test]
fn resync_has_files_read_that_inotify_is_silent_about() {
    let directory = Directory::new();
    // Changed by way of a hard link in a directory that nobody watches.
    let far = Directory::new();
    directory.write("mesh.yaml", &mesh(80));
    fs::hard_link(directory.path("mesh.yaml"), far.path("other")).expect("a link");
    let path = directory.path("mesh.yaml");
    let told = Source::new(Some(path.clone()), None);
    let looks = Source::with(FileOptions {
        mesh_config: Some(path),
        pods: None,
        resync: OFTEN,
    });
    told.expect_port(80);
    looks.expect_port(80);
    far.write("other", &mesh(81));
    looks.expect_port(81);
    told.expect_silence();
}

#[test]
fn source_ends_when_nobody_listens() {
    let directory = Directory::new();
    let mut source = Source::of_pods(&directory);
    let _ = source.pods();
    source.events = mpsc::channel().1;
    directory.write("web.yaml", &pod("web", "80"));
    assert!(source.join().is_ok());
}
