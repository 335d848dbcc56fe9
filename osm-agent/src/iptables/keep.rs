//! Rules whose lists nobody can tell: they stay as they are, as far as it is known how they
//! were.
//!
//! Jumps and the two chains that redirect are the same under all lists. A chain that holds
//! lists is as it was where its digest is the one that was written with it. Where it is not,
//! what it excluded is not known any more; it becomes the chain of empty lists, under which
//! everything is intercepted.

use super::{
    apply::Report,
    backend::Backend,
    rules::{Family, INBOUND, OUTPUT, RuleSet, Rules},
    save::Saved,
    session::Session,
    survey::Survey,
};
use crate::{config::Lists, error::Result, policy::Policy};

impl Session<'_> {
    /// Repairs what there is; where there is nothing, puts these rules in force.
    pub(super) fn keep(&self, wanted: Option<Backend>, otherwise: &RuleSet) -> Result<Report> {
        let survey = self.survey(wanted)?;
        match survey.kept(wanted) {
            Some((backend, rules)) => self.put_in_force(&survey, backend, &rules),
            None => self.apply_to(&survey, wanted, otherwise),
        }
    }
}

impl Survey {
    /// The rules that there are, repaired, and the backend that is to hold them; none where
    /// there are none of ours. The backend is the one that holds them, whichever is wanted: a
    /// change would bring nothing. Where both do, it is one that is whole.
    pub(super) fn kept(&self, wanted: Option<Backend>) -> Option<(Backend, RuleSet)> {
        let with_ours: Vec<Backend> = self.with_ours().collect();
        let is_preferred =
            |backend: &&Backend| (self.faults(**backend).is_empty(), wanted == Some(**backend));
        // Of equals, the last one is taken.
        let backend = *with_ours.iter().rev().max_by_key(is_preferred)?;
        let saved = |family| self.get(backend, family).filter(|saved| saved.has_ours());
        let v4 = saved(Family::V4).cloned().unwrap_or_default();
        let v6 = saved(Family::V6).map(|saved| repaired(saved, Family::V6));
        Some((backend, RuleSet::of_families(repaired(&v4, Family::V4), v6)))
    }
}

fn repaired(saved: &Saved, family: Family) -> Rules {
    let empty = Rules::new(&Policy::compile(&Lists::default(), true), family, &[]);
    let chain = |name: &str| {
        let known = saved.chain_as_written(name);
        let mut chains = empty.chains();
        known
            .or_else(|| chains.find(|(of, _)| *of == name).map(|(_, rules)| rules))
            .unwrap_or_default()
            .to_vec()
    };
    Rules::of_chains(chain(INBOUND), chain(OUTPUT))
}
