//! What can be missing or in the way: a clear error, and nothing half done.

use std::fs::{File, read_to_string};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use osm_tests::{Need, TempDir, missing};

use crate::scene::{Backend, Scene, hide, read_only_root, said, tools};

const FOREIGN: &str = "-A OUTPUT -d 192.0.2.99/32 -j RETURN";

#[test]
fn foreign_rules_in_both_backends_are_an_error_that_the_flag_resolves() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        scene.change(backend, &[FOREIGN]);
    }
    let before = Backend::ALL.map(|backend| scene.save(backend));
    scene
        .iptables(&["apply"])
        .failed(1, &["both hold nat rules", "--iptables-backend"]);
    assert_eq!(Backend::ALL.map(|backend| scene.save(backend)), before);
    scene.apply(Backend::Legacy, &[]);
    // With rules of ours in one, there is no doubt any more.
    let said = scene.iptables(&["apply"]).succeeded();
    assert!(said.contains("unchanged, by iptables-legacy"), "{said}");
}

#[test]
fn backend_in_use_is_found_and_nft_is_preferred() {
    let Some(scene) = Scene::new() else { return };
    for (backend, rule) in [
        (None, None),
        (Some(Backend::Legacy), Some(FOREIGN)),
        (Some(Backend::Nft), Some(FOREIGN)),
    ] {
        if let (Some(backend), Some(rule)) = (backend, rule) {
            scene.change(backend, &[rule]);
        }
        let said = scene.iptables(&["apply"]).succeeded();
        let expected = backend.unwrap_or(Backend::Nft);
        assert!(
            said.contains(&format!("written, by iptables-{expected}")),
            "{said}"
        );
        let _ = scene.iptables(&["cleanup"]).succeeded();
        if let Some(backend) = backend {
            scene.change(backend, &["-F"]);
        }
    }
}

#[test]
fn lock_that_is_held_is_an_error_within_the_limit() {
    let Some(scene) = Scene::new() else { return };
    let files = TempDir::new();
    let path = files.file("xtables.lock", "");
    let file = File::open(&path).expect("the lock file");
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error);
    let lock = lock.expect("the lock is free");
    let mut command = scene.agent();
    command
        .args([
            "iptables",
            "apply",
            "--iptables-backend",
            "legacy",
            "--lock-wait",
            "1",
            "--netns",
        ])
        .arg(scene.pod().netns.path())
        .env("XTABLES_LOCKFILE", &path);
    let begin = Instant::now();
    said(&mut command).failed(
        1,
        &["iptables-legacy-restore", "xtables lock", "--lock-wait"],
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(!scene.nat(Backend::Legacy)[0].contains("PROXY_"));
    // One that is let go of in time is waited for.
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(300));
            drop(lock);
        });
        let said = said(&mut command).succeeded();
        assert!(said.contains("rules written"), "{said}");
    });
}

#[test]
fn read_only_root_and_net_admin_alone_are_enough() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Program("setpriv")]) {
        return;
    }
    for (backend, capabilities) in [
        (Backend::Nft, "--bounding-set=-all,+net_admin"),
        // It opens a raw socket.
        (Backend::Legacy, "--bounding-set=-all,+net_admin,+net_raw"),
    ] {
        for expected in ["rules written", "unchanged"] {
            let said = scene.contained(read_only_root, || {
                let mut command = Command::new("setpriv");
                command
                    .args([capabilities, "--"])
                    .arg(scene.agent().get_program());
                command.args([
                    "iptables",
                    "apply",
                    "--iptables-backend",
                    &backend.to_string(),
                ]);
                command
            });
            let said = said.succeeded();
            assert!(said.contains(expected), "{said}");
        }
        assert!(scene.nat(backend)[0].contains("PROXY_OUTPUT"));
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

#[test]
fn missing_capability_is_named_with_where_to_add_it() {
    let Some(scene) = Scene::new() else { return };
    if missing(&[Need::Program("setpriv")]) {
        return;
    }
    for (backend, without, name) in [
        ("nft", "--bounding-set=-net_admin", "CAP_NET_ADMIN"),
        ("legacy", "--bounding-set=-net_admin", "CAP_NET_ADMIN"),
        ("legacy", "--bounding-set=-net_raw", "CAP_NET_RAW"),
    ] {
        let said = scene.contained(
            || {},
            || {
                let mut command = Command::new("setpriv");
                command
                    .args([without, "--"])
                    .arg(scene.agent().get_program());
                command.args(["iptables", "apply", "--iptables-backend", backend]);
                command
            },
        );
        said.failed(1, &[name, "capabilities.add", "runAsUser: 0"]);
    }
    // As an ordinary user, who may not read the agent where it was built.
    let dir = TempDir::new();
    let copy = dir.path().join("osm-agent");
    std::fs::copy(scene.agent().get_program(), &copy).expect("a copy of the agent");
    for path in [dir.path(), &copy] {
        script(path);
    }
    let said = scene.contained(
        || {},
        || {
            let mut command = Command::new(copy);
            command.uid(1000).args(["iptables", "apply"]);
            command
        },
    );
    said.failed(1, &["CAP_NET_ADMIN", "capabilities.add"]);
    assert!(
        Backend::ALL
            .iter()
            .all(|backend| !scene.nat(*backend)[0].contains("PROXY_"))
    );
}

#[test]
fn missing_tools_are_an_error_that_names_the_package() {
    let Some(scene) = Scene::new() else { return };
    // What the agent itself needs is not there.
    let hidden = || hide("/usr/sbin", MsFlags::empty());
    let agent = |path: &Path, args: &[&str]| {
        let mut command = scene.agent();
        command.env("PATH", path).arg("iptables").args(args);
        command
    };
    let nowhere = Path::new("");
    scene
        .contained(hidden, || agent(nowhere, &["apply"]))
        .failed(1, &["iptables-nft-restore", "install the package iptables"]);
    // Where there is one half only, IPv4 alone can be had, and both can't.
    for backend in Backend::ALL {
        let names = ["restore", "save"].map(|action| format!("iptables-{backend}-{action}"));
        let dir = tools(backend, &names.each_ref().map(String::as_str));
        let dual = ["apply", "--ip-families", "dual"];
        scene.contained(hidden, || agent(dir.path(), &dual)).failed(
            1,
            &[
                &format!("ip6tables-{backend}-restore"),
                "install the package",
            ],
        );
        assert!(!scene.nat(backend)[0].contains("PROXY_"));
        let said = scene
            .contained(hidden, || agent(dir.path(), &["apply"]))
            .succeeded();
        assert!(
            said.contains(&format!("written, by iptables-{backend}")),
            "{said}"
        );
        let _ = scene.iptables(&["cleanup"]).succeeded();
    }
}

#[test]
fn failing_ipv6_half_takes_the_ipv4_half_back() {
    let Some(scene) = Scene::new() else { return };
    for backend in Backend::ALL {
        let names = ["iptables", "ip6tables"]
            .map(|tool| ["restore", "save"].map(|action| format!("{tool}-{backend}-{action}")))
            .concat();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let dir = tools(backend, &names);
        let broken = dir.path().join(format!("ip6tables-{backend}-restore"));
        std::fs::remove_file(&broken).expect("the link");
        std::fs::write(
            &broken,
            "#!/bin/sh\necho 'line 3: no such thing' >&2\nexit 1\n",
        )
        .expect("a tool");
        script(&broken);
        let dual = || {
            let mut command = scene.agent();
            command.env("PATH", format!("{}:/usr/sbin", dir.path().display()));
            command.args(["iptables", "apply", "--ip-families", "dual"]);
            command
        };
        scene.change(backend, &[FOREIGN]);
        let before = scene.nat(backend);
        // The tool's words, and the line of our input that it means.
        let words = [
            "ip6tables",
            "no such thing",
            "line 3: :PROXY_INBOUND - [0:0]",
        ];
        scene.contained(|| {}, dual).failed(1, &words);
        assert_eq!(scene.nat(backend), before);
        // What was in force stays in force.
        scene.apply(
            backend,
            &[
                "--annotation",
                "openservicemesh.io/outbound-port-exclusion-list=81",
            ],
        );
        let before = scene.nat(backend);
        scene.contained(|| {}, dual).failed(1, &words);
        assert_eq!(scene.nat(backend), before);
        let _ = scene.iptables(&["cleanup"]).succeeded();
        scene.change(backend, &["-F"]);
    }
}

#[test]
fn program_that_fails_without_a_word_is_reported_by_its_status() {
    let Some(scene) = Scene::new() else { return };
    // Where there is no table, there is nothing to read.
    scene.change(Backend::Nft, &[FOREIGN]);
    let dir = TempDir::new();
    for name in ["iptables-nft-save", "iptables-nft-restore"] {
        let path = dir.file(name, "#!/bin/sh\nexit 3\n");
        script(&path);
    }
    let said = scene.contained(
        || hide("/usr/sbin", MsFlags::empty()),
        || {
            let mut command = scene.agent();
            command.env("PATH", dir.path()).args(["iptables", "apply"]);
            command
        },
    );
    said.failed(1, &["iptables-nft-save", "exit status: 3"]);
}

#[test]
fn kernel_without_nf_tables_gets_legacy_or_an_error_that_names_the_modules() {
    let Some(scene) = Scene::new() else { return };
    let dir = tools(
        Backend::Legacy,
        &["iptables-legacy-save", "iptables-legacy-restore"],
    );
    for name in ["iptables-nft-save", "iptables-nft-restore"] {
        let refuses =
            "#!/bin/sh\necho Failed to initialize nft: Protocol not supported >&2\nexit 1\n";
        script(&dir.file(name, refuses));
    }
    let apply = || {
        scene.contained(
            || hide("/usr/sbin", MsFlags::empty()),
            || {
                let mut command = scene.agent();
                command.env("PATH", dir.path()).args(["iptables", "apply"]);
                command
            },
        )
    };
    let said = apply().succeeded();
    assert!(said.contains("rules written, by iptables-legacy"), "{said}");
    let _ = scene.iptables(&["cleanup"]).succeeded();
    // Where legacy does not work either, both say why.
    let legacy = dir.path().join("iptables-legacy-restore");
    std::fs::remove_file(&legacy).expect("the link");
    script(&dir.file(
        "iptables-legacy-restore",
        "#!/bin/sh\necho \"unable to initialize table 'nat'\" >&2\nexit 3\n",
    ));
    apply().failed(
        1,
        &[
            "iptable_nat",
            "iptables-nft does not work here either",
            "nft_compat",
        ],
    );
    std::fs::remove_file(&legacy).expect("the script");
    apply().failed(1, &["Protocol not supported", "nft_compat"]);
}

/// Makes a file a program.
fn script(path: &Path) {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("permissions");
}

#[test]
fn host_namespace_is_refused() {
    let Some(scene) = Scene::new() else { return };
    // Only there has the kernel this setting. Whatever happens, cleanup writes no rule.
    if read_to_string("/proc/sys/net/core/netdev_budget").is_err() {
        println!("skipped: host_namespace_is_refused needs to run outside of any namespace");
        return;
    }
    let said = said(scene.agent().args(["iptables", "cleanup"]));
    said.failed(2, &["is the host's own", "--netns", "hostNetwork"]);
}
