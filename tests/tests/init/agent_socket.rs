//! Asking the node agent: what it may answer, and what becomes of it.

use std::{
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use osm_tests::agent;
use rstest::rstest;

use crate::{
    container::{Container, FakeAgent, request, rules},
    expect_intercepted,
    mesh::{Backend, Lists, Mesh},
};

const LISTS: [&str; 2] = [
    "--outbound-port-exclusion-list=5432",
    "--inbound-port-exclusion-list=9000",
];

fn args<'a>(mode: &'a str, socket: &'a str) -> Vec<&'a str> {
    let fixed = [
        "--mode",
        mode,
        "--agent-socket",
        socket,
        "--agent-timeout=1",
    ];
    [&fixed[..], &LISTS].concat()
}

/// In auto it is a reason to use iptables, in ebpf an error.
#[track_caller]
fn expect_fallback(mesh: &Mesh, socket: &str, words: &str) {
    let pod = &mesh.world.pod;
    let start = Instant::now();
    let container = Container::new(pod, &args("ebpf", socket));
    let _ = container.run().exited(1).complaining(&[
        "have this pod intercepted by eBPF",
        words,
        "--mode auto",
    ]);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
    Container::new(pod, &args("auto", socket))
        .environment("OSM_IPTABLES_BACKEND", "nft")
        .run()
        .exited(0)
        .saying(&format!("no eBPF: {words}"))
        .saying("using iptables instead")
        .saying("intercepted by iptables-nft")
        .proving_all();
    expect_intercepted(mesh);
}

#[test]
fn absent_agent_leads_to_iptables() {
    let Some(mesh) = crate::mesh(Backend::Nft) else {
        return;
    };
    let socket = "/nonexistent/agent.sock";
    expect_fallback(
        &mesh,
        socket,
        "no node agent at /nonexistent/agent.sock: No such file",
    );
}

#[rstest]
#[case::refuses(
    b"{\"version\":1,\"refused\":\"no\\nsk_lookup\"}\n",
    "refuses: no sk_lookup"
)]
#[case::garbage(b"hello\n", "what is not of this protocol")]
#[case::unknown_mode(
    b"{\"version\":1,\"mode\":\"magic\"}\n",
    "what is not of this protocol"
)]
#[case::other_version(b"{\"version\":2,\"mode\":\"ebpf\"}\n", "it speaks version 2")]
#[case::closes(b"", "closed without an answer")]
#[case::half_a_line(b"{\"version\":1", "closed without an answer")]
#[case::endless(&[b'x'; 5000], "it sent more than 4096 bytes")]
fn agent_that_does_not_enrol_leads_to_iptables(#[case] answer: &'static [u8], #[case] words: &str) {
    let Some(mesh) = crate::mesh(Backend::Nft) else {
        return;
    };
    let fake = FakeAgent::saying(answer);
    let socket = fake.socket().display().to_string();
    let place = format!("node agent at {socket}");
    let words = if words.starts_with("refuses") {
        format!("the {place} {words}")
    } else {
        format!(
            "no {place}: {}",
            if words.starts_with("it ") {
                words
            } else {
                "it "
            }
        )
    };
    expect_fallback(&mesh, &socket, &words);
}

#[test]
fn slow_agent_leads_to_iptables_in_time() {
    let Some(mesh) = crate::mesh(Backend::Nft) else {
        return;
    };
    let fake = FakeAgent::dripping();
    let socket = fake.socket().display().to_string();
    let words = format!("no node agent at {socket}: no answer within 1 s");
    expect_fallback(&mesh, &socket, &words);
}

#[test]
fn silent_agent_leads_to_iptables_in_time() {
    let Some(mesh) = crate::mesh(Backend::Nft) else {
        return;
    };
    let fake = FakeAgent::new(|stream| {
        let _ = request(&stream);
        std::thread::sleep(Duration::from_mins(1));
    });
    let socket = fake.socket().display().to_string();
    let words = format!("no node agent at {socket}: no answer within 1 s");
    expect_fallback(&mesh, &socket, &words);
}

/// An agent that does what the real one will do.
fn enrolling(mesh: &Mesh) -> FakeAgent {
    let pod = &mesh.world.pod;
    let mut command = vec![
        "attach".to_owned(),
        "--mode=ebpf".into(),
        format!("--netns={}", pod.netns.path().display()),
        format!("--cgroup={}", pod.cgroup.path().display()),
        format!("--state-dir={}", mesh.agent.state().path().display()),
    ];
    for (key, value) in [("outbound-port", "5432"), ("inbound-port", "9000")] {
        let annotation = format!("openservicemesh.io/{key}-exclusion-list={value}");
        command.extend(["--annotation".into(), annotation]);
    }
    FakeAgent::new(move |mut stream| {
        assert_eq!(request(&stream), r#"{"version":1,"request":"enrol"}"#);
        let output = Command::new(agent::binary().expect("the agent"))
            .args(&command)
            .output();
        let output = output.expect("the agent runs");
        assert!(output.status.success(), "{output:?}");
        let _ = stream.write_all(b"{\"version\":1,\"mode\":\"ebpf\"}\n");
    })
}

#[rstest]
fn agent_that_enrols_is_proven(#[values("auto", "ebpf")] mode: &str) {
    let Some(mesh) = crate::mesh(Backend::Ebpf) else {
        return;
    };
    let pod = &mesh.world.pod;
    let fake = enrolling(&mesh);
    let socket = fake.socket().display().to_string();
    let mut args = args(mode, &socket);
    args.retain(|arg| *arg != "--agent-timeout=1");
    // What an earlier run without the agent left must not be in the way.
    let earlier = ["--mode=iptables", "--iptables-backend=nft"];
    let _ = Container::new(pod, &earlier).run().exited(0);
    Container::new(pod, &args)
        .run()
        .exited(0)
        .saying("intercepted by eBPF, by the node agent")
        .saying("outbound: proven: 192.0.2.1:80 arrived at 15001, with that original destination")
        .saying("inbound: proven: 10.77.1.2:")
        .proving_all();
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
    // Nothing of that takes a capability for iptables; without, less of it is proven.
    let container = Container::new(pod, &args).capabilities(&["setuid"]);
    let ended = container.run().exited(0).saying("outbound: proven");
    let _ = ended.saying("inbound: not proven");
    expect_intercepted(&mesh);
}

#[test]
fn rules_that_the_agent_leaves_are_removed() {
    let Some(mesh) = crate::mesh(Backend::Ebpf) else {
        return;
    };
    let pod = &mesh.world.pod;
    let lists = Lists {
        excluded_ports: "5432",
        excluded_inbound_ports: "9000",
        ..Lists::default()
    };
    let _ = mesh.attach(&lists).succeeded();
    let netns = pod.netns.path().display().to_string();
    let apply = [
        "iptables",
        "apply",
        "--iptables-backend=nft",
        "--netns",
        &netns,
    ];
    let _ = mesh.agent.run(&apply).succeeded();
    let fake = FakeAgent::saying(b"{\"version\":1,\"mode\":\"ebpf\"}\n");
    let socket = fake.socket().display().to_string();
    Container::new(pod, &args("auto", &socket))
        .run()
        .exited(0)
        .saying("the iptables rules of an earlier run are removed")
        .proving_all();
    assert!(!rules(pod, "iptables-nft-save").contains("PROXY"));
    expect_intercepted(&mesh);
}

#[test]
fn agent_that_only_says_so_is_found_out() {
    let Some(mesh) = crate::mesh(Backend::Ebpf) else {
        return;
    };
    let fake = FakeAgent::saying(b"{\"version\":1,\"mode\":\"ebpf\"}\n");
    let socket = fake.socket().display().to_string();
    let container = Container::new(&mesh.world.pod, &args("auto", &socket));
    let _ = container.run().exited(126).complaining(&[
        "redirection does not work",
        "outbound: 192.0.2.1:80 should arrive at 15001",
        "the node agent may go by other lists",
    ]);
}

#[test]
fn agent_s_listeners_need_the_sidecar_s_user() {
    let Some(mesh) = crate::mesh(Backend::Ebpf) else {
        return;
    };
    let fake = enrolling(&mesh);
    let socket = fake.socket().display().to_string();
    let args = ["--agent-socket", &socket, "--mode=ebpf"];
    let container = Container::new(&mesh.world.pod, &args).capabilities(&["net_admin"]);
    let words = ["prove the redirection", "leave SETUID and NET_RAW"];
    let _ = container.run().exited(1).complaining(&words);
}
