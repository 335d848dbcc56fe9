//! A kernel, a pod or a terminal that does not do as it should.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use osm_tests::{Need, TempDir, agent, missing};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::{
    help::{REMOTE, attach_args, expect_intercepted},
    mesh::{Lists, Mesh, expect_outbound},
};

#[test]
fn process_that_can_not_be_inspected_is_skipped() {
    if missing(&[Need::Program("python3")]) {
        return;
    }
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let script = "import ctypes, threading, time\n\
                  threading.Thread(target=time.sleep, args=(60,)).start()\n\
                  ctypes.CDLL(None).pthread_exit(None)\n";
    let mut app = pod.netns.run(|| {
        Command::new("python3")
            .args(["-c", script])
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts")
    });
    let procs = pod.app_cgroup().path().join("cgroup.procs");
    fs::write(procs, app.id().to_string()).expect("it is in the pod");
    thread::sleep(Duration::from_millis(500));
    let outcome = mesh.attach(&Lists::default());
    app.kill().expect("it is there");
    app.wait().expect("it ends");
    let outcome = outcome.succeeded();
    assert!(outcome.stdout.contains("2 of the sidecar"), "{outcome}");
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
}

#[test]
fn output_that_nobody_reads_does_not_matter() {
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    for (verb, foreground) in [("attach", false), ("detach", false), ("attach", true)] {
        let mut args = attach_args(
            pod,
            pod.name(),
            pod.cgroup.path(),
            mesh.agent.state().path(),
        );
        if verb == "detach" {
            args = ["detach", "--pod", pod.name(), "--state-dir"]
                .map(String::from)
                .to_vec();
            args.push(mesh.agent.state().path().display().to_string());
        }
        if foreground {
            args.push("--foreground".into());
        }
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("it is there");
        let mut agent = Command::new(agent::binary().expect("the agent"))
            .args(args)
            .stdout(full)
            .spawn()
            .expect("the agent runs");
        if foreground {
            thread::sleep(Duration::from_secs(3));
            assert!(agent.try_wait().expect("our child").is_none(), "it goes on");
            expect_intercepted(&mesh);
            agent.kill().expect("our child");
            agent.wait().expect("our child");
        } else {
            assert_eq!(agent.wait().expect("our child").code(), Some(0), "{verb}");
        }
    }
}

#[test]
fn refused_membarrier_is_waited_out() {
    let Some(mesh) = Mesh::attached(&Lists {
        excluded_ports: "81",
        ..Lists::default()
    }) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut args = attach_args(
        pod,
        pod.name(),
        pod.cgroup.path(),
        mesh.agent.state().path(),
    );
    args.push("--annotation=openservicemesh.io/outbound-port-exclusion-list=82".into());
    let filter = vec![(libc::SYS_membarrier, vec![])];
    let mut command = Command::new(agent::binary().expect("the agent"));
    command.args(args);
    let output = with_filter(filter, libc::EINVAL, move || {
        command.output().expect("it runs")
    });
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("lists changed"), "{stdout}");
}

#[test]
fn foreground_outlives_a_netlink_that_fails() {
    const SOL_NETLINK: u64 = 270;
    const NETLINK_ADD_MEMBERSHIP: u64 = 1;
    let Some(mesh) = Mesh::new() else { return };
    let pod = &mesh.world.pod;
    let files = TempDir::new();
    let config = files.file(
        "mesh.yaml",
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {traffic: \
         {networkInterfaceExclusionList: [eth9]}}\n",
    );
    let mut args = attach_args(
        pod,
        pod.name(),
        pod.cgroup.path(),
        mesh.agent.state().path(),
    );
    args.extend(["--foreground", "--config"].map(String::from));
    args.push(config.display().to_string());
    let equals = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .expect("a condition")
    };
    let conditions = vec![equals(1, SOL_NETLINK), equals(2, NETLINK_ADD_MEMBERSHIP)];
    let rule = SeccompRule::new(conditions).expect("a rule");
    let filter = vec![(libc::SYS_setsockopt, vec![rule])];
    let log = files.path().join("stderr");
    let stderr = fs::File::create(&log).expect("a file");
    let mut command = Command::new(agent::binary().expect("the agent"));
    command.args(args).stdout(Stdio::null()).stderr(stderr);
    command.process_group(0);
    let mut agent = with_filter(filter, libc::EPERM, move || {
        command.spawn().expect("it runs")
    });
    thread::sleep(Duration::from_secs(3));
    let said = fs::read_to_string(&log).expect("the log");
    let ended = agent.try_wait().expect("our child");
    if ended.is_none() {
        expect_intercepted(&mesh);
        agent.kill().expect("our child");
        agent.wait().expect("our child");
    }
    assert!(ended.is_none(), "{ended:?}: {said}");
    assert!(
        said.contains("warning: cannot follow the pod's routes"),
        "{said}"
    );
}

/// Runs something on a thread for which the kernel answers a call with an error.
fn with_filter<T: Send>(
    rules: Vec<(i64, Vec<SeccompRule>)>,
    errno: i32,
    run: impl FnOnce() -> T + Send,
) -> T {
    let filter = SeccompFilter::new(
        rules.into_iter().collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().expect("a known machine"),
    );
    let program: seccompiler::BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("a filter that compiles");
    thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            seccompiler::apply_filter(&program).expect("the filter is taken");
            run()
        });
        filtered.join().expect("the thread ends")
    })
}
