//! How many connections one pod can hold open at once, and what memory each takes.

use std::{panic::resume_unwind, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use osm_agent::{ebpf::Ebpf, interceptor::Interceptor as _, policy::Policy};
use osm_tests::{APP_UID, Actor, Client, Many, SIDECAR_UID, StateDir, Tally};

use super::{
    Options,
    bare::{Bare, Finder},
    enrol, figure, kernel, policy, sample,
};
use crate::sample::{Better, Sample, Variant};

/// The sidecar's port, to which a direct connection goes.
const DIRECT: &str = "127.0.0.1:15001";

/// How many processes the application and the sidecar have: one may be allowed no more than
/// 20,000 files.
const PROCESSES: usize = 4;

/// Measures it.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let count = if options.quick { 2_000 } else { 60_000 };
    let lists = policy("{}")?;
    // Once: what is counted hardly varies, and the kernel's search for the last free ports takes most of
    // a minute each time.
    for (variant, destinations) in [
        (Variant::Direct, 1),
        (Variant::Ebpf, 1),
        (Variant::Ebpf, 4),
        (Variant::IptablesLegacy, 1),
        (Variant::IptablesLegacy, 4),
    ] {
        one(variant, destinations, count, &lists, report)
            .with_context(|| format!("{variant:?} to {destinations}"))?;
    }
    Ok(())
}

fn one(
    variant: Variant,
    destinations: usize,
    count: u64,
    lists: &Policy,
    report: &mut dyn FnMut(Sample),
) -> Result<()> {
    let pod = Bare::new(1);
    let state = StateDir::new();
    let _held = intercept(&pod, &state, variant, lists)?;
    let listen = "0.0.0.0:15001,reuseport";
    let args = ["serve", "--role", "sidecar", "--quiet", "--listen", listen];
    let sidecar = || Actor::start("sidecar", &pod.place(SIDECAR_UID), &args);
    let _workers: Vec<Actor> = (0..PROCESSES).map(|_| sidecar()).collect();
    let app = || Client::start("app", &pod.place(APP_UID));
    let mut apps: Vec<Client> = (0..PROCESSES).map(|_| app()).collect();
    let targets: Vec<String> = match variant {
        Variant::Direct => vec![DIRECT.into()],
        _ => (10..10 + destinations)
            .map(|host| format!("198.51.100.{host}:80"))
            .collect(),
    };
    prove(&mut apps[0], &targets[0], variant)?;
    let before = Memory::now(&pod)?;
    let open = hold(&mut apps, &targets, count / PROCESSES as u64)?;
    // Memory that is freed a little later, and timers.
    thread::sleep(Duration::from_millis(500));
    let after = Memory::now(&pod)?;
    let setting = format!("destinations={destinations}");
    let mut say = |what: &str, value: f64, unit: &str, better| {
        let value = (value, unit);
        report(sample(what, setting.clone(), variant, value, better));
    };
    let [what, slab, conntrack] =
        ["", "-slab", "-conntrack"].map(|it| format!("open-connection{it}"));
    say(
        &format!("{what}s"),
        figure(open),
        "connections",
        Better::Higher,
    );
    let each = |more: u64| figure(more) / figure(open.max(1));
    let more = after.slab.saturating_sub(before.slab);
    say(&slab, each(more), "bytes", Better::Lower);
    let more = after.conntrack.saturating_sub(before.conntrack);
    say(&conntrack, each(more), "bytes", Better::Lower);
    Ok(())
}

/// Puts the pod under interception, for as long as what is returned lives.
fn intercept(
    pod: &Bare,
    state: &StateDir,
    variant: Variant,
    lists: &Policy,
) -> Result<Option<Ebpf>> {
    // As a pod's securityContext.sysctls may say.
    for (name, value) in [
        ("net/ipv4/ip_local_port_range", "1024 65535"),
        ("net/ipv4/ip_local_reserved_ports", "15000-15003"),
    ] {
        pod.netns.sysctl(name, value);
    }
    match variant {
        Variant::Ebpf => {
            let mut ebpf = Ebpf::open(state.path())?;
            ebpf.enrol(&Finder::new()?.find(pod)?, Some(lists))?;
            Ok(Some(ebpf))
        }
        Variant::IptablesLegacy => {
            enrol::write_rules(pod, "iptables-legacy", Some(lists))?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Opens connections from all processes at once, and keeps them open; says how many there are.
fn hold(apps: &mut [Client], targets: &[String], each: u64) -> Result<u64> {
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let calls = apps.iter_mut().enumerate().map(|(number, app)| {
            let target = &targets[number % targets.len()];
            scope.spawn(move || app.many(Many::to(target, each).concurrency(2).hold()))
        });
        let calls: Vec<_> = calls.collect();
        let tallies = calls.into_iter().map(thread::ScopedJoinHandle::join);
        tallies
            .map(|tally| tally.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    let mut open = 0;
    for tally in tallies {
        ensure!(tally.wrong_peer == 0, "some were told of another peer");
        if !tally.failed.is_empty() {
            eprintln!(
                "of {each} connections of a process failed: {:?}",
                tally.failed
            );
        }
        open += tally.succeeded;
    }
    Ok(open)
}

/// One connection whose acceptor says where it wanted to go.
fn prove(app: &mut Client, target: &str, variant: Variant) -> Result<()> {
    let connection = app.connect(target);
    let greeting = connection.greeting();
    ensure!(greeting.role == "sidecar", "{connection:?}");
    let original = greeting.original.map(|it| it.to_string());
    ensure!(
        variant == Variant::Direct || original.as_deref() == Some(target),
        "{connection:?}"
    );
    app.reset(connection.id);
    Ok(())
}

/// In bytes.
struct Memory {
    /// Of the whole machine.
    slab: u64,
    /// Of the pod.
    conntrack: u64,
}

impl Memory {
    fn now(pod: &Bare) -> Result<Self> {
        Ok(Self {
            slab: kernel::memory("Slab")?,
            conntrack: kernel::conntrack(&pod.netns)?,
        })
    }
}
