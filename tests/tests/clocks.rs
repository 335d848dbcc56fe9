//! Clocks that are not the machine's: programs know those of the machine only, the agent may be in a time namespace.

mod mesh;

use std::{process::Command, time::Duration};

use aya::maps::{Array, Map, MapData};
use mesh::{Lists, Mesh, expect_outbound, is_direct};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use osm_ebpf_common::maps::MonitorWord;
use osm_tests::{Need, Node, TempDir, World, actor::PATIENCE, agent, missing, process::Process};
use rstest::rstest;

const REMOTE: &str = "198.51.100.10:80";

/// Longer than the programs take it that somebody listens who says nothing.
const FAR: i32 = 5;
/// Of the agent's, when it says that it listens.
const LEASE: Duration = Duration::from_secs(3);

fn skipped() -> bool {
    missing(&[Need::TimeNamespaces, Need::Program("unshare")])
}

/// The beginning of a command line, by which the rest has its clocks ahead by so many seconds. It ends with who waits
/// for it.
fn shifted(seconds: i32) -> [String; 5] {
    [
        "unshare".into(),
        "--kill-child".into(),
        "--time".into(),
        format!("--boottime={seconds}"),
        format!("--monotonic={seconds}"),
    ]
}

#[rstest]
fn monitor_whose_clock_is_another_hears_everything_and_leaves_nothing_on(
    #[values(-FAR, FAR, 1_000_000)] seconds: i32,
) {
    if skipped() {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = mesh.world.outside.server("remote", &[REMOTE]);
    let [unshare, flags @ ..] = shifted(seconds);
    let mut command = Command::new(unshare);
    command
        .args(flags)
        .arg(agent::binary().expect("the agent"))
        .args(["monitor", "-o", "json", "--state-dir"])
        .arg(mesh.agent.state().path());
    let mut monitor = Process::start("monitor", command);
    while !monitor.stderr().contains("listening to") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let connection = pod.app().connect(REMOTE);
    expect_outbound(&mut sidecar, &connection, REMOTE, pod.ip4());
    let line = monitor.line(PATIENCE).expect("an event");
    assert!(line.contains("redirect-outbound"), "{line}");
    assert!(line.contains(r#""time":"2"#), "it has a time: {line}");
    // Killed, it can't say that it listens no more.
    monitor.signal(Signal::SIGKILL);
    let _ = monitor.wait(PATIENCE);
    let pin = MapData::from_pin(mesh.agent.state().map("MONITOR")).expect("the map");
    let words: Array<_, u64> = Array::try_from(Map::Array(pin)).expect("an array");
    let until = words.get(&MonitorWord::Until.index(), 0).expect("the word");
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock");
    assert!(Duration::from_nanos(until) <= Duration::from(now) + LEASE);
}

/// What has to be done at its time is done: `--resync`, retries, the heartbeat.
#[rstest]
fn node_agent_whose_clock_is_another_does_all_its_jobs(#[values(-FAR, 1_000_000)] seconds: i32) {
    if skipped() {
        return;
    }
    let (Some(world), Some(node)) = (World::new(), Node::new()) else {
        return;
    };
    let mut node = node.flag("--resync", "1");
    let files = TempDir::new();
    let binary = agent::binary().expect("the agent");
    let script = format!(
        "exec {} {} \"$@\"",
        shifted(seconds).join(" "),
        binary.display()
    );
    let script = files.script("agent", &script);
    let pod = &world.pod;
    let mut sidecar = pod.sidecar();
    let _remote = world.outside.server("remote", &[REMOTE]);
    node.add_pod(pod, &[]);
    node.start_binary(&script);
    node.wait_intercepted(pod);
    node.wait_ready();
    expect_outbound(&mut sidecar, &pod.app().connect(REMOTE), REMOTE, pod.ip4());
    // Somebody's damage is found at the next resync.
    node.state().detach_link("connect4");
    let mut app = pod.app();
    node.wait("it is mended", |_| !is_direct(&mut app, REMOTE));
    assert_eq!(node.get("/healthz").0, 200);
}
