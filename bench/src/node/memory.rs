//! Kernel memory of programs and maps, for a node and for each pod.

use anyhow::Result;
use osm_agent::{ebpf::Ebpf, interceptor::Interceptor as _};
use osm_tests::StateDir;

use super::{
    Options,
    bare::{Bare, Finder},
    figure, kernel, policy, sample,
};
use crate::sample::{Better, Sample, Variant};

/// Measures it.
pub fn measure(options: &Options, report: &mut dyn FnMut(Sample)) -> Result<()> {
    let count = if options.quick { 10 } else { 250 };
    let pods = Bare::many(count)?;
    let state = StateDir::new();
    let mut ebpf = Ebpf::open(state.path())?;
    let lists = policy("{outboundIPRangeExclusionList: [192.0.2.0/24]}")?;
    let mut say = |what: &str, setting: String, value: u64| {
        let value = (figure(value), "bytes");
        report(sample(what, setting, Variant::Ebpf, value, Better::Lower));
    };
    let [programs, maps] = [programs(&state)?, kernel::map_memory(&state)?];
    say("node-program-memory", "pods=0".into(), programs);
    say("node-map-memory", "pods=0".into(), maps);
    for pod in Finder::new()?.find_all(&pods)? {
        ebpf.enrol(&pod, Some(&lists))?;
    }
    ebpf.tidy()?;
    pods[count - 1].prove_intercepted()?;
    let count = count as u64;
    let more = self::programs(&state)?.saturating_sub(programs);
    say("pod-program-memory", String::new(), more / count);
    let more = kernel::map_memory(&state)?.saturating_sub(maps);
    say("pod-map-memory", String::new(), more / count);
    Ok(())
}

fn programs(state: &StateDir) -> Result<u64> {
    Ok(kernel::programs(state)?.iter().map(|it| it.memory).sum())
}
