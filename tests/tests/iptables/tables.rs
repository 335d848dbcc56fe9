//! Where there is no table, no program is started.

use std::{
    collections::BTreeMap,
    fs::{Permissions, set_permissions},
    os::unix::fs::PermissionsExt as _,
    thread,
};

use osm_agent::{
    iptables::{self, Iptables, Target},
    pod::Netns,
};
use osm_tests::TempDir;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::scene::{Backend, Scene};

const FOREIGN: &str = "-A OUTPUT -d 192.0.2.99/32 -j RETURN";

/// Programs that note that they were called.
fn noting() -> TempDir {
    let dir = TempDir::new();
    let called = dir.path().join("called").display().to_string();
    for tool in ["iptables", "ip6tables"] {
        for action in ["nft-save", "nft-restore", "legacy-save", "legacy-restore"] {
            let script = format!("#!/bin/sh\necho {tool}-{action} >> {called}\n");
            let path = dir.file(&format!("{tool}-{action}"), &script);
            set_permissions(path, Permissions::from_mode(0o755)).expect("a program");
        }
    }
    dir
}

#[test]
fn only_the_tools_whose_table_is_there_are_started() {
    let Some(scene) = Scene::new() else { return };
    let netns = Netns::open(&scene.pod().netns.path()).expect("the pod's namespace");
    let called = || {
        let dir = noting();
        let tools = Iptables::new().with_directories(vec![dir.path().to_owned()]);
        let found = tools
            .inspect(&Target::of(&netns))
            .expect("the rules are read");
        assert_eq!(found, []);
        let called = std::fs::read_to_string(dir.path().join("called")).unwrap_or_default();
        let mut called: Vec<_> = called.lines().map(str::to_owned).collect();
        called.sort_unstable();
        called
    };
    assert!(called().is_empty());
    scene.change(Backend::Nft, &[FOREIGN]);
    assert_eq!(called(), ["iptables-nft-save"]);
    scene.change(Backend::Legacy, &[FOREIGN]);
    assert_eq!(called(), ["iptables-legacy-save", "iptables-nft-save"]);
}

/// The agent's own question is told from that of the tools by the kind of socket.
#[test]
fn kernel_that_does_not_tell_of_tables_is_asked_by_the_tool() {
    let Some(scene) = Scene::new() else { return };
    let netns = Netns::open(&scene.pod().netns.path()).expect("the pod's namespace");
    let found = |errno: i32| {
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                refuse_datagram_netlink(errno);
                Iptables::new().inspect(&Target::of(&netns))
            });
            asked
                .join()
                .expect("the thread ends")
                .expect("the rules are read")
        })
    };
    assert_eq!(found(libc::EACCES), []);
    scene.apply(Backend::Nft, &[]);
    assert_eq!(found(libc::EACCES), [iptables::Backend::Nft]);
    // A kernel without netfilter, where nothing needs to be asked.
    assert_eq!(found(libc::EPROTONOSUPPORT), []);
}

/// From now on, in this thread and what it starts, socket(2) fails for netfilter.
fn refuse_datagram_netlink(errno: i32) {
    let is = |index: u8, operator, value: i32| {
        let value = u64::from(value.unsigned_abs());
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).expect("a condition")
    };
    let rule = SeccompRule::new(vec![
        is(0, SeccompCmpOp::Eq, libc::AF_NETLINK),
        is(1, SeccompCmpOp::MaskedEq(0xf), libc::SOCK_DGRAM),
        is(2, SeccompCmpOp::Eq, libc::NETLINK_NETFILTER),
    ]);
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_socket, vec![rule.expect("a rule")])]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().expect("a known machine"),
    );
    let program: seccompiler::BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("a filter that compiles");
    seccompiler::apply_filter(&program).expect("the filter is taken");
}
