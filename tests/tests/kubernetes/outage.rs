//! The API server goes away and comes back, and so does the agent.

use crate::objects::EXCLUDED_RANGES;
use crate::scene::{FIRST, Lands, SECOND, Scene};

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn outage_of_the_api_server_costs_nobody_interception() {
    let Some(mut scene) = Scene::with_agent() else {
        return;
    };
    let mut web = scene.create_pod("web");
    web.wait_until(FIRST, Lands::Outbound);
    scene.annotate(&web, EXCLUDED_RANGES, "198.51.100.10/32");
    web.wait_until(FIRST, Lands::Direct);
    scene.node.wait_until_ready();
    let mut busy = scene.create_pod("busy");
    busy.wait_until(SECOND, Lands::Outbound);
    let load = busy.load(SECOND);

    scene.cluster.kill_api_server();
    web.expect(FIRST, Lands::Direct);
    scene.node.kill();
    web.expect(FIRST, Lands::Direct);
    scene.node.start();
    // It knows of no pods now, and lets go of none.
    scene
        .node
        .wait_for("nobody answers HTTP", |node| node.get("/healthz").is_some());
    web.expect(FIRST, Lands::Direct);
    web.expect(SECOND, Lands::Outbound);

    scene.cluster.restart_api_server();
    scene.annotate(&web, EXCLUDED_RANGES, "198.51.100.10/32,192.0.2.0/24");
    scene.node.wait_until_ready();
    let mut late = scene.create_pod("late");
    late.wait_until(FIRST, Lands::Outbound);
    println!("{} connections, all intercepted", load.stop());

    scene.annotate(&web, EXCLUDED_RANGES, "203.0.113.0/24");
    web.wait_until(FIRST, Lands::Outbound);
    web.expect(SECOND, Lands::Direct);
}

#[test]
#[ignore = "needs an API server: cargo xtask e2e-kubernetes"]
fn changes_after_an_outage_arrive_at_an_agent_that_went_on_running() {
    let Some(mut scene) = Scene::with_agent() else {
        return;
    };
    let (mut web, mut gone) = (scene.create_pod("web"), scene.create_pod("gone"));
    web.wait_until(FIRST, Lands::Outbound);
    gone.wait_until(FIRST, Lands::Outbound);
    let mut busy = scene.create_pod("busy");
    busy.wait_until(SECOND, Lands::Outbound);
    let load = busy.load(SECOND);

    for _ in 0..3 {
        scene.cluster.kill_api_server();
        web.expect(FIRST, Lands::Outbound);
        scene.cluster.restart_api_server();
    }
    scene.annotate(&web, EXCLUDED_RANGES, "198.51.100.10/32");
    scene.cluster.delete(&gone.path).expect("deleting it");
    web.wait_until(FIRST, Lands::Direct);
    gone.wait_until(FIRST, Lands::Direct);
    println!("{} connections, all intercepted", load.stop());
}
