//! A cluster, a node with the agent, and pods that are objects as well as processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use osm_tests::{Actor, Cgroup, Client, Pod, World};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::mesh::{expect_direct, expect_outbound};
use crate::node::Node;
use crate::objects::{self, PATIENCE, PODS, create_namespace};

/// Two remote services: lists in these tests exclude the first one, or not.
pub const FIRST: &str = "198.51.100.10:80";
pub const SECOND: &str = "203.0.113.7:80";

/// Where a connection of an application lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lands {
    /// At the sidecar.
    Outbound,
    /// At whom it dialled.
    Direct,
}

/// All of it. The agent goes first.
pub struct Scene {
    pub node: Node,
    pub cluster: Cluster,
    _remote: Actor,
    pub world: World,
}

impl Scene {
    /// With a namespace that is in the mesh, and without an agent as yet; none where the test has
    /// to be skipped.
    #[track_caller]
    pub fn new() -> Option<Self> {
        let cluster = Cluster::new()?;
        let world = World::new()?;
        create_namespace(&cluster);
        Some(Self {
            node: Node::new(&cluster)?,
            cluster,
            _remote: world.outside.server("remote", &[FIRST, SECOND]),
            world,
        })
    }

    /// The same, with a running agent.
    #[track_caller]
    pub fn with_agent() -> Option<Self> {
        let mut scene = Self::new()?;
        scene.node.start();
        Some(scene)
    }

    /// Creates a pod with a sidecar, as the API server, the kubelet and a container runtime do
    /// together.
    #[track_caller]
    pub fn create_pod(&self, name: &str) -> MeshPod {
        self.create_pod_as(name, &objects::pod(name))
    }

    /// Creates the pod that this object describes.
    #[track_caller]
    pub fn create_pod_as(&self, name: &str, object: &Value) -> MeshPod {
        let created = self.cluster.create(PODS, object).expect("a pod");
        let uid = created["metadata"]["uid"].as_str().expect("a UID");
        let pod = MeshPod::start(&self.world, name, uid);
        let running = json!({ "status": { "phase": "Running" } });
        self.cluster
            .patch(&format!("{}/status", pod.path), &running)
            .expect("the kubelet's part");
        pod
    }

    /// Changes an annotation of a pod; null removes it.
    #[track_caller]
    pub fn annotate(&self, pod: &MeshPod, name: &str, value: impl Into<Value>) {
        self.cluster
            .patch(&pod.path, &objects::annotation(name, value))
            .expect("a change");
    }
}

/// A pod on the node.
pub struct MeshPod {
    /// Its object.
    pub path: String,
    app: Client,
    sidecar: Actor,
    pod: Pod,
    // Children go before their parents.
    _groups: [Cgroup; 3],
}

impl MeshPod {
    fn start(world: &World, name: &str, uid: &str) -> Self {
        // As the kubelet makes them with the cgroupfs driver.
        let root = Cgroup::new();
        let kubepods = root.child("kubepods");
        let class = kubepods.child("besteffort");
        let pod = world.add_pod_in(class.child(&format!("pod{uid}")));
        Self {
            path: format!("{PODS}/{name}"),
            app: pod.app(),
            sidecar: pod.sidecar(),
            pod,
            _groups: [class, kubepods, root],
        }
    }

    /// Waits until new connections land so, and says how long that took.
    #[track_caller]
    pub fn wait_until(&mut self, to: &str, lands: Lands) -> Duration {
        let started = Instant::now();
        loop {
            let found = [landing(&mut self.app, to), landing(&mut self.app, to)];
            if found == [Ok(lands), Ok(lands)] {
                break;
            }
            let waited = started.elapsed();
            assert!(
                waited < PATIENCE,
                "{to} is still {found:?} after {waited:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
        let took = started.elapsed();
        self.expect(to, lands);
        took
    }

    /// Panics unless a new connection lands so, by what the sidecar and the other end saw.
    #[track_caller]
    pub fn expect(&mut self, to: &str, lands: Lands) {
        drop(self.sidecar.drain());
        let connection = self.app.connect(to);
        match lands {
            Lands::Outbound => {
                expect_outbound(&mut self.sidecar, &connection, to, self.pod.ip4());
            }
            Lands::Direct => expect_direct(&mut self.sidecar, &connection, "remote"),
        }
    }

    /// Makes connections until it is stopped.
    pub fn load(mut self, to: &'static str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                let connection = self.app.connect(to);
                expect_outbound(&mut self.sidecar, &connection, to, self.pod.ip4());
                assert_eq!(connection.answered_by(), "remote");
                self.app.close(connection.id);
                count += 1;
            }
            count
        });
        Load { stop, thread }
    }
}

/// Connections that are made all the time, and have to be intercepted.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    /// Ends it; panics unless every connection was intercepted.
    #[track_caller]
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.join().expect("all were intercepted");
        assert!(count > 0, "there was no load");
        count
    }
}

/// Where a connection lands, as its other end has it: a sidecar connects from a port of its own,
/// which is the same in one case of many thousand.
fn landing(client: &mut Client, to: &str) -> Result<Lands, String> {
    let connection = client.connect(to);
    let lands = match (&connection.greeting, connection.local) {
        (Some(greeting), Some(local)) if greeting.peer == local => Ok(Lands::Direct),
        (Some(_), Some(_)) => Ok(Lands::Outbound),
        _ => Err(format!("{connection:?}")),
    };
    client.close(connection.id);
    lands
}
