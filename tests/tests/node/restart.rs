//! Agents that are killed, started again and replaced, under load.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use osm_tests::{Client, Dial, Many, Need, Node, SLOWNESS, Tally, World, agent, missing};

use crate::{
    REMOTE,
    mesh::{expect_inbound, expect_outbound},
};

const OWN: &str = "10.77.1.2:8080";
const OTHER: &str = "198.51.100.10:5432";

/// How often the agent is killed.
const ROUNDS: u64 = if SLOWNESS == 1 { 50 } else { 10 };

/// Connections a second, in each direction.
const RATE: u64 = 100;

/// What a client saw until it was told to stop.
#[derive(Default)]
struct Seen {
    made: u64,
    failed: Vec<String>,
    around: u64,
    wrong_peer: u64,
}

impl Seen {
    fn add(&mut self, tally: &Tally) {
        self.made += tally.succeeded;
        self.around += tally.around;
        self.wrong_peer += tally.wrong_peer;
        let failed = tally.failed.iter();
        self.failed
            .extend(failed.map(|(error, count)| format!("{count} times {error}")));
    }
}

/// Connects until it is told to stop.
fn load(client: &mut Client, to: &str, is_over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !is_over.load(Ordering::Relaxed) {
        seen.add(&client.many(Many::to(to, RATE / 2).concurrency(4).per_second(RATE)));
    }
    seen
}

/// A number that is different each time and the same in each run.
fn random(round: u64, below: u64) -> u64 {
    let mut x = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) % below
}

/// Kills and starts agents of these builds in turn, at random moments, while lists change and
/// another pod comes and goes, under load.
fn survive(builds: &[PathBuf]) {
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pod = &world.pod;
    let comes_and_goes = world.add_pod();
    let mut sidecar = pod.sidecar_with(&["--quiet"]);
    let _remote = world.outside.server("remote", &[REMOTE, OTHER]);
    let _local = pod.server("local", &["0.0.0.0:8080"]);
    let (mut app, mut client) = (pod.app(), world.outside.client());
    let mut witness = pod.app();
    node.add_pod(pod, &[]);
    node.start_binary(&builds[0]);
    node.wait_intercepted(pod);
    let held = witness.connect(Dial::to(REMOTE));

    let is_over = AtomicBool::new(false);
    let (outbound, inbound) = thread::scope(|scope| {
        let outbound = scope.spawn(|| load(&mut app, REMOTE, &is_over));
        let inbound = scope.spawn(|| load(&mut client, OWN, &is_over));
        for round in 1..=ROUNDS {
            // What the agent is in the midst of when it is killed.
            match round % 4 {
                0 => node.add_pod(&comes_and_goes, &[]),
                1 => node.add_pod(pod, &[("outbound-port-exclusion-list", "5432")]),
                2 => node.remove_pod_if_there(&comes_and_goes),
                _ => node.add_pod(pod, &[("inbound-port-exclusion-list", "9999")]),
            }
            thread::sleep(Duration::from_millis(50 + random(round, 400)));
            node.kill();
            let build = usize::try_from(round).unwrap_or_default() % builds.len();
            node.start_binary(&builds[build]);
            if round % 10 == 0 {
                node.wait_ready();
            }
        }
        node.wait_ready();
        is_over.store(true, Ordering::Relaxed);
        (
            outbound.join().expect("the app's load"),
            inbound.join().expect("the clients' load"),
        )
    });
    judge(&outbound, &inbound);
    // What was there before all of it goes on, and knows where it leads.
    assert_eq!(witness.send(held.id, "still").text, "still");
    assert_eq!(witness.names(held.id).peer(), crate::mesh::address(REMOTE));
    drop(sidecar);
    sidecar = pod.sidecar();
    expect_outbound(&mut sidecar, &witness.connect(REMOTE), REMOTE, pod.ip4());
    expect_inbound(&mut sidecar, &client.connect(OWN), OWN);
    let failed = node.metric("osm_pods{state=\"failed\"}");
    assert!(failed < 0.5, "{failed} pods failed");
}

/// What is expected of both clients.
#[track_caller]
fn judge(outbound: &Seen, inbound: &Seen) {
    println!(
        "{ROUNDS} kills: {} outbound and {} inbound connections; refused: {:?}, {:?}; around the \
         sidecar: {}, {}",
        outbound.made,
        inbound.made,
        outbound.failed,
        inbound.failed,
        outbound.around,
        inbound.around
    );
    for seen in [outbound, inbound] {
        assert!(seen.made >= 20 * ROUNDS, "there was load: {}", seen.made);
        assert_eq!(seen.failed, Vec::<String>::new());
        assert_eq!((seen.around, seen.wrong_peer), (0, 0));
    }
}

#[test]
fn no_connection_is_lost_or_leaks_while_agents_are_killed() {
    let Some(binary) = agent::binary() else {
        return;
    };
    survive(&[binary]);
}

#[test]
fn no_connection_is_lost_or_leaks_while_agents_of_two_layouts_replace_each_other() {
    if missing(&[Need::Agent, Need::NextAgent]) {
        return;
    }
    let (Some(binary), Some(next)) = (agent::binary(), agent::next_binary()) else {
        return;
    };
    survive(&[binary, next]);
}
