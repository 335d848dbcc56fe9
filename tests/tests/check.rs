//! `osm-agent check`: what it says on this kernel, on one that refuses, and without privilege.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
    thread,
};

use osm_tests::{Cgroup, Need, agent, missing};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::Value;

const MAP_CREATE: u64 = 0;
const PROG_LOAD: u64 = 5;
const OBJ_PIN: u64 = 6;
const LINK_CREATE: u64 = 28;

/// The names that programs may rely on.
const FEATURES: [(&str, &str); 34] = [
    ("bpf", "ebpf"),
    ("btf", "ebpf"),
    ("cgroup_v2", "ebpf"),
    ("netns_cookie", "ebpf"),
    ("membarrier", "ebpf"),
    ("pidfd_getfd", "ebpf"),
    ("bpffs", "ebpf"),
    ("map_hash", "ebpf"),
    ("map_array", "ebpf"),
    ("map_per_cpu_array", "ebpf"),
    ("map_lpm_trie", "ebpf"),
    ("map_sock_hash", "ebpf"),
    ("map_sk_storage", "ebpf"),
    ("map_ring_buf", "ebpf"),
    ("maps", "ebpf"),
    ("hook_getsockopt", "ebpf"),
    ("hook_getpeername4", "ebpf"),
    ("hook_getpeername6", "ebpf"),
    ("hook_getsockname4", "ebpf"),
    ("hook_getsockname6", "ebpf"),
    ("hook_bind4", "ebpf"),
    ("hook_bind6", "ebpf"),
    ("hook_sockops", "ebpf"),
    ("hook_connect4", "ebpf"),
    ("hook_connect6", "ebpf"),
    ("hook_sk_lookup", "ebpf"),
    ("link_pin", "ebpf"),
    ("link_detach", "ebpf"),
    ("loopback_shortcut", "shortcut"),
    ("enrolment", "ebpf"),
    ("iptables_nft", "iptables"),
    ("ip6tables_nft", "iptables"),
    ("iptables_legacy", "iptables"),
    ("ip6tables_legacy", "iptables"),
];

fn skipped() -> bool {
    missing(&[
        Need::Root,
        Need::CgroupV2,
        Need::Ipv6,
        Need::Agent,
        Need::Program("iptables-nft-restore"),
        Need::Program("iptables-legacy-restore"),
    ])
}

fn check(args: &[&str]) -> Command {
    let mut command = Command::new(agent::binary().expect("the agent"));
    command.arg("check").args(args);
    command
}

/// Runs it where the kernel refuses one system call, if its first argument is one of these.
fn run_where_refused(mut command: Command, refused: &[(i64, u64, i32)]) -> Output {
    let mut filters = Vec::new();
    for (call, argument, errno) in refused {
        let condition =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *argument)
                .expect("a condition on the first argument");
        let rule = SeccompRule::new(vec![condition]).expect("a rule of one condition");
        let filter = SeccompFilter::new(
            BTreeMap::from([(*call, vec![rule])]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno.cast_unsigned()),
            std::env::consts::ARCH.try_into().expect("a known machine"),
        );
        let program: seccompiler::BpfProgram = filter
            .and_then(TryInto::try_into)
            .expect("a filter that compiles");
        filters.push(program);
    }
    // The filters stay on the thread and on the process that it starts.
    let output = thread::scope(|scope| {
        scope
            .spawn(|| {
                for filter in &filters {
                    seccompiler::apply_filter(filter).expect("the filter is taken");
                }
                command.output()
            })
            .join()
    });
    output.expect("the thread ends").expect("the agent runs")
}

#[track_caller]
fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn feature<'a>(json: &'a Value, name: &str) -> &'a Value {
    let features = json["features"].as_array().expect("a list");
    let found = features.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no feature {name}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn this_kernel_can_do_everything() {
    if skipped() {
        return;
    }
    let cgroup = Cgroup::new();
    let root = cgroup.path().display().to_string();
    let output = check(&["-o", "json", "--cgroup-root", &root]).output();
    let output = output.expect("the agent runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let json = json(&output);
    assert_eq!(json["version"], 1);
    assert_eq!(json["mode"], "ebpf");
    assert_eq!(json["backend"], Value::Null);
    assert!(
        json["reason"]
            .as_str()
            .expect("text")
            .contains("eBPF works")
    );
    let features = json["features"].as_array().expect("a list");
    let names: Vec<_> = features
        .iter()
        .map(|it| (it["name"].as_str(), it["for"].as_str()))
        .collect();
    let expected: Vec<_> = FEATURES
        .iter()
        .map(|(name, for_)| (Some(*name), Some(*for_)))
        .collect();
    assert_eq!(names, expected);
    for it in features {
        assert_eq!(it["status"], "ok", "{it}");
        assert!(it["detail"].is_string(), "{it}");
    }
    let left: Vec<_> = fs::read_dir(cgroup.path())
        .expect("our cgroup")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("osm-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn table_names_the_mode_and_why() {
    if skipped() {
        return;
    }
    let output = check(&[]).output().expect("the agent runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().expect("a line").split_whitespace().collect();
    assert_eq!(header, ["FEATURE", "STATUS", "DETAIL"]);
    for (name, _) in FEATURES {
        let line = lines.next().expect("a line for each feature");
        let words: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(words, [name, "ok"], "{text}");
    }
    assert!(text.ends_with(
        "\nmode auto takes: ebpf\neBPF works: a pod could be intercepted and let go.\n"
    ));
}

#[test]
fn kernel_that_refuses_a_step_leads_to_iptables() {
    if skipped() {
        return;
    }
    for (command, errno, missing, words) in [
        (MAP_CREATE, libc::EPERM, "bpf", "Operation not permitted"),
        (PROG_LOAD, libc::EINVAL, "hook_connect4", "Invalid argument"),
        (LINK_CREATE, libc::EINVAL, "hook_sk_lookup", "attach"),
        (OBJ_PIN, libc::ENOSYS, "link_pin", "not implemented"),
    ] {
        let refused = [(libc::SYS_bpf, command, errno)];
        let output = run_where_refused(check(&["-o", "json"]), &refused);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let json = json(&output);
        assert_eq!(json["mode"], "iptables");
        assert_eq!(json["backend"], "nft");
        let feature = feature(&json, missing);
        assert_eq!(feature["status"], "missing", "{feature}");
        let detail = feature["detail"].as_str().expect("text");
        assert!(detail.contains(words), "{feature}");
        let reason = json["reason"].as_str().expect("text");
        assert!(reason.contains("eBPF does not work, as "), "{reason}");
        assert!(reason.ends_with("and iptables-nft does"), "{reason}");
        assert_eq!(self::feature(&json, "enrolment")["status"], "missing");
    }
}

#[test]
fn no_hierarchy_to_make_a_cgroup_in_leads_to_iptables() {
    if skipped() {
        return;
    }
    let output = check(&["-o", "json", "--cgroup-root", "/nonexistent"]).output();
    let output = output.expect("the agent runs");
    let json = json(&output);
    assert_eq!(json["mode"], "iptables", "{json}");
    assert_eq!(feature(&json, "cgroup_v2")["status"], "missing");
    assert_eq!(feature(&json, "hook_connect4")["status"], "unknown");
    assert_eq!(feature(&json, "map_hash")["status"], "ok");
}

#[test]
fn machine_that_can_do_nothing_is_told_so() {
    const NETLINK: u64 = 16;
    const INET: u64 = 2;
    if skipped() {
        return;
    }
    // iptables-nft takes netlink, iptables-legacy a raw socket.
    let refused = [
        (libc::SYS_bpf, PROG_LOAD, libc::EPERM),
        (libc::SYS_socket, NETLINK, libc::EAFNOSUPPORT),
        (libc::SYS_socket, INET, libc::EAFNOSUPPORT),
    ];
    let output = run_where_refused(check(&["-o", "json"]), &refused);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(error.contains("nor does any iptables"), "{error}");
    let json = json(&output);
    assert_eq!(json["mode"], "none");
    assert_eq!(feature(&json, "iptables_legacy")["status"], "missing");
}

#[test]
fn without_privilege_everything_is_unknown() {
    if skipped() {
        return;
    }
    let output = check(&["-o", "json"]).uid(1000).gid(1000).output();
    let output = output.expect("the agent runs");
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    for word in ["needs root", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"] {
        assert!(error.contains(word), "{error}");
    }
    let json = json(&output);
    assert_eq!(json["mode"], "unknown");
    let features = json["features"].as_array().expect("a list");
    assert_eq!(features.len(), FEATURES.len());
    for it in features {
        assert_eq!(it["status"], "unknown", "{it}");
        let detail = it["detail"].as_str().expect("text");
        assert!(detail.contains("needs root"), "{it}");
    }
}
