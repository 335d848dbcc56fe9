//! What a pod outside of the mesh notices of the others on its node: nothing.

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use osm_agent::{ebpf::Ebpf, interceptor::Interceptor as _};
use osm_tests::{APP_UID, Actor, Client, Many, StateDir};

use super::{
    Options,
    bare::{Bare, Finder},
    figure, kernel, policy, sample,
};
use crate::sample::{Better, Sample, Variant};

/// Measures it.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let (count, rounds, connections) = if options.quick {
        (10, 1, 500)
    } else {
        (250, 10, 5_000)
    };
    let pods = Bare::many(count)?;
    let found = Finder::new()?.find_all(&pods)?;
    let outsider = Bare::new(0);
    let place = outsider.place(APP_UID);
    let listen = format!("{}:8080", outsider.address);
    let _server = Actor::start(
        "server",
        &place,
        &[
            "serve", "--role", "outsider", "--quiet", "--listen", &listen,
        ],
    );
    let mut client = Client::start("client", &place);
    let mut rate = || -> Result<f64> {
        let tally = client.many(Many::to(&listen, connections));
        ensure!(tally.failed.is_empty(), "{:?}", tally.failed);
        Ok(figure(connections) * 1e6 / figure(tally.micros))
    };
    let lists = policy("{}")?;
    rate()?;
    for _ in 0..rounds {
        let alone = rate()?;
        let state = StateDir::new();
        let mut ebpf = Ebpf::open(state.path())?;
        for pod in &found {
            ebpf.enrol(pod, Some(&lists))?;
        }
        let among = rate()?;
        for (enrolled, value) in [(0, alone), (count, among)] {
            let setting = format!("enrolled={enrolled}");
            let value = (value, "1/s");
            let what = "outsider-connections";
            report(sample(
                what,
                setting,
                Variant::Direct,
                value,
                Better::Higher,
            ));
        }
        let runs = runs_of_ours(&state, &pods, &mut rate)?;
        let value = (figure(runs), "runs");
        let setting = format!("enrolled={count}");
        let what = "outsider-program-runs";
        report(sample(what, setting, Variant::Direct, value, Better::Lower));
    }
    Ok(())
}

/// How often programs of ours ran for the outsider's connections; and that they are counted when
/// they run for somebody else's.
fn runs_of_ours(
    state: &StateDir,
    pods: &[Bare],
    rate: &mut impl FnMut() -> Result<f64>,
) -> Result<u64> {
    let _counting = enable_stats(Stats::RunTime)?;
    let runs = || -> Result<u64> {
        let programs = kernel::programs(state)?;
        Ok(programs.iter().map(|program| program.runs).sum())
    };
    let before = runs()?;
    rate()?;
    let after = runs()?;
    pods.first().context("no pods")?.prove_intercepted()?;
    ensure!(runs()? > after, "no run of any program was counted");
    Ok(after - before)
}
