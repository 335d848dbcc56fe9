//! What the node agent asks of the fallback: to compare, and to enrol whose lists it does not
//! know.

use osm_agent::{
    config::Lists,
    interceptor::{Enrolled, Found, Interceptor},
    iptables::{self, Iptables},
    pod::{self, Cgroup, Netns},
    policy::Policy,
};
use osm_tests::{Need, cgroup, missing};

use crate::scene::{Backend, Scene};

/// One port excluded in each direction.
const OUTBOUND: u16 = 5432;
const INBOUND: u16 = 9000;

fn tools(backend: Backend) -> Iptables {
    Iptables::new().with_backend(Some(match backend {
        Backend::Nft => iptables::Backend::Nft,
        Backend::Legacy => iptables::Backend::Legacy,
    }))
}

fn pod(scene: &Scene) -> pod::Pod {
    let pod = scene.pod();
    let root = cgroup::root().expect("a cgroup v2");
    let cgroup = Cgroup::open(pod.cgroup.path(), &root).expect("the pod's cgroup");
    let netns = Netns::open(&pod.netns.path()).expect("the pod's namespace");
    let addresses = vec![pod.ip4(), pod.ip6()];
    pod::Pod::new(None, netns, cgroup, addresses).expect("a pod")
}

fn policy(outbound: &[u16], inbound: &[u16]) -> Policy {
    let lists = Lists {
        outbound_ports_excluded: outbound.iter().copied().collect(),
        inbound_ports_excluded: inbound.iter().copied().collect(),
        ..Lists::default()
    };
    Policy::compile(&lists, true)
}

fn lists() -> Policy {
    policy(&[OUTBOUND], &[INBOUND])
}

#[test]
fn lists_are_compared_where_they_are_known_and_nothing_changes() {
    let Some(scene) = Scene::new() else { return };
    let pod = pod(&scene);
    for backend in Backend::ALL {
        let mut own = tools(backend);
        let empty = scene.nat(backend);
        for policy in [None, Some(&lists())] {
            assert_eq!(own.compare(&pod, policy).unwrap(), Found::Absent);
        }
        assert!(!Interceptor::inspect(&own, &pod.netns).unwrap());
        assert_eq!(scene.nat(backend), empty);

        let enrolled = own.enrol(&pod, Some(&lists())).unwrap();
        assert_eq!(enrolled, Enrolled::New { listeners: None });
        let right = scene.nat(backend);
        let compare = |tools: &Iptables, policy: &Policy| tools.compare(&pod, Some(policy));
        assert_eq!(compare(&own, &lists()).unwrap(), Found::AsWanted);
        assert_eq!(
            compare(&own, &policy(&[OUTBOUND], &[])).unwrap(),
            Found::Otherwise
        );
        let v4_only = Policy::compile(&Lists::default(), false);
        assert_eq!(compare(&own, &v4_only).unwrap(), Found::Otherwise);
        let other = tools(backend.other());
        assert_eq!(compare(&other, &lists()).unwrap(), Found::Otherwise);
        for tools in [&own, &Iptables::new(), &other] {
            assert_eq!(tools.compare(&pod, None).unwrap(), Found::AsWanted);
        }
        assert!(Interceptor::inspect(&own, &pod.netns).unwrap());
        assert_eq!(scene.nat(backend), right);

        // Without lists, those that are in force stay, with whatever tool.
        for mut tools in [own.clone(), Iptables::new(), other] {
            assert_eq!(tools.enrol(&pod, None).unwrap(), Enrolled::Unchanged);
        }
        assert_eq!(scene.nat(backend), right);
        let changed = own.enrol(&pod, Some(&policy(&[], &[])));
        assert_eq!(changed.unwrap(), Enrolled::Changed);
        assert!(own.withdraw(&pod.netns).unwrap());
    }
}

/// What is left of the lists.
enum Left {
    All,
    Inbound,
    Outbound,
    None,
}

impl Left {
    /// Whether the outbound list is still there, and the inbound one.
    const fn shown(&self) -> [bool; 2] {
        match self {
            Self::All => [true, true],
            Self::Inbound => [false, true],
            Self::Outbound => [true, false],
            Self::None => [false, false],
        }
    }
}

/// What somebody else did, how it is called, and what is left of the lists after a repair by an
/// agent that does not know them.
type Damage = (&'static [&'static str], &'static str, Left);

const DAMAGES: [Damage; 8] = [
    (&["-D OUTPUT 1"], "jump from OUTPUT", Left::All),
    (
        &[
            "-A PREROUTING -p tcp -j PROXY_INBOUND",
            "-A OUTPUT -j PROXY_IN_REDIRECT",
        ],
        "OUTPUT led to PROXY_IN_REDIRECT",
        Left::All,
    ),
    (
        &["-F PROXY_IN_REDIRECT"],
        "changed PROXY_IN_REDIRECT",
        Left::All,
    ),
    (
        &["-I PROXY_REDIRECT -p tcp -j ACCEPT"],
        "changed PROXY_REDIRECT",
        Left::All,
    ),
    (
        &["-I PROXY_OUTPUT -d 192.0.2.0/24 -j RETURN"],
        "changed PROXY_OUTPUT",
        Left::Inbound,
    ),
    (
        &["-D PROXY_INBOUND 1"],
        "changed PROXY_INBOUND",
        Left::Outbound,
    ),
    (&["-F PROXY_REDIRECT"], "changed PROXY_REDIRECT", Left::None),
    (
        &["-D PREROUTING 1", "-F PROXY_INBOUND", "-X PROXY_INBOUND"],
        "the chain PROXY_INBOUND was gone",
        Left::Outbound,
    ),
];

#[test]
fn damage_is_named_and_repaired_as_far_as_it_is_known_what_was_there() {
    let Some(scene) = Scene::new() else { return };
    let pod = pod(&scene);
    for backend in Backend::ALL {
        let mut tools = tools(backend);
        for (change, named, left) in &DAMAGES {
            tools.enrol(&pod, Some(&lists())).unwrap();
            scene.change(backend, change);
            let damaged = scene.nat(backend);
            let Found::Faulty(faults) = tools.compare(&pod, Some(&lists())).unwrap() else {
                panic!("{change:?} is not noticed");
            };
            assert!(faults.iter().any(|it| it.contains(named)), "{faults:?}");
            let without_lists = tools.compare(&pod, None).unwrap();
            assert_eq!(without_lists, Found::Faulty(faults.clone()));
            assert_eq!(scene.nat(backend), damaged);

            let enrolled = tools.enrol(&pod, None).unwrap();
            assert_eq!(enrolled, Enrolled::Repaired(faults));
            assert_eq!(tools.compare(&pod, None).unwrap(), Found::AsWanted);
            let [v4, v6] = scene.nat(backend);
            let shown = |text: &str| {
                ["outbound", "inbound"].map(|it| text.contains(&format!("excluded {it} ports")))
            };
            assert_eq!(shown(&v4), left.shown(), "{change:?}\n{v4}");
            assert_eq!(shown(&v6), [true, true], "the other family was whole");
            let known = tools.compare(&pod, Some(&lists())).unwrap();
            let is_all = left.shown() == [true, true];
            assert_eq!(known == Found::AsWanted, is_all, "{change:?}: {known:?}");
            tools.withdraw(&pod.netns).unwrap();
        }
    }
}

#[test]
fn pod_without_lists_and_rules_is_intercepted_whole_in_the_families_it_has() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let mut pod = pod(&scene);
    let v4 = pod.addresses[0];
    let both = pod.addresses.clone();
    for backend in Backend::ALL {
        let mut tools = tools(backend);
        for (addresses, is_dual) in [(both.clone(), true), (vec![v4], false)] {
            pod.addresses = addresses;
            let enrolled = tools.enrol(&pod, None).unwrap();
            assert_eq!(enrolled, Enrolled::New { listeners: None });
            let all = Policy::compile(&Lists::default(), is_dual);
            assert_eq!(tools.compare(&pod, Some(&all)).unwrap(), Found::AsWanted);
            assert_eq!(tools.enrol(&pod, None).unwrap(), Enrolled::Unchanged);
            tools.withdraw(&pod.netns).unwrap();
        }
    }
}

#[test]
fn rules_of_ipv4_that_are_gone_as_a_whole_are_a_fault() {
    if missing(&[Need::Ipv6]) {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let pod = pod(&scene);
    for backend in Backend::ALL {
        let mut tools = tools(backend);
        for policy in [None, Some(&lists())] {
            tools.enrol(&pod, Some(&lists())).unwrap();
            scene.change(backend, &["-F", "-X"]);
            let gone = vec!["iptables: all rules were gone".to_owned()];
            let found = tools.compare(&pod, policy).unwrap();
            assert_eq!(found, Found::Faulty(gone.clone()));
            assert_eq!(tools.enrol(&pod, policy).unwrap(), Enrolled::Repaired(gone));
            assert_eq!(tools.compare(&pod, policy).unwrap(), Found::AsWanted);
            tools.withdraw(&pod.netns).unwrap();
        }
    }
}

/// As an agent leaves them that is killed while it changes the backend.
#[test]
fn of_rules_in_both_backends_those_stay_that_are_whole() {
    let Some(scene) = Scene::new() else { return };
    let pod = pod(&scene);
    let mut any = Iptables::new();
    for damaged in [None, Some(Backend::Nft), Some(Backend::Legacy)] {
        tools(Backend::Nft).enrol(&pod, Some(&lists())).unwrap();
        for tool in ["iptables", "ip6tables"] {
            let copy = format!("{tool}-nft-save -t nat | {tool}-legacy-restore");
            let output = scene.pod().netns.command("sh", &["-c", &copy]);
            assert!(output.status.success(), "{output:?}");
        }
        if let Some(backend) = damaged {
            scene.change(backend, &["-F PROXY_OUTPUT"]);
        }
        let found = any.compare(&pod, None).unwrap();
        let enrolled = any.enrol(&pod, None).unwrap();
        if damaged.is_some() {
            assert!(matches!(found, Found::Faulty(_)), "{found:?}");
            assert!(matches!(enrolled, Enrolled::Repaired(_)), "{enrolled:?}");
        } else {
            assert_eq!((found, enrolled), (Found::Otherwise, Enrolled::Changed));
        }
        assert_eq!(any.compare(&pod, Some(&lists())).unwrap(), Found::AsWanted);
        let kept = damaged.map_or(Backend::Nft, Backend::other);
        let [v4, v6] = scene.nat(kept.other());
        assert!(!v4.contains("PROXY_") && !v6.contains("PROXY_"), "{v4}{v6}");
        any.withdraw(&pod.netns).unwrap();
    }
}
