//! What a namespace holds of ours, and how that differs from what is wanted.

use std::{collections::BTreeMap, thread};

use super::{
    apply::Applied,
    backend::{Backend, Found},
    presence::may_have_table,
    rules::{Family, RuleSet},
    save::Saved,
    session::{Session, is_there},
    transaction::transaction,
};
use crate::error::Result;

/// What was found, by backend and family; without those whose tools are not installed.
#[derive(Debug, Default)]
pub(super) struct Survey(BTreeMap<(Backend, Family), Saved>);

impl Session<'_> {
    /// Looks at all tables: at those that there are with the tools, at the same time.
    ///
    /// # Errors
    /// Where one can't be read. Whoever wants a backend need not have the other one work.
    pub(super) fn survey(&self, wanted: Option<Backend>) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut places = Vec::new();
        for backend in Backend::ALL {
            for family in Family::ALL.into_iter().filter(|family| is_there(*family)) {
                if self.tools.get(backend, family).is_none() {
                    continue;
                }
                if may_have_table(backend, family) {
                    places.push((backend, family));
                } else {
                    survey.0.insert((backend, family), Saved::default());
                }
            }
        }
        for (place, saved) in self.save_all(&places) {
            match saved {
                Ok(saved) => drop(survey.0.insert(place, saved)),
                Err(_) if wanted.is_some_and(|wanted| wanted != place.0) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(survey)
    }

    fn save_all(&self, places: &[(Backend, Family)]) -> Vec<((Backend, Family), Result<Saved>)> {
        let save = |(backend, family): (Backend, Family)| {
            let saved = self.save(backend, family);
            ((backend, family), saved)
        };
        if let [place] = places {
            return vec![save(*place)];
        }
        // New threads are in the namespace of the one that starts them.
        thread::scope(|scope| {
            let started: Vec<_> = places
                .iter()
                .map(|place| scope.spawn(move || save(*place)))
                .collect();
            started
                .into_iter()
                .map(|it| {
                    it.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }
}

impl Survey {
    /// What one backend holds, over all families; none where it is not installed.
    pub(super) fn found(&self, backend: Backend) -> Option<Found> {
        self.0
            .iter()
            .filter(|((of, _), _)| *of == backend)
            .map(|(_, saved)| Found {
                ours: saved.has_ours(),
                others: saved.has_others,
            })
            .reduce(|one, other| Found {
                ours: one.ours || other.ours,
                others: one.others || other.others,
            })
    }

    pub(super) fn get(&self, backend: Backend, family: Family) -> Option<&Saved> {
        self.0.get(&(backend, family))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = ((Backend, Family), &Saved)> {
        self.0.iter().map(|(place, saved)| (*place, saved))
    }

    /// The backends that hold rules of ours, the preferred one first.
    pub(super) fn with_ours(&self) -> impl Iterator<Item = Backend> {
        Backend::ALL
            .into_iter()
            .filter(|backend| self.found(*backend).is_some_and(|found| found.ours))
    }

    /// What somebody else did to the rules of ours in a backend, in words.
    pub(super) fn faults(&self, backend: Backend) -> Vec<String> {
        let of_ours = self
            .0
            .iter()
            .filter(|((of, _), saved)| *of == backend && saved.has_ours());
        let mut faults = Vec::new();
        for ((_, family), saved) in of_ours {
            let tool = family.tool();
            let words = saved.faults();
            faults.extend(words.into_iter().map(|fault| format!("{tool}: {fault}")));
        }
        // IPv6 is never intercepted without IPv4.
        let has = |family| self.get(backend, family).is_some_and(Saved::has_ours);
        if has(Family::V6) && !has(Family::V4) {
            faults.push(format!("{}: all rules were gone", Family::V4.tool()));
        }
        faults
    }

    /// What there is to do for these rules to be in this backend, and how to call it.
    pub(super) fn judge(&self, backend: Backend, rules: &RuleSet) -> Applied {
        if self.with_ours().next().is_none() {
            return Applied::New;
        }
        let faults: Vec<String> = self.with_ours().flat_map(|it| self.faults(it)).collect();
        let is_elsewhere = self.with_ours().any(|it| it != backend);
        let needs = |family: &Family| {
            let now = self.get(backend, *family).cloned().unwrap_or_default();
            transaction(*family, &now, rules.of(*family)).is_some()
        };
        if !is_elsewhere && !Family::ALL.iter().any(needs) {
            Applied::Unchanged
        } else if faults.is_empty() {
            Applied::Changed
        } else {
            Applied::Repaired(faults)
        }
    }
}
