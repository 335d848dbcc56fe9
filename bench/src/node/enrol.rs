//! Enrolling, changing and withdrawing pods: by eBPF in this process, and by `iptables-restore`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use osm_agent::{
    config::{Lists, MeshConfig},
    ebpf::Ebpf,
    interceptor::Interceptor as _,
    iptables::{Family, RuleSet, Saved, transaction},
    pod::Pod,
    policy::Policy,
};
use osm_tests::StateDir;

use super::{Options, bare::Bare};
use crate::sample::{Better, Sample, Variant};

/// What the changed lists exclude.
const EXCLUDED: u16 = 5432;

/// The lists before and after a change.
struct Lists2 {
    before: Policy,
    after: Policy,
}

pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let (sizes, rounds): (&[usize], usize) = if options.quick {
        (&[1, 10], 2)
    } else {
        (&[1, 10, 100, 250], 5)
    };
    let most = u16::try_from(*sizes.last().context("no sizes")?)?;
    let pods: Vec<Bare> = (1..=most).map(Bare::new).collect();
    let lists = Lists2 {
        before: policy(
            "{outboundIPRangeExclusionList: [10.0.0.0/8, 192.0.2.0/24], outboundPortExclusionList: [6379, 3306]}",
        )?,
        after: policy(
            "{outboundIPRangeExclusionList: [10.0.0.0/8, 192.0.2.0/24], outboundPortExclusionList: [6379, 5432]}",
        )?,
    };
    for round in 0..rounds {
        for size in sizes {
            let pods = &pods[..*size];
            by_ebpf(pods, &lists, round, report)?;
            for variant in [Variant::IptablesLegacy, Variant::IptablesNft] {
                by_iptables(pods, &lists, variant, report)?;
            }
        }
    }
    Ok(())
}

fn policy(traffic: &str) -> Result<Policy> {
    let text = format!(
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {{traffic: {traffic}}}\n"
    );
    let mesh = MeshConfig::parse(&text, "the benchmark's")?;
    Ok(Policy::of_pod(&mesh, &Lists::default(), false))
}

fn sample(what: &str, pods: usize, variant: Variant, took: Duration) -> Sample {
    Sample {
        measurement: what.into(),
        setting: format!("pods={pods}"),
        variant,
        unit: "µs/pod".into(),
        value: took.as_secs_f64() * 1e6 / pods as f64,
        better: Better::Lower,
    }
}

fn by_ebpf(
    pods: &[Bare],
    lists: &Lists2,
    _round: usize,
    report: &mut dyn FnMut(Sample),
) -> Result<()> {
    let state = StateDir::new();
    let mut say = |what, took| report(sample(what, pods.len(), Variant::Ebpf, took));
    let first = Bare::new(0);
    let mut ebpf = Ebpf::open(state.path())?;
    ebpf.enrol(&first.open()?, Some(&lists.before))?;

    let start = Instant::now();
    let mut opened = Vec::new();
    for pod in pods {
        opened.push(pod.open()?);
    }
    let open = start.elapsed();
    let start = Instant::now();
    for pod in &opened {
        ebpf.enrol(pod, Some(&lists.before))?;
    }
    let enrol = start.elapsed();
    eprintln!(
        "open {:?} enrol {:?} per pod",
        open / pods.len() as u32,
        enrol / pods.len() as u32
    );
    say("enrol", open + enrol);
    ebpf.tidy()?;
    prove(pods, Bare::prove_intercepted)?;

    let start = Instant::now();
    for pod in &opened {
        ebpf.enrol(pod, Some(&lists.after))?;
    }
    say("change", start.elapsed());
    ebpf.tidy()?;
    prove(pods, |pod| pod.prove_excluded(EXCLUDED))?;

    let start = Instant::now();
    for pod in &opened {
        ensure!(ebpf.withdraw(&pod.netns)?, "it was not enrolled");
    }
    say("withdraw", start.elapsed());
    ebpf.tidy()?;
    Ok(())
}

fn prove(pods: &[Bare], check: impl Fn(&Bare) -> Result<()>) -> Result<()> {
    let last = pods.last().context("no pod")?;
    check(last).with_context(|| format!("the pod {}", last.address))
}

fn by_iptables(
    pods: &[Bare],
    lists: &Lists2,
    variant: Variant,
    report: &mut dyn FnMut(Sample),
) -> Result<()> {
    let backend = if variant == Variant::IptablesNft {
        "iptables-nft"
    } else {
        "iptables-legacy"
    };
    let mut opened: Vec<Pod> = Vec::new();
    for pod in pods {
        opened.push(pod.open()?);
    }
    for (what, wanted) in [
        ("enrol", Some(&lists.before)),
        ("change", Some(&lists.after)),
        ("withdraw", None),
    ] {
        let mut texts = Vec::new();
        for (bare, pod) in pods.iter().zip(&opened) {
            let saved = bare
                .netns
                .command(&format!("{backend}-save"), &["-t", "nat"]);
            let now = Saved::parse(&String::from_utf8_lossy(&saved.stdout))?;
            let rules = wanted
                .map(|policy| RuleSet::new(policy, &pod.addresses))
                .transpose()?;
            let rules = rules.as_ref().and_then(|rules| rules.of(Family::V4));
            texts.push(transaction(Family::V4, &now, rules).context("nothing to do")?);
        }
        let start = Instant::now();
        for (bare, text) in pods.iter().zip(&texts) {
            restore(bare, backend, text)?;
        }
        report(sample(what, pods.len(), variant, start.elapsed()));
        match what {
            "enrol" => prove(pods, Bare::prove_intercepted)?,
            "change" => prove(pods, |pod| pod.prove_excluded(EXCLUDED))?,
            _ => {}
        }
    }
    Ok(())
}

/// Runs `iptables-restore` in the pod's namespace, as an init container would.
fn restore(pod: &Bare, backend: &str, text: &str) -> Result<()> {
    let output = pod.netns.run(|| {
        let mut child = Command::new(format!("{backend}-restore"))
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{backend}-restore: {said}");
    Ok(())
}
