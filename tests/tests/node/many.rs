//! As many pods as a node has.

use std::time::{Duration, Instant};

use osm_tests::{Cgroup, Netns, Node, World};
use serde_json::json;

/// What the kubelet allows at most, and more than the default of 110.
const PODS: u16 = 250;

/// A pod without processes.
struct Bare {
    netns: Netns,
    cgroup: Cgroup,
}

impl Bare {
    fn new(number: u16) -> Self {
        let netns = Netns::new();
        let (high, low) = (number / 250, number % 250 + 1);
        netns.ip(&[format!("addr add 10.99.{high}.{low}/32 dev lo")]);
        Self {
            netns,
            cgroup: Cgroup::new(),
        }
    }

    fn file(&self, number: u16) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": format!("bare-{number}"), "namespace": "test" },
            "osm": { "netns": self.netns.path(), "cgroup": self.cgroup.path() },
        })
    }
}

#[test]
fn pods_of_a_full_node_are_enrolled_changed_adopted_and_let_go() {
    // For the checks of what is there to be had.
    let (Some(world), Some(mut node)) = (World::new(), Node::new()) else {
        return;
    };
    let pods: Vec<Bare> = (0..PODS).map(Bare::new).collect();
    for (number, pod) in (0..).zip(&pods) {
        node.add_pod_file(&format!("bare-{number}"), &pod.file(number));
    }
    node.start();
    let is_all = |count: f64| (count - f64::from(PODS)).abs() < 0.5;
    let all = |node: &Node| is_all(node.metric("osm_pods{state=\"intercepted\"}"));
    node.wait("all are intercepted", all);
    node.wait_ready();
    let enrolled = busy(&node);
    let rss = node.metric("process_resident_memory_bytes") / f64::from(1 << 20);
    let changed =
        |node: &Node| node.metric("osm_enrolments_total{means=\"ebpf\",outcome=\"changed\"}");
    let before = busy(&node);
    let start = Instant::now();
    node.mesh("{traffic: {outboundIPRangeExclusionList: [10.0.0.0/8], outboundPortExclusionList: [1, 2]}}");
    node.wait("all go by the new lists", |node| is_all(changed(node)));
    let (took, change) = (start.elapsed(), busy(&node).saturating_sub(before));
    // The next agent takes them over as they are.
    node.kill();
    node.start();
    node.wait_ready();
    node.wait("all are adopted", all);
    let adopted = busy(&node);
    let new = "osm_enrolments_total{means=\"ebpf\",outcome=\"new\"}";
    assert!(node.metric(new) < 0.5, "nobody is enrolled twice");
    println!(
        "{PODS} pods: enrolled in {enrolled:?} of passes, changed in {change:?} ({took:?} from \
         the file), adopted in {adopted:?}; resident: {rss:.1} MiB"
    );
    for number in 0..PODS {
        node.remove_pod_file(&format!("bare-{number}"));
    }
    node.wait("all are let go", |node| {
        node.status()["pods"].as_array().is_some_and(Vec::is_empty)
    });
    node.wait("nothing of them is left", |node| {
        !node
            .state()
            .pins()
            .iter()
            .any(|pin| pin.starts_with("pods"))
    });
    drop(world);
}

/// How long all passes took together.
fn busy(node: &Node) -> Duration {
    Duration::from_secs_f64(node.metric("osm_pass_duration_seconds_sum"))
}
