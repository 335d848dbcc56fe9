//! The report as people read it: what is wrong first.

use std::fmt::Write as _;

use osm_ebpf_common::maps::{MAX_DESTINATIONS_PER_POD, MAX_HANDSHAKES_PER_POD};

use super::report::{Connections, Kernel, Listens, PodReport, Problem, Report};
use crate::{
    cli::style::{WIDTH, bad, columns, faint, good, heading, short, shortened},
    config::SidecarIdentity,
    ebpf::view::PolicyView,
};

/// How much of a pod's name is shown beside what is wrong with it.
const NAME: usize = 32;

/// What can't be told.
const WITHOUT_AGENT: &str = "Pods behind iptables are not among them: without an agent, see \
                             `osm-agent check --netns`.";

/// How much a line takes besides the pod's name and its policy.
const REST: usize = 56;

/// How much of a digest is shown: enough to tell policies from each other.
const DIGEST: usize = 8;

/// All pods, on a line each, under what is wrong with them.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", agent(report));
    for (title, lines) in [
        (bad("PROBLEMS"), problems(report)),
        (heading("WARNINGS"), warnings(report)),
    ] {
        section(&mut text, &title, lines);
    }
    if !report.pods.is_empty() {
        text.push('\n');
        let policies: Vec<_> = report.pods.iter().map(policy).collect();
        let widest = policies.iter().map(String::len).max().unwrap_or_default();
        let name = usize::from(WIDTH) - REST - widest.max("POLICY".len());
        let rows = report.pods.iter().zip(policies);
        let rows = rows.map(|(pod, policy)| row(shortened(&pod.name, name), pod, policy));
        let rows = [header()].into_iter().chain(rows);
        let lines = columns(rows.collect(), &[5, 6, 7]);
        let kinds = [None].into_iter().chain(report.pods.iter().map(Some));
        for (line, pod) in lines.iter().zip(kinds) {
            let line = match pod {
                None => heading(line),
                Some(pod) if !pod.problems.is_empty() => bad(line),
                Some(pod) if pod.word() == "ok" => line.clone(),
                Some(_) => faint(line),
            };
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{}", summary(report));
    if !report.agent.is_running {
        let _ = writeln!(text, "{}", faint(WITHOUT_AGENT));
    }
    text
}

/// One pod, with all that is known of it.
pub fn detail(report: &Report, pod: &PodReport) -> String {
    let mut text = format!("{}\n", agent(report));
    let problems = report.problems.iter().chain(&pod.problems);
    let rows = |rows: Vec<_>| columns(rows, &[]);
    for (title, lines) in [
        (bad("PROBLEMS"), rows(problems.map(alone).collect())),
        (
            heading("WARNINGS"),
            rows(pod.warnings.iter().map(alone).collect()),
        ),
    ] {
        section(&mut text, &title, lines);
    }
    text.push('\n');
    for line in columns(facts(pod), &[]) {
        let _ = writeln!(text, "{line}");
    }
    let counted = pod.kernel.counters.iter().filter(|(_, count)| **count > 0);
    let rows: Vec<_> = counted
        .map(|(reason, count)| vec![(*reason).to_owned(), count.to_string()])
        .collect();
    if pod.kernel.connections.is_some() {
        let _ = writeln!(text, "\n{}", heading("CONNECTIONS BY REASON"));
    }
    for line in columns(rows, &[1]) {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn agent(report: &Report) -> String {
    let agent = &report.agent;
    if agent.is_running {
        return format!("The node agent runs: {}", good(&agent.url));
    }
    let hint = if report.pods.is_empty() {
        "start it with `osm-agent run`, or give its --agent-url"
    } else {
        "pods stay intercepted; start it with `osm-agent run`"
    };
    let line = format!("No node agent at {}: {hint}", agent.url);
    columns(vec![vec![line]], &[]).join("\n")
}

fn problems(report: &Report) -> Vec<String> {
    let of_all = report.problems.iter().map(|it| ("all", it));
    let of_pods = report.pods.iter().flat_map(|pod| {
        let problems = pod.problems.iter();
        problems.map(|problem| (pod.name.as_str(), problem))
    });
    let rows = of_all
        .chain(of_pods)
        .map(|(whose, problem)| vec![shortened(whose, NAME), sentence(problem)]);
    columns(rows.collect(), &[])
}

fn warnings(report: &Report) -> Vec<String> {
    let of_pods = report.pods.iter().flat_map(|pod| {
        let warnings = pod.warnings.iter();
        warnings.map(|warning| vec![shortened(&pod.name, NAME), sentence(warning)])
    });
    columns(of_pods.collect(), &[])
}

/// Lines below a title, where there are some.
fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
}

fn alone(problem: &Problem) -> Vec<String> {
    vec![sentence(problem)]
}

fn sentence(problem: &Problem) -> String {
    format!("{}\n→ {}", problem.what, problem.todo)
}

fn header() -> Vec<String> {
    [
        "POD", "STATE", "MODE", "POLICY", "LISTENS", "REDIR", "PASS", "REFUSED",
    ]
    .map(String::from)
    .to_vec()
}

fn row(name: String, pod: &PodReport, policy: String) -> Vec<String> {
    let kernel = &pod.kernel;
    let counted = |count: fn(&Connections) -> u64| {
        let connections = kernel.connections.as_ref();
        connections.map_or_else(|| "-".into(), |it| short(count(it)))
    };
    vec![
        name,
        pod.word().into(),
        pod.mode.name().into(),
        policy,
        kernel.listeners.map_or("-", listens).into(),
        counted(|it| it.redirected),
        counted(|it| it.passed),
        counted(|it| it.refused),
    ]
}

/// `3f9a1c2e 12r 4p!`: the digest, how many ranges and ports there are, and whether others were
/// refused.
fn policy(pod: &PodReport) -> String {
    let mut text = String::from("-");
    if let Some(policy) = &pod.kernel.policy {
        text = digest(policy);
        let ports = policy.outbound_ports + policy.inbound_ports;
        for (count, unit) in [(policy.ranges, "r"), (ports, "p")] {
            if count > 0 {
                let _ = write!(text, " {}{unit}", short(count as u64));
            }
        }
    }
    if pod.lists_problem.is_some() {
        text.push('!');
    }
    text
}

fn digest(policy: &PolicyView) -> String {
    let digest = policy.digest.as_deref();
    digest.map_or_else(|| "no-lists".into(), |it| it.chars().take(DIGEST).collect())
}

const fn listens(listeners: Listens) -> &'static str {
    match (listeners.outbound, listeners.inbound) {
        (true, true) => "both",
        (true, false) => "out",
        (false, true) => "in",
        (false, false) => "no",
    }
}

fn facts(pod: &PodReport) -> Vec<Vec<String>> {
    let mut facts = vec![
        ("pod", pod.name.clone()),
        ("state", pod.word().to_lowercase()),
        ("mode", pod.mode.name().into()),
    ];
    facts.extend(pod.detail.clone().map(|it| ("the agent says", it)));
    if let Some(policy) = &pod.kernel.policy {
        facts.extend(of_policy(policy));
    }
    facts.extend(pod.lists_problem.clone().map(|it| ("last good lists", it)));
    facts.extend(of_kernel(&pod.kernel));
    let row = |(name, value): (&str, String)| vec![name.to_owned(), value];
    facts.into_iter().map(row).collect()
}

fn of_policy(policy: &PolicyView) -> Vec<(&'static str, String)> {
    let lists = format!(
        "{} ({} ranges, {} outbound ports, {} inbound ports, {} interfaces)",
        digest(policy),
        policy.ranges,
        policy.outbound_ports,
        policy.inbound_ports,
        policy.interfaces
    );
    let mut facts = vec![("policy", lists)];
    let settings = [
        (policy.dual_stack, "IPv6 too"),
        (
            policy.pod_ip,
            "localhost of the sidecar is the pod's address",
        ),
        (policy.shortcut, "loopback shortcut"),
        (
            policy.sidecar_identity == SidecarIdentity::UidAndCgroup.name(),
            "the sidecar known by its cgroup",
        ),
        (
            !policy.reserved_port_guard,
            "the sidecar's ports open to anybody",
        ),
    ];
    let on: Vec<_> = settings.iter().filter(|it| it.0).map(|it| it.1).collect();
    if !on.is_empty() {
        facts.push(("with", on.join(", ")));
    }
    facts
}

fn of_kernel(kernel: &Kernel) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let yes = |is_so| if is_so { "yes" } else { "no" };
    facts.extend(kernel.listeners.map(|it| {
        let (outbound, inbound) = (yes(it.outbound), yes(it.inbound));
        let value = format!("outbound {outbound}, inbound {inbound}");
        ("sidecar listens", value)
    }));
    facts.extend(
        kernel
            .sidecar_uid
            .map(|it| ("sidecar's user", it.to_string())),
    );
    facts.extend(kernel.programs.as_ref().map(|it| {
        let whose = if it.is_this_version {
            "this"
        } else {
            "another"
        };
        ("programs", format!("{} ({whose} version's)", it.version))
    }));
    let addresses: Vec<_> = kernel.addresses.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        facts.push(("addresses", addresses.join(", ")));
    }
    facts.extend(
        kernel
            .netns_cookie
            .map(|it| ("netns cookie", it.to_string())),
    );
    let path = kernel.cgroup_path.as_ref();
    facts.extend(path.map(|it| ("cgroup", it.display().to_string())));
    facts.extend(kernel.connections.map(|it| {
        let Connections {
            redirected,
            passed,
            refused,
        } = it;
        let value = format!("{redirected} redirected, {passed} passed, {refused} refused");
        ("connections", value)
    }));
    facts.extend(
        kernel
            .handshakes
            .map(|it| ("notes of what was dialled", notes(it))),
    );
    facts
}

/// They count together in the kernel.
fn notes(number: u64) -> String {
    format!(
        "{number} of {MAX_HANDSHAKES_PER_POD}: handshakes on their way, and up to {MAX_DESTINATIONS_PER_POD} \
         destinations, which stay"
    )
}

fn summary(report: &Report) -> String {
    let mut text = format!("{} pods", report.pods.len());
    let mut separator = ": ";
    for (word, shown) in [
        ("ok", "ok"),
        ("waiting", "waiting"),
        ("refused", "left alone"),
        ("PROBLEM", "with problems"),
    ] {
        let count = report.pods.iter().filter(|pod| pod.word() == word).count();
        if count > 0 {
            let _ = write!(text, "{separator}{count} {shown}");
            separator = ", ";
        }
    }
    text + "."
}
