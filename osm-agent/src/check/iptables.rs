//! iptables: the rules for an empty policy, written into a network namespace of their own.

use super::{
    features::{Features, For},
    place,
};
use crate::{
    config::Lists,
    error::Result,
    iptables::{Backend, Iptables, RuleSet, Target},
    policy::Policy,
};

/// What a backend is called as a feature, `iptables_nft` for example.
pub fn name(backend: Backend, is_v6: bool) -> String {
    let tool = if is_v6 { "ip6tables" } else { "iptables" };
    format!("{tool}_{}", backend.name())
}

/// Notes that none can be tried.
pub(super) fn unknown(features: &mut Features, why: &str) {
    for backend in Backend::ALL {
        for is_v6 in [false, true] {
            features.unknown(&name(backend, is_v6), For::Iptables, why);
        }
    }
}

/// Tries both.
pub(super) fn probe(features: &mut Features) {
    for backend in Backend::ALL {
        let v4 = try_rules(backend, false).map_err(|error| error.to_string());
        let v4_works = features.note(&name(backend, false), For::Iptables, v4);
        let v6 = name(backend, true);
        if v4_works {
            let result = try_rules(backend, true).map_err(|error| error.to_string());
            features.note(&v6, For::Iptables, result);
        } else {
            let why = format!("not tried: {} is missing", name(backend, false));
            features.unknown(&v6, For::Iptables, &why);
        }
    }
}

fn try_rules(backend: Backend, dual: bool) -> Result<&'static str> {
    let netns = place::netns()?;
    let rules = RuleSet::new(&Policy::compile(&Lists::default(), dual), &[])?;
    let iptables = Iptables::new().with_backend(Some(backend));
    iptables.apply(&Target::of(&netns), &rules)?;
    Ok("rules written")
}
