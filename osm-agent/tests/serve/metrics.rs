//! What Prometheus reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use osm_agent::daemon::{
    metrics::{Answered, Asked, Enrolment, Metrics, Part, SourceKind, Withdrawal},
    status::{Means, State},
};
use rstest::rstest;

use crate::server::{failed, intercepted, pod, synced};

/// Every family, with its kind and its series.
const FAMILIES: &[(&str, &str, usize)] = &[
    ("osm_pods", "gauge", 4),
    ("osm_enrolments", "counter", 10),
    ("osm_withdrawals", "counter", 2),
    ("osm_drift_repaired", "counter", 2),
    ("osm_passes", "counter", 1),
    ("osm_pass_duration_seconds", "histogram", 17),
    ("osm_config_errors", "counter", 2),
    ("osm_requests", "counter", 10),
    ("osm_source_errors", "counter", 2),
    ("osm_build", "info", 1),
    ("process_resident_memory_bytes", "gauge", 1),
    ("process_start_time_seconds", "gauge", 1),
];

#[test]
fn text_has_the_documented_families_with_help_and_kind() {
    let families = parse(&Metrics::new().text());
    let expected: BTreeSet<_> = FAMILIES.iter().copied().collect();
    let found: BTreeSet<_> = families
        .iter()
        .map(|(name, family)| (name.as_str(), family.kind.as_str(), family.samples.len()))
        .collect();
    assert_eq!(found, expected);
    for (name, family) in &families {
        assert!(family.help.len() > 10, "{name} has no help");
    }
}

#[test]
fn number_of_series_does_not_grow_with_what_happens() {
    let metrics = Metrics::new();
    let before = names(&metrics);
    let pods = (0..1000).map(|n| failed(&format!("a/{n}"), &format!("reason {n}")));
    metrics.pods(&synced(pods.collect()));
    metrics.enrolled(Means::Iptables, Enrolment::Failed);
    metrics.withdrawn(Withdrawal::Failed);
    metrics.drift(Means::Ebpf, 3);
    metrics.pass(Duration::from_mins(1));
    metrics.config_error(Part::Mesh);
    metrics.request(Asked::Cni, Answered::Limited);
    metrics.source_error(SourceKind::Kubernetes);
    assert_eq!(names(&metrics), before);
}

#[rstest]
#[case(|it: &Metrics| it.enrolled(Means::Ebpf, Enrolment::New), r#"osm_enrolments_total{means="ebpf",outcome="new"}"#, 1.0)]
#[case(|it: &Metrics| it.enrolled(Means::Iptables, Enrolment::Changed), r#"osm_enrolments_total{means="iptables",outcome="changed"}"#, 1.0)]
#[case(|it: &Metrics| it.enrolled(Means::Ebpf, Enrolment::Repaired), r#"osm_enrolments_total{means="ebpf",outcome="repaired"}"#, 1.0)]
#[case(|it: &Metrics| it.enrolled(Means::Ebpf, Enrolment::Upgraded), r#"osm_enrolments_total{means="ebpf",outcome="upgraded"}"#, 1.0)]
#[case(|it: &Metrics| it.enrolled(Means::Ebpf, Enrolment::Failed), r#"osm_enrolments_total{means="ebpf",outcome="failed"}"#, 1.0)]
#[case(|it: &Metrics| it.withdrawn(Withdrawal::Done), r#"osm_withdrawals_total{outcome="done"}"#, 1.0)]
#[case(|it: &Metrics| it.drift(Means::Iptables, 7), r#"osm_drift_repaired_total{means="iptables"}"#, 7.0)]
#[case(|it: &Metrics| it.pass(Duration::from_millis(3)), "osm_passes_total", 1.0)]
#[case(|it: &Metrics| it.pass(Duration::from_millis(500)), "osm_pass_duration_seconds_sum", 0.5)]
#[case(|it: &Metrics| it.pass(Duration::from_millis(3)), r#"osm_pass_duration_seconds_bucket{le="0.004"}"#, 1.0)]
#[case(|it: &Metrics| it.pass(Duration::from_millis(3)), r#"osm_pass_duration_seconds_bucket{le="0.002"}"#, 0.0)]
#[case(|it: &Metrics| it.config_error(Part::Pod), r#"osm_config_errors_total{what="pod"}"#, 1.0)]
#[case(|it: &Metrics| it.request(Asked::Init, Answered::Done), r#"osm_requests_total{kind="init",outcome="done"}"#, 1.0)]
#[case(|it: &Metrics| it.source_error(SourceKind::Files), r#"osm_source_errors_total{source="files"}"#, 1.0)]
fn what_happened_is_counted(
    #[case] happens: fn(&Metrics),
    #[case] series: &str,
    #[case] value: f64,
) {
    let metrics = Metrics::new();
    assert_value(&metrics, series, 0.0);
    happens(&metrics);
    assert_value(&metrics, series, value);
}

#[test]
fn pods_are_counted_as_they_are_now() {
    let metrics = Metrics::new();
    metrics.pods(&synced(vec![
        intercepted("a/1"),
        intercepted("a/2"),
        intercepted("a/3"),
        failed("a/4", "no cgroup"),
        failed("a/5", "no cgroup"),
        pod("a/6", State::Refused("hostNetwork".into())),
    ]));
    let value = |state: &str, value| {
        assert_value(&metrics, &format!("osm_pods{{state={state:?}}}"), value);
    };
    value("intercepted", 3.0);
    value("failed", 2.0);
    value("refused", 1.0);
    value("waiting", 0.0);
    metrics.pods(&synced(vec![pod("a/6", State::Waiting("starts".into()))]));
    value("intercepted", 0.0);
    value("failed", 0.0);
    value("refused", 0.0);
    value("waiting", 1.0);
}

#[test]
fn process_is_measured_when_it_is_asked_for() {
    let metrics = Metrics::new();
    let memory = || value(&metrics, "process_resident_memory_bytes");
    let before = memory();
    assert!(before > 100_000.0, "{before} bytes are no process");
    let more = vec![1_u8; 64 << 20];
    let after = memory();
    assert!(
        after > before + 50e6,
        "{before}, and {after} with 64 MiB more"
    );
    drop(more);
    let started = value(&metrics, "process_start_time_seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.expect("a clock").as_secs_f64() - started;
    assert!((-5.0..86400.0).contains(&age), "started {age} s ago");
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: BTreeMap<String, f64>,
}

/// Reads OpenMetrics text as strictly as Prometheus does: families in one piece, with their
/// kind before their samples, names that fit the kind, and an end.
#[track_caller]
fn parse(text: &str) -> BTreeMap<String, Family> {
    let lines = text.strip_suffix("# EOF\n").expect("an end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in lines.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().expect(line).to_owned();
            let (what, name, text) = (word(), word(), word());
            if what == "HELP" {
                current.clone_from(&name);
                let family = Family {
                    help: text,
                    ..Family::default()
                };
                assert!(families.insert(name, family).is_none(), "twice: {line}");
                continue;
            }
            assert_eq!(name, current, "{line}");
            let family = families.get_mut(&name).expect(line);
            match what.as_str() {
                "TYPE" => family.kind = text,
                "UNIT" => assert!(name.ends_with(&format!("_{text}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let name = series.split('{').next().expect(line);
        let family = families.get_mut(&current).expect(line);
        let suffix = name.strip_prefix(&current).expect(line);
        let fits = match family.kind.as_str() {
            "gauge" => suffix.is_empty(),
            "counter" => suffix == "_total",
            "info" => suffix == "_info",
            "histogram" => ["_sum", "_count", "_bucket"].contains(&suffix),
            _ => false,
        };
        assert!(fits, "{line} in a {}", family.kind);
        let value = value.parse().expect(line);
        let before = family.samples.insert(series.into(), value);
        assert!(before.is_none(), "twice: {line}");
    }
    families
}

fn names(metrics: &Metrics) -> BTreeSet<String> {
    let families = parse(&metrics.text());
    let samples = families.into_values().map(|family| family.samples);
    samples.flat_map(BTreeMap::into_keys).collect()
}

#[track_caller]
fn value(metrics: &Metrics, series: &str) -> f64 {
    let families = parse(&metrics.text());
    let mut samples = families.values().map(|family| &family.samples);
    *samples.find_map(|it| it.get(series)).expect(series)
}

#[track_caller]
fn assert_value(metrics: &Metrics, series: &str, expected: f64) {
    let value = value(metrics, series);
    assert!(
        (value - expected).abs() < 1e-9,
        "{series} is {value}, not {expected}"
    );
}
