//! Enrolling, changing and withdrawing pods: by eBPF in this process, as the agent does it, and by
//! `iptables-restore`, as an init container does it.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use osm_agent::{
    ebpf::Ebpf,
    interceptor::{Enrolled, Interceptor as _},
    iptables::{Family, RuleSet, Saved, transaction},
    pod::Pod,
    policy::Policy,
};
use osm_tests::StateDir;

use super::{
    Options,
    bare::{Bare, Finder},
    figure, policy, sample,
};
use crate::sample::{Better, Sample, Variant};

/// What the changed lists exclude, and the former ones do not.
const EXCLUDED: u16 = 5432;

/// The lists before and after a change.
struct Change {
    before: Policy,
    after: Policy,
}

/// Measures it for different numbers of pods.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let (sizes, rounds): (&[usize], usize) = if options.quick {
        (&[1, 10], 1)
    } else {
        (&[1, 10, 100, 250], 5)
    };
    let pods = Bare::many(*sizes.last().context("no sizes")?)?;
    let ranges = "outboundIPRangeExclusionList: [10.0.0.0/8, 192.0.2.0/24]";
    let change = Change {
        before: policy(&format!(
            "{{{ranges}, outboundPortExclusionList: [6379, 3306]}}"
        ))?,
        after: policy(&format!(
            "{{{ranges}, outboundPortExclusionList: [6379, {EXCLUDED}]}}"
        ))?,
    };
    for _ in 0..rounds {
        for size in sizes {
            let pods = &pods[..*size];
            by_ebpf(pods, &change, report)?;
            for variant in [Variant::IptablesLegacy, Variant::IptablesNft] {
                by_iptables(pods, &change, variant, report)
                    .with_context(|| format!("{variant:?}"))?;
            }
        }
    }
    Ok(())
}

fn each(what: &str, pods: usize, variant: Variant, took: Duration) -> Sample {
    let value = took.as_secs_f64() * 1e6 / figure(pods as u64);
    let setting = format!("pods={pods}");
    sample(what, setting, variant, (value, "µs"), Better::Lower)
}

fn all(pods: usize, variant: Variant, took: Duration) -> Sample {
    let value = (took.as_secs_f64() * 1e3, "ms");
    let setting = format!("pods={pods}");
    sample("node-change-all", setting, variant, value, Better::Lower)
}

fn by_ebpf(pods: &[Bare], change: &Change, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let state = StateDir::new();
    let mut say = |what, took| report(each(what, pods.len(), Variant::Ebpf, took));
    let finder = Finder::new()?;
    let other = Bare::new(0);
    let start = Instant::now();
    let mut ebpf = Ebpf::open(state.path())?;
    ebpf.enrol(&Finder::new()?.find(&other)?, Some(&change.before))?;
    if pods.len() == 1 {
        say("node-enrol-first", start.elapsed());
    }

    let start = Instant::now();
    let mut found = Vec::new();
    for pod in pods {
        let pod = finder.find(pod)?;
        let enrolled = ebpf.enrol(&pod, Some(&change.before))?;
        ensure!(matches!(enrolled, Enrolled::New { .. }), "it was enrolled");
        found.push(pod);
    }
    say("node-enrol", start.elapsed());
    ebpf.tidy()?;
    prove(pods, Bare::prove_intercepted)?;

    // As for one pod at a time: everything about each is looked at.
    let start = Instant::now();
    for pod in &found {
        ebpf.enrol(pod, Some(&change.after))?;
    }
    say("node-change", start.elapsed());
    ebpf.tidy()?;
    prove(pods, |pod| pod.prove_excluded(EXCLUDED))?;

    let mut cookies = Vec::new();
    for pod in &found {
        cookies.push(pod.netns.cookie()?);
    }
    let took = switch(&mut ebpf, pods, &cookies, &change.before)?;
    ebpf.tidy()?;

    let start = Instant::now();
    ebpf.withdraw_many(&cookies)?;
    say("node-withdraw", start.elapsed());
    ebpf.tidy()?;
    prove(pods, |pod| {
        let result = pod.prove_intercepted();
        ensure!(result.is_err(), "it is still intercepted");
        Ok(())
    })?;
    report(all(pods.len(), Variant::Ebpf, took));
    Ok(())
}

/// Puts all pods back under other lists at once, as the agent does it when the mesh's lists change.
fn switch(ebpf: &mut Ebpf, pods: &[Bare], cookies: &[u64], to: &Policy) -> Result<Duration> {
    let wanted: Vec<_> = cookies.iter().map(|pod| (*pod, to)).collect();
    let start = Instant::now();
    let switched = ebpf.switch(&wanted)?;
    let took = start.elapsed();
    ensure!(switched.len() == pods.len(), "some were not switched");
    prove(pods, |pod| {
        ensure!(
            pod.prove_excluded(EXCLUDED).is_err(),
            "the new lists are not in force"
        );
        pod.prove_intercepted()
    })?;
    Ok(took)
}

/// The first and the last stand for all.
fn prove(pods: &[Bare], check: impl Fn(&Bare) -> Result<()>) -> Result<()> {
    let (first, last) = (pods.first().context("no pod")?, pods.last());
    check(first)?;
    match last {
        Some(last) if pods.len() > 1 => check(last),
        _ => Ok(()),
    }
}

fn by_iptables(
    pods: &[Bare],
    change: &Change,
    variant: Variant,
    report: &mut dyn FnMut(Sample),
) -> Result<()> {
    let tool = if variant == Variant::IptablesNft {
        "iptables-nft"
    } else {
        "iptables-legacy"
    };
    let found = Finder::new()?.find_all(pods)?;
    for (what, wanted) in [
        ("node-enrol", Some(&change.before)),
        ("node-change", Some(&change.after)),
        ("node-withdraw", None),
    ] {
        // What to write is worked out beforehand: only the tool itself counts.
        let mut texts = Vec::new();
        for (bare, pod) in pods.iter().zip(&found) {
            texts.push(text(bare, pod, tool, wanted)?);
        }
        let start = Instant::now();
        for (bare, text) in pods.iter().zip(&texts) {
            restore(bare, tool, text)?;
        }
        let duration = start.elapsed();
        report(each(what, pods.len(), variant, duration));
        match what {
            "node-enrol" => prove(pods, Bare::prove_intercepted)?,
            "node-change" => {
                prove(pods, |pod| pod.prove_excluded(EXCLUDED))?;
                report(all(pods.len(), variant, duration));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What leads from the rules that are there to those that are wanted.
fn text(bare: &Bare, pod: &Pod, tool: &str, wanted: Option<&Policy>) -> Result<String> {
    let saved = bare.netns.command(&format!("{tool}-save"), &["-t", "nat"]);
    let now = Saved::parse(&String::from_utf8_lossy(&saved.stdout))?;
    let rules = wanted
        .map(|policy| RuleSet::new(policy, &pod.addresses))
        .transpose()?;
    let rules = rules.as_ref().and_then(|rules| rules.of(Family::V4));
    transaction(Family::V4, &now, rules).context("nothing to do")
}

/// Puts a pod under rules.
pub fn write_rules(bare: &Bare, tool: &str, policy: Option<&Policy>) -> Result<()> {
    let pod = Finder::new()?.find(bare)?;
    restore(bare, tool, &text(bare, &pod, tool, policy)?)
}

fn restore(pod: &Bare, tool: &str, text: &str) -> Result<()> {
    let output = pod.netns.run(|| {
        let mut child = Command::new(format!("{tool}-restore"))
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("running {tool}-restore"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{tool}-restore: {said}");
    Ok(())
}
