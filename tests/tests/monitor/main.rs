//! `osm-agent monitor`: what becomes of connections, as it happens.

#[path = "../mesh/mod.rs"]
mod mesh;

mod filters;

use std::{fs::File, thread, time::Duration};

use aya::maps::{Array, Map, MapData, RingBuf};
use mesh::{Lists, Mesh};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use osm_ebpf_common::maps::MonitorWord;
use osm_tests::{
    APP_UID, Actor, Client, Dial, Many, Pod, SIDECAR_UID, World,
    actor::{PATIENCE, program},
    process::Process,
};
use serde_json::{Value, json};

const REMOTE: &str = "198.51.100.10:80";
const EXCLUDED: &str = "203.0.113.7:80";
const EXCLUDED_PORT: &str = "198.51.100.11:81";
const LOCAL: &str = "127.0.0.1:8080";
const OWN: &str = "10.77.1.2:8080";
const EXCLUDED_INBOUND: &str = "10.77.1.2:82";

const LISTS: Lists<'static> = Lists {
    excluded_ranges: "203.0.113.0/24",
    included_ranges: "",
    excluded_ports: "81",
    excluded_inbound_ports: "82",
};

/// A running monitor, in JSON.
struct Watch(Process);

impl Watch {
    #[track_caller]
    fn start(mesh: &Mesh, flags: &[&str]) -> Self {
        let process = mesh.agent.start(&arguments(mesh, flags));
        let watch = Self(process);
        let mut waited = 0;
        while !watch.0.stderr().contains("listening to") {
            assert!(waited < 2000, "it does not start: {}", watch.0.stderr());
            waited += 1;
            thread::sleep(Duration::from_millis(5));
        }
        watch
    }

    /// The next line that is about a destination and of a reason.
    #[track_caller]
    fn next(&mut self, reason: &str, destination: &str) -> Value {
        let mut others = Vec::new();
        loop {
            let Some(line) = self.0.line(PATIENCE) else {
                let stderr = self.0.stderr();
                panic!("no {reason} to {destination} but {others:#?}; {stderr}");
            };
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["reason"] == reason && event["destination"] == destination {
                return event;
            }
            others.push(event);
        }
    }

    /// Ends it as Ctrl-C does; what it had printed and nobody has read, and what it complained about.
    #[track_caller]
    fn end(mut self) -> (Vec<Value>, String) {
        self.0.signal(Signal::SIGINT);
        let status = self.0.wait(PATIENCE).expect("it ends");
        let (stdout, stderr) = self.0.output();
        assert!(status.success(), "{status} {stderr}");
        let lines = stdout.lines().map(serde_json::from_str);
        (lines.collect::<Result<_, _>>().expect("JSON"), stderr)
    }
}

fn arguments(mesh: &Mesh, flags: &[&str]) -> Vec<String> {
    let state = mesh.agent.state().path().display().to_string();
    let own = ["monitor", "-o", "json", "--state-dir", &state];
    own.iter().chain(flags).map(ToString::to_string).collect()
}

/// Accepts as the sidecar does, and makes no connection of its own.
fn quiet_sidecar(pod: &Pod) -> Actor {
    let listen = ["--listen", "0.0.0.0:15001", "--listen", "0.0.0.0:15003"];
    let args = [&["serve", "--role", "sidecar"], &listen[..]].concat();
    Actor::start("sidecar", &pod.place(SIDECAR_UID), &args)
}

/// What programs and monitor have between them.
fn monitor_words(mesh: &Mesh) -> Array<MapData, u64> {
    let data = MapData::from_pin(mesh.agent.state().map("MONITOR")).expect("the map");
    Array::try_from(Map::Array(data)).expect("an array")
}

fn events(mesh: &Mesh) -> RingBuf<MapData> {
    let data = MapData::from_pin(mesh.agent.state().map("EVENTS")).expect("the map");
    RingBuf::try_from(Map::RingBuf(data)).expect("a ring buffer")
}

fn until(mesh: &Mesh) -> Duration {
    let until = monitor_words(mesh).get(&MonitorWord::Until.index(), 0);
    Duration::from_nanos(until.expect("the word"))
}

fn set_until(mesh: &Mesh, until: u64) {
    let set = monitor_words(mesh).set(MonitorWord::Until.index(), until, 0);
    set.expect("the word");
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("a clock")
        .into()
}

#[test]
fn verdict_of_every_kind_is_told_with_who_and_why() {
    let Some(mesh) = Mesh::attached(&LISTS) else {
        return;
    };
    let World { pod, outside, .. } = &mesh.world;
    let _sidecar = pod.sidecar_with(&["--quiet"]);
    let _remote = outside.server("remote", &[REMOTE, EXCLUDED, EXCLUDED_PORT]);
    let _local = pod.server("local", &["0.0.0.0:8080", "0.0.0.0:82"]);
    let (mut app, mut sidecar_client) = (pod.app(), pod.sidecar_client());
    let mut watch = Watch::start(&mesh, &[]);
    let mut outbound = |client: &mut Client, uid: u32, to: &str, reason: &str, verdict: &str| {
        let _ = client.connect(Dial::to(to).no_greeting());
        let event = watch.next(reason, to);
        let wanted = json!({
            "time": event["time"], "netns_cookie": pod.netns.cookie(), "pod": pod.name(),
            "direction": "outbound", "verdict": verdict, "reason": reason,
            "destination": to, "client": null,
            "process": client.pid(), "command": "actor", "uid": uid,
        });
        assert_eq!(event, wanted);
        assert!(event["time"].as_str().expect("a time").ends_with('Z'));
    };
    for (to, reason, verdict) in [
        (REMOTE, "redirect-outbound", "redirect"),
        (EXCLUDED, "pass-excluded-range", "pass"),
        (EXCLUDED_PORT, "pass-excluded-port", "pass"),
        (LOCAL, "pass-local", "pass"),
        (OWN, "pass-local", "pass"),
    ] {
        outbound(&mut app, APP_UID, to, reason, verdict);
    }
    for (to, reason, verdict) in [
        (REMOTE, "pass-sidecar", "pass"),
        (OWN, "redirect-sidecar-to-pod", "redirect"),
    ] {
        outbound(&mut sidecar_client, SIDECAR_UID, to, reason, verdict);
    }
    let mut client = outside.client();
    for (to, reason, verdict) in [
        (OWN, "redirect-inbound", "redirect"),
        (EXCLUDED_INBOUND, "pass-excluded-inbound-port", "pass"),
    ] {
        let connection = client.connect(Dial::to(to).no_greeting());
        let event = watch.next(reason, to);
        let wanted = json!({
            "time": event["time"], "netns_cookie": pod.netns.cookie(), "pod": pod.name(),
            "direction": "inbound", "verdict": verdict, "reason": reason,
            "destination": to, "client": connection.local().to_string(),
            "process": null, "command": null, "uid": null,
        });
        assert_eq!(event, wanted);
    }
}

#[test]
fn refused_connection_is_told_as_what_was_dialled() {
    let Some(mesh) = Mesh::handing_over(true) else {
        return;
    };
    let World { pod, outside, .. } = &mesh.world;
    let mut watch = Watch::start(&mesh, &[]);
    let mut app = pod.app();
    // Known by its address, as it was dialled before; and handed over one by one.
    for to in ["203.0.113.250:1001", REMOTE] {
        assert_eq!(app.connect(to).error(), "ECONNREFUSED");
        let dialled = watch.next("redirect-outbound", to);
        assert_eq!(dialled["process"], app.pid());
        let refused = watch.next("refuse-no-outbound-listener", to);
        assert_eq!(refused["verdict"], "refuse");
        assert_eq!(refused["direction"], "outbound");
        assert_eq!(refused["process"], Value::Null);
    }
    assert_eq!(outside.client().connect(OWN).error(), "ECONNREFUSED");
    let refused = watch.next("refuse-no-inbound-listener", OWN);
    assert_eq!(refused["direction"], "inbound");
    // An address that stands for no destination.
    let _sidecar = pod.sidecar_with(&["--quiet"]);
    let _ = app.connect(Dial::to("127.64.1.2:15001").no_greeting());
    let lost = watch.next("lost-destination", "127.64.1.2:15001");
    assert_eq!(lost["verdict"], "refuse");
}

#[test]
fn nothing_is_written_while_nobody_listens() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let _sidecar = quiet_sidecar(pod);
    let mut app = pod.app();
    let mut ring = events(&mesh);
    let mut dial = || assert_eq!(app.connect(REMOTE).answered_by(), "sidecar");
    assert_eq!(until(&mesh), Duration::ZERO);
    dial();
    assert!(ring.next().is_none(), "before anybody listened");
    let mut watch = Watch::start(&mesh, &[]);
    assert!(until(&mesh) > since_boot());
    dial();
    let _ = watch.next("redirect-outbound", REMOTE);
    let _ = watch.end();
    assert_eq!(until(&mesh), Duration::ZERO, "it says that it is gone");
    let mut ring = events(&mesh);
    dial();
    assert!(ring.next().is_none(), "after it is gone");
    // One that is killed can't say so.
    let mut watch = Watch::start(&mesh, &[]);
    watch.0.signal(Signal::SIGKILL);
    let _ = watch.0.wait(PATIENCE).expect("it is killed");
    let mut ring = events(&mesh);
    dial();
    assert!(ring.next().is_some(), "its time is not over");
    while until(&mesh) > since_boot() {
        thread::sleep(Duration::from_millis(20));
    }
    dial();
    assert!(ring.next().is_none(), "its time is over");
    // The next one shows nothing of what it left.
    set_until(&mesh, u64::MAX);
    dial();
    let (lines, _) = Watch::start(&mesh, &[]).end();
    assert_eq!(lines, Vec::<Value>::new());
}

#[test]
fn events_that_find_no_room_are_reported() {
    /// More than there is room for.
    const BURST: u64 = 14_000;
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut watch = Watch::start(&mesh, &[]);
    watch.0.signal(Signal::SIGSTOP);
    // However long the burst takes.
    set_until(&mesh, u64::MAX);
    let many = Many::to("127.0.0.1:9", BURST).concurrency(4);
    let tally = mesh.world.pod.app().many(many);
    assert_eq!(tally.failed.values().sum::<u64>(), BURST, "{tally:?}");
    watch.0.signal(Signal::SIGCONT);
    let (mut told, mut lost) = (0, 0);
    while told + lost < BURST {
        let line = watch
            .0
            .line(PATIENCE)
            .expect("events, or how many are lost");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        match event["lost"].as_u64() {
            Some(more) => lost += more,
            None => told += 1,
        }
    }
    assert_eq!(told + lost, BURST);
    assert!(lost > 0 && told > 5000, "{told} told, {lost} lost");
    let (_, stderr) = watch.end();
    assert!(
        stderr.contains(&format!("{lost} events were lost in all")),
        "{stderr}"
    );
}

#[test]
fn second_monitor_is_refused_and_told_what_to_do() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut first = Watch::start(&mesh, &[]);
    let second = mesh.agent.run(&arguments(&mesh, &[])).failed();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second
            .stderr
            .contains("end the other `osm-agent monitor` first"),
        "{second}"
    );
    // It took nothing of the first one's.
    let _ = mesh.world.pod.app().connect("127.0.0.1:9");
    let _ = first.next("pass-local", "127.0.0.1:9");
    let _ = first.end();
    let _ = Watch::start(&mesh, &[]).end();
}

#[test]
fn monitor_waits_for_no_lock_and_goes_on_when_all_is_removed_and_made_anew() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let state = mesh.agent.state();
    // As an agent that runs here has it.
    let lock = File::open(state.path()).expect("the directory");
    lock.lock().expect("the lock");
    let mut watch = Watch::start(&mesh, &[]);
    drop(lock);
    let mut app = mesh.world.pod.app();
    for round in 0..3 {
        let to = format!("127.0.0.1:{}", 20 + round);
        while until(&mesh) < since_boot() {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = app.connect(Dial::to(&to));
        let event = watch.next("pass-local", &to);
        assert_eq!(event["pod"], mesh.world.pod.name());
        let _ = mesh.detach().succeeded();
        assert!(state.pins().is_empty());
        let _ = mesh.attach(&Lists::default()).succeeded();
    }
    let (_, stderr) = watch.end();
    assert!(!stderr.contains("warning"), "{stderr}");
}

#[test]
fn pod_that_comes_later_is_called_by_its_name() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let mut watch = Watch::start(&mesh, &[]);
    let pod: Pod = mesh.world.add_pod();
    let _ = mesh.agent.attach(&pod).run().succeeded();
    let _ = pod.app().connect("127.0.0.1:9");
    assert_eq!(watch.next("pass-local", "127.0.0.1:9")["pod"], pod.name());
}

#[test]
fn monitor_without_a_pod_says_so() {
    let Some(mesh) = Mesh::new() else {
        return;
    };
    let outcome = mesh.agent.run(&arguments(&mesh, &[])).failed();
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        outcome
            .stderr
            .contains("no pod is intercepted by eBPF; attach one"),
        "{outcome}"
    );
    let _ = mesh.attach(&Lists::default()).succeeded();
    let outcome = mesh
        .agent
        .run(&arguments(&mesh, &["--pod", "nobody"]))
        .failed();
    assert_eq!(outcome.status.code(), Some(2));
    assert!(
        outcome.stderr.contains("--pod nobody: no such pod"),
        "{outcome}"
    );
}

/// A process calls itself what it likes; a terminal would obey.
#[test]
fn command_with_control_characters_is_shown_without() {
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let pod = &mesh.world.pod;
    let state = mesh.agent.state().path().display().to_string();
    let mut monitor = mesh
        .agent
        .start(&["monitor", "--count", "1", "--state-dir", &state]);
    let head = monitor.line(PATIENCE).expect("the columns");
    assert!(head.starts_with("TIME"), "{head}");
    let evil = r"printf '\033[31mevil\302\233' >/proc/self/comm; exec 3<>/dev/tcp/127.0.0.1/9";
    let _evil = program("evil", &pod.place(APP_UID), &["bash", "-c", evil]);
    let line = monitor.line(PATIENCE).expect("an event");
    assert!(line.contains(" [31mevil"), "{line:?}");
    assert!(
        line.contains(pod.name()) && line.ends_with("pass-local"),
        "{line:?}"
    );
    assert!(!line.chars().any(char::is_control), "{line:?}");
}
