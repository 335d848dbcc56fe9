//! The node agent as users run it: from a file that is written to lists that are in force, and what
//! memory it takes.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use osm_tests::Node;

use super::{Options, bare::Bare, figure, kernel, sample};
use crate::sample::{Better, Sample, Variant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

const EXCLUDED: u16 = 5432;

/// Measures it.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let (count, rounds) = if options.quick { (25, 2) } else { (250, 10) };
    let pods = Bare::many(count)?;
    let mut node = Node::new().context("the agent is not where the harness looks for it")?;
    let say = |what: &str, pods: usize, value: f64, unit: &str| {
        let setting = format!("pods={pods}");
        sample(what, setting, Variant::Ebpf, (value, unit), Better::Lower)
    };
    node.start_binary(&options.agent);
    node.wait_ready();
    report(say("agent-memory", 0, rss(&node), "bytes"));

    let start = Instant::now();
    for (number, pod) in pods.iter().enumerate() {
        node.add_pod_file(&format!("bare-{number}"), &pod.file(number));
    }
    node.wait("all are intercepted", |node| {
        let shown = node.metric("osm_pods{state=\"intercepted\"}");
        (shown - figure(count as u64)).abs() < 0.5
    });
    let took = start.elapsed().as_secs_f64() * 1e3;
    report(say("agent-enrol", count, took, "ms"));
    report(say("agent-memory", count, rss(&node), "bytes"));
    let last = pods.last().context("no pods")?;
    last.prove_intercepted()?;
    let maps = kernel::map_memory(node.state())?;
    report(say("node-map-memory", count, figure(maps), "bytes"));

    let in_force = InForce::open(&node)?;
    for round in 0..rounds {
        let before = in_force.words(count)?;
        let busy = busy(&node);
        let excludes = round % 2 == 0;
        let ports = if excludes { EXCLUDED } else { 6379 };
        let start = Instant::now();
        node.mesh(&format!(
            "{{traffic: {{outboundPortExclusionList: [{ports}]}}}}"
        ));
        loop {
            let now = in_force.words(count)?;
            if now.iter().zip(&before).all(|(now, before)| now != before) {
                break;
            }
            ensure!(start.elapsed() < PATIENCE, "the lists do not change");
            thread::sleep(Duration::from_micros(100));
        }
        let took = start.elapsed().as_secs_f64() * 1e3;
        report(say("agent-change-file", count, took, "ms"));
        if excludes {
            last.prove_excluded(EXCLUDED)?;
        } else {
            last.prove_intercepted()?;
        }
        // The agent looks at all of them once more, and lets go of the former lists.
        thread::sleep(Duration::from_secs(1));
        let busy = (self::busy(&node) - busy) * 1e3;
        report(say("agent-change-busy", count, busy, "ms"));
    }
    let _ = node.stop();
    Ok(())
}

fn rss(node: &Node) -> f64 {
    node.metric("process_resident_memory_bytes")
}

/// For how long the agent was at work, in seconds.
fn busy(node: &Node) -> f64 {
    node.metric("osm_pass_duration_seconds_sum")
}

/// The words that say by which lists pods go.
struct InForce(Array<MapData, u64>);

impl InForce {
    fn open(node: &Node) -> Result<Self> {
        let pin = node.state().map("POLICY_IN_FORCE");
        let map = Map::from_map_data(MapData::from_pin(pin)?)?;
        Ok(Self(Array::try_from(map)?))
    }

    /// Of the first pods: slots are given from 0.
    fn words(&self, pods: usize) -> Result<Vec<u64>> {
        let slots = 0..u32::try_from(pods)?;
        slots.map(|slot| Ok(self.0.get(&slot, 0)?)).collect()
    }
}
