//! What a running agent has given up, though it was started with all rights.

use std::{fs, io::IoSliceMut, thread};

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::getpid,
};
use osm_agent::daemon::confine::confine;
use osm_tests::Node;
use rustix::thread::CapabilitySet;

use crate::{
    REMOTE,
    deployed::capabilities_of_the_manifest,
    mesh::{expect_direct, expect_outbound},
    mode,
};

/// A line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.expect("the kernel tells it").trim()
}

#[test]
fn agent_that_was_started_with_all_rights_keeps_those_of_its_manifest() {
    let kept: u64 = capabilities_of_the_manifest()
        .iter()
        .map(|name| match name.as_str() {
            "DAC_READ_SEARCH" => 1 << 2,
            "NET_ADMIN" => 1 << 12,
            "NET_RAW" => 1 << 13,
            "SYS_PTRACE" => 1 << 19,
            "SYS_ADMIN" => 1 << 21,
            other => panic!("{other} is new: which number has it?"),
        })
        .sum();
    let Some((world, mut node)) = Node::intercepting("{}") else {
        return;
    };
    let kept = format!("{kept:016x}");
    let mut threads = 0;
    let tasks = format!("/proc/{}/task", node.pid());
    for task in fs::read_dir(tasks).expect("its threads").flatten() {
        // Some end as soon as they have nothing more to do.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(&status, set), kept, "{set} {status}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set} {status}");
        }
        assert_eq!(field(&status, "NoNewPrivs:"), "1", "{status}");
        assert_eq!(field(&status, "Seccomp:"), "2", "{status}");
        threads += 1;
    }
    assert!(threads > 1, "the control loop has a thread of its own");

    // What is left is enough, also for who goes from one means to the other.
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    let mut app = pod.app();
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    node.mesh(&mode("iptables"));
    node.wait("the other means", |node| {
        node.pod(pod).is_some_and(|pod| pod["detail"] == "iptables")
    });
    expect_outbound(&mut sidecar, &app.connect(REMOTE), REMOTE, pod.ip4());
    node.remove_pod(pod);
    node.wait("the pod is let go of", |node| node.pod(pod).is_none());
    expect_direct(&mut sidecar, &app.connect(REMOTE), "remote");
    let _ = node.stop().succeeded();
}

#[test]
fn calls_that_the_agent_never_makes_are_refused() {
    let secret = *b"of another process";
    let read = move || {
        let mut read = [0; 18];
        let from = RemoteIoVec {
            base: secret.as_ptr().addr(),
            len: secret.len(),
        };
        let result = process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut read)], &[from]);
        result.map(|_| read)
    };
    assert_eq!(read(), Ok(secret));
    // It stays on the thread.
    let confined = thread::spawn(move || {
        confine(CapabilitySet::empty()).expect("rights can be given up");
        read()
    });
    assert_eq!(confined.join().expect("it ends"), Err(Errno::EPERM));
    assert_eq!(read(), Ok(secret));
}
