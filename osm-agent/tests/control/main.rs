//! The plan, held against a model of the kernel.

use std::collections::{BTreeMap, BTreeSet};

use osm_agent::{
    daemon::{
        control::{Action, Cookie, Real, Step, plan},
        status::Means,
    },
    interceptor::Found,
};
use proptest::{collection, prelude::*};

type Wanted = BTreeMap<Cookie, Means>;
type Kernel = BTreeMap<Cookie, Real>;

fn found() -> impl Strategy<Value = Found> {
    prop_oneof![
        2 => Just(Found::Absent),
        2 => Just(Found::AsWanted),
        1 => Just(Found::Otherwise),
        1 => Just(Found::Outdated),
        1 => Just(Found::Faulty(vec!["connect4 was detached".into()])),
    ]
}

fn real() -> impl Strategy<Value = Real> {
    (found(), found()).prop_map(|(ebpf, iptables)| Real { ebpf, iptables })
}

fn means() -> impl Strategy<Value = Means> {
    prop_oneof![Just(Means::Ebpf), Just(Means::Iptables)]
}

fn scene() -> impl Strategy<Value = (Wanted, Kernel)> {
    let pods = 0..12_u64;
    (
        collection::btree_map(pods.clone(), means(), 0..12),
        collection::btree_map(pods, real(), 0..12),
    )
}

/// Whether every connection of the pod is intercepted.
fn is_whole(found: &Found) -> bool {
    matches!(found, Found::AsWanted | Found::Otherwise | Found::Outdated)
}

fn is_intercepted(kernel: &Kernel, pod: Cookie) -> bool {
    kernel
        .get(&pod)
        .is_some_and(|real| Means::ALL.iter().any(|means| is_whole(real.by(*means))))
}

/// What the datapath promises of each step.
fn perform(kernel: &mut Kernel, action: Action) {
    let real = kernel.entry(action.pod).or_insert(Real::ABSENT);
    let found = match action.means {
        Means::Ebpf => &mut real.ebpf,
        Means::Iptables => &mut real.iptables,
    };
    *found = match action.step {
        Step::LetGo | Step::RemoveFormer => Found::Absent,
        Step::Repair | Step::Begin | Step::Change => Found::AsWanted,
    };
}

/// Carries a plan out as the loop does, where some steps fail; calls `check` after each.
fn carry_out(
    kernel: &mut Kernel,
    actions: &[Action],
    fails: impl Fn(usize) -> bool,
    mut check: impl FnMut(&Kernel),
) {
    let mut failed = BTreeSet::new();
    for (number, action) in actions.iter().enumerate() {
        if action.step == Step::RemoveFormer && failed.contains(&action.pod) {
            continue;
        }
        if fails(number) {
            failed.insert(action.pod);
        } else {
            perform(kernel, *action);
        }
        check(kernel);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn plan_leads_to_what_is_wanted_in_one_pass((wanted, mut kernel) in scene()) {
        let actions = plan(&wanted, &kernel);
        carry_out(&mut kernel, &actions, |_| false, |_| {});
        for (pod, real) in &kernel {
            for means in Means::ALL {
                let expected = if wanted.get(pod) == Some(&means) {
                    Found::AsWanted
                } else {
                    Found::Absent
                };
                prop_assert_eq!(real.by(means), &expected, "pod {} by {:?}", pod, means);
            }
        }
        for pod in wanted.keys() {
            prop_assert!(kernel.contains_key(pod));
        }
        prop_assert_eq!(plan(&wanted, &kernel), []);
    }

    #[test]
    fn pod_that_stays_in_the_mesh_is_intercepted_throughout_whatever_fails(
        (wanted, mut kernel) in scene(),
        failing in collection::btree_set(0..40_usize, 0..20),
    ) {
        let staying: Vec<Cookie> = wanted
            .keys()
            .copied()
            .filter(|pod| is_intercepted(&kernel, *pod))
            .collect();
        let actions = plan(&wanted, &kernel);
        let mut lost = None;
        carry_out(&mut kernel, &actions, |number| failing.contains(&number), |kernel| {
            lost = lost.or(staying.iter().copied().find(|pod| !is_intercepted(kernel, *pod)));
        });
        prop_assert_eq!(lost, None, "{:?}", actions);
    }

    #[test]
    fn pods_that_are_as_wanted_are_left_alone((wanted, kernel) in scene()) {
        for action in plan(&wanted, &kernel) {
            let found = kernel.get(&action.pod).unwrap_or(&Real::ABSENT).by(action.means);
            let is_wanted = wanted.get(&action.pod) == Some(&action.means);
            prop_assert!(
                !(is_wanted && *found == Found::AsWanted),
                "{:?} on what is as wanted", action
            );
            prop_assert!(is_wanted || *found != Found::Absent, "{:?} of nothing", action);
        }
    }
}

#[test]
fn pods_without_interception_come_before_changes_of_lists() {
    let wanted = [(1, Means::Ebpf), (2, Means::Ebpf), (3, Means::Ebpf)].into();
    let with = |ebpf| Real {
        ebpf,
        iptables: Found::Absent,
    };
    let real = [
        (1, with(Found::Otherwise)),
        (2, with(Found::Absent)),
        (3, with(Found::Faulty(Vec::new()))),
        (4, with(Found::AsWanted)),
    ]
    .into();
    let steps: Vec<_> = plan(&wanted, &real)
        .iter()
        .map(|action| (action.pod, action.step))
        .collect();
    assert_eq!(
        steps,
        [
            (4, Step::LetGo),
            (3, Step::Repair),
            (2, Step::Begin),
            (1, Step::Change)
        ]
    );
}
