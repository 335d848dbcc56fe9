//! Putting a rule set in force, whole or not at all.

use super::{
    backend::{Backend, Choice, choose},
    failure::Failure,
    rules::{Family, RuleSet},
    save::Saved,
    session::{Session, is_there},
    survey::Survey,
    transaction::{restoration, transaction},
};
use crate::error::{Error, Result};

/// How often a transaction is tried anew where somebody else changes the rules meanwhile.
const ATTEMPTS: usize = 5;

/// What [`super::Iptables::apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The backend that holds the rules.
    pub backend: Backend,
    /// What happened to them.
    pub applied: Applied,
    /// The backend that held rules of ours as well, until now.
    pub removed_from: Option<Backend>,
}

/// What happened to the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There were none of ours.
    New,
    /// There were others of ours, for other lists or in the other backend.
    Changed,
    /// Somebody had changed them: what, in words.
    Repaired(Vec<String>),
    /// They were right already.
    Unchanged,
}

/// Whether there was anything to write.
enum Settled {
    Already,
    ByWriting,
}

impl Session<'_> {
    pub(super) fn apply(&self, wanted: Option<Backend>, rules: &RuleSet) -> Result<Report> {
        self.apply_to(&self.survey(wanted)?, wanted, rules)
    }

    /// The same, where it is known already what there is.
    pub(super) fn apply_to(
        &self,
        survey: &Survey,
        wanted: Option<Backend>,
        rules: &RuleSet,
    ) -> Result<Report> {
        let (backend, instead_of) = self.backend(wanted, survey)?;
        self.put_in_force(survey, backend, rules)
            .map_err(|error| beside(error, instead_of))
    }

    /// What [`Self::apply`] would do; without rules, what [`Self::keep`] would.
    pub(super) fn compare(
        &self,
        wanted: Option<Backend>,
        rules: Option<&RuleSet>,
    ) -> Result<Applied> {
        let survey = self.survey(wanted)?;
        let Some((backend, kept)) = survey.kept(wanted) else {
            return Ok(Applied::New);
        };
        let Some(rules) = rules else {
            return Ok(survey.judge(backend, &kept));
        };
        // With rules of ours there, nothing has to be tried for it.
        let (backend, _) = self.backend(wanted, &survey)?;
        Ok(survey.judge(backend, rules))
    }

    pub(super) fn cleanup(&self, wanted: Option<Backend>) -> Result<bool> {
        let backends = self.backends_with_ours(wanted)?;
        for backend in &backends {
            self.put(*backend, None)?;
        }
        Ok(!backends.is_empty())
    }

    pub(super) fn backends_with_ours(&self, wanted: Option<Backend>) -> Result<Vec<Backend>> {
        let survey = self.survey(wanted)?;
        let is_meant = |backend: &Backend| wanted.is_none_or(|wanted| wanted == *backend);
        Ok(survey.with_ours().filter(is_meant).collect())
    }

    /// Writes what is not as wanted, and removes what another backend holds.
    pub(super) fn put_in_force(
        &self,
        survey: &Survey,
        backend: Backend,
        rules: &RuleSet,
    ) -> Result<Report> {
        self.require(survey, backend, rules)?;
        let other = survey.with_ours().find(|it| *it != backend);
        let applied = survey.judge(backend, rules);
        if applied != Applied::Unchanged {
            self.put(backend, Some(rules))?;
            // Only now: there is no moment without rules.
            if let Some(other) = other {
                self.put(other, None)?;
            }
        }
        Ok(Report {
            backend,
            applied,
            removed_from: other,
        })
    }

    /// The backend to use, and why nft does not work where that was tried.
    fn backend(
        &self,
        wanted: Option<Backend>,
        survey: &Survey,
    ) -> Result<(Backend, Option<Error>)> {
        if let Some(backend) = wanted {
            return Ok((backend, None));
        }
        match choose(survey.found(Backend::Nft), survey.found(Backend::Legacy))? {
            Choice::Use(backend) => Ok((backend, None)),
            Choice::NftIfItWorks => Ok(match self.probe(Backend::Nft) {
                Ok(()) => (Backend::Nft, None),
                Err(failure) => (Backend::Legacy, Some(failure.error)),
            }),
        }
    }

    /// Sees to it before anything is written that both families can be.
    fn require(&self, survey: &Survey, backend: Backend, rules: &RuleSet) -> Result<()> {
        for family in Family::ALL
            .into_iter()
            .filter(|family| rules.of(*family).is_some())
        {
            self.tools.require(backend, family)?;
            if let Some(saved) = survey.get(backend, family) {
                self.require_readable(family, saved)?;
            }
            if !is_there(family) {
                return Err(Error::System {
                    tried: format!("intercept IPv6 in {}", self.where_),
                    source: "this kernel has no IPv6".into(),
                    advice: "; ask for IPv4 alone: --ip-families ipv4".into(),
                });
            }
        }
        Ok(())
    }

    /// Writes both families, or none. Whatever others do meanwhile, each hook has its one jump
    /// in the end.
    fn put(&self, backend: Backend, rules: Option<&RuleSet>) -> Result<()> {
        let mut before = Vec::new();
        for _ in 0..ATTEMPTS {
            match self.put_once(backend, rules, &mut before) {
                Ok(Settled::Already) => return Ok(()),
                // Looks again, since between reading and writing there was time.
                Ok(Settled::ByWriting) | Err(Failure { is_race: true, .. }) => {}
                Err(failure) => {
                    self.take_back(backend, &before);
                    return Err(failure.error);
                }
            }
        }
        Err(Error::System {
            tried: format!("write the rules of {} with {backend}", self.where_),
            source: "another program keeps changing them at the same time".into(),
            advice: "; end the other one, and try again".into(),
        })
    }

    /// Reads, and writes what is not as wanted. `before` gets what was there at first of the
    /// families that are written.
    fn put_once(
        &self,
        backend: Backend,
        rules: Option<&RuleSet>,
        before: &mut Vec<(Family, Saved)>,
    ) -> Result<Settled, Failure> {
        let mut settled = Settled::Already;
        for family in Family::ALL.into_iter().filter(|family| is_there(*family)) {
            let Some(now) = self.read(backend, family)? else {
                continue;
            };
            let wanted = rules.and_then(|rules| rules.of(family));
            let is_written = before.iter().any(|(of, _)| *of == family);
            // Once written, what matters is that nobody added a jump at the same time; this
            // iptables may print rules in a way that is new to us.
            if is_written && now.has_right_jumps() == wanted.is_some() {
                continue;
            }
            if let Some(text) = transaction(family, &now, wanted) {
                self.write(backend, family, &text)?;
                settled = Settled::ByWriting;
                if !is_written {
                    before.push((family, now));
                }
            }
        }
        Ok(settled)
    }

    /// Restores what was written already when the next one failed. The error that is reported
    /// is that one.
    fn take_back(&self, backend: Backend, before: &[(Family, Saved)]) {
        for (family, before) in before {
            let text = match self.read(backend, *family) {
                Ok(Some(now)) => restoration(*family, &now, before),
                Ok(None) | Err(_) => None,
            };
            if let Some(text) = text {
                let _ = self.write(backend, *family, &text);
            }
        }
    }
}

/// An error of iptables-legacy, and why it was not nft.
fn beside(error: Error, instead_of: Option<Error>) -> Error {
    match (error, instead_of) {
        (
            Error::System {
                tried,
                source,
                advice,
            },
            Some(nft),
        ) => Error::System {
            tried,
            source,
            advice: format!("{advice}; iptables-nft does not work here either: {nft}"),
        },
        (error, _) => error,
    }
}
