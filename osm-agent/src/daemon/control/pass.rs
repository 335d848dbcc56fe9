//! One pass: survey, plan, actions, and what became of them.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Control,
    knowledge::Dirty,
    plan::{Action, Cookie, Step, plan},
    sidecars,
    survey::{Subject, Survey},
};
use crate::{
    config::InterceptionMode,
    daemon::{
        metrics::{Enrolment, Withdrawal},
        source::PodKey,
        status::{Means, PodStatus, State, Status},
    },
    error::{Error, Result},
    interceptor::{Enrolled, Found},
};

/// The pods as the last pass that looked at them left them.
#[derive(Default)]
pub(super) struct Settled(BTreeMap<PodKey, Entry>);

/// One of them.
#[derive(Clone)]
pub(super) struct Entry {
    /// None where it was not found.
    pub pod: Option<Cookie>,
    /// What is shown of it.
    pub status: PodStatus,
    /// Whether its routes matter, which may change without a word.
    pub follows_interfaces: bool,
    /// What tells that its sidecar ends or starts anew.
    pub watched: Vec<PathBuf>,
}

impl Entry {
    /// Whether it need not be looked at until there is news of it.
    const fn is_settled(&self) -> bool {
        !self.is_incomplete() && !self.follows_interfaces
    }

    const fn is_incomplete(&self) -> bool {
        matches!(self.status.state, State::Waiting(_) | State::Failed(_))
    }
}

impl Settled {
    /// Whether some pod has not started, or is not as it has to be.
    pub(super) fn is_incomplete(&self) -> bool {
        self.0.values().any(Entry::is_incomplete)
    }

    /// Whether some pod's routes matter.
    pub(super) fn follows_interfaces(&self) -> bool {
        self.0.values().any(|entry| entry.follows_interfaces)
    }

    /// Those that have to be looked at in every pass.
    pub(super) fn unsettled(&self) -> Vec<PodKey> {
        let unsettled = self.0.iter().filter(|(_, entry)| !entry.is_settled());
        unsettled.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PodKey, &Entry)> {
        self.0.iter()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }
}

impl Control {
    /// Looks, plans, acts, and shows what became of it.
    pub(super) fn carry_out(&mut self, dirty: &Dirty) {
        let mut survey = match self.survey(dirty) {
            Ok(survey) => survey,
            Err(error) => return self.was_not_surveyed(&error),
        };
        self.survey_problem = None;
        let mut actions = plan(&survey.wanted, &survey.real);
        self.let_go_many(&mut actions, &survey);
        for action in &actions {
            self.outlets.heartbeat.beat();
            self.perform(*action, &mut survey);
        }
        self.conclude(survey);
        // Also without any action: what was read for this pass is not for the next one.
        if let Err(error) = self.datapath.tidy() {
            tracing::warn!("{error}; what is left is removed later");
        }
    }

    /// Nothing was seen: all is looked at again, and nobody takes what is shown for what there is.
    fn was_not_surveyed(&mut self, error: &Error) {
        self.knowledge.touch_all();
        let problem = Some(error.to_string());
        if self.survey_problem != problem {
            tracing::error!("{error}; nothing is changed until that is over");
            self.survey_problem = problem;
            self.publish();
        }
    }

    /// Lets go of all pods at once that are to be and are intercepted by eBPF. Where that fails,
    /// the actions stay, to be done one by one.
    fn let_go_many(&mut self, actions: &mut Vec<Action>, survey: &Survey) {
        let is_one = |action: &Action| action.step == Step::LetGo && action.means == Means::Ebpf;
        let pods: Vec<Cookie> = actions
            .iter()
            .filter(|it| is_one(it))
            .map(|it| it.pod)
            .collect();
        if pods.len() < 2 || self.datapath.let_go_many(&pods).is_err() {
            return;
        }
        for action in actions.extract_if(.., |action| is_one(action)) {
            let subject = survey.subjects.get(&action.pod);
            let name = subject.map_or_else(|| survey.name_of(action.pod), |it| it.pod.name.clone());
            self.was_let_go(&name, action, None);
        }
    }

    fn perform(&mut self, action: Action, survey: &mut Survey) {
        let Some(subject) = survey.subjects.get_mut(&action.pod) else {
            // Only the kernel knows it.
            let result = self.datapath.let_go(action.pod, None, action.means);
            let name = survey.name_of(action.pod);
            self.was_let_go(&name, action, result.as_ref().err());
            return;
        };
        match action.step {
            Step::RemoveFormer if subject.failure.is_some() => {}
            Step::RemoveFormer | Step::LetGo => {
                let netns = Some(&subject.pod.netns);
                let result = self.datapath.let_go(action.pod, netns, action.means);
                self.was_let_go(&subject.pod.name, action, result.as_ref().err());
                if let Err(error) = result {
                    subject.failure = Some(error.to_string());
                }
            }
            Step::Repair | Step::Begin | Step::Change => {
                let result = self.enrol(subject, action.means);
                self.was_enrolled(subject, action.means, result);
            }
        }
    }

    /// Enrols a pod. Where the kernel turns out not to do eBPF for it and the mesh leaves the
    /// choice, by the fallback.
    fn enrol(&mut self, subject: &mut Subject, means: Means) -> Result<Enrolled> {
        let Subject {
            pod, wanted, real, ..
        } = subject;
        let result = self.datapath.enrol(pod, wanted, means, real);
        let may_fall_back = means == Means::Ebpf
            && real.ebpf == Found::Absent
            && self.knowledge.mode() == InterceptionMode::Auto;
        match result {
            Err(error) if may_fall_back && error.is_unsupported() => {
                tracing::warn!(pod = pod.name, "{error}; using iptables instead");
                self.datapath.give_up_ebpf(&error);
                subject.means = Some(Means::Iptables);
                self.datapath.enrol(pod, wanted, Means::Iptables, real)
            }
            result => result,
        }
    }

    fn was_enrolled(&mut self, subject: &mut Subject, means: Means, result: Result<Enrolled>) {
        let means = subject.means.unwrap_or(means);
        let (name, metrics) = (&subject.pod.name, &self.outlets.metrics);
        if let Some(outcome) = outcome_of(&result) {
            metrics.enrolled(means, outcome);
        }
        match result {
            Ok(Enrolled::New { listeners }) => {
                let text = match listeners {
                    Some(0) => format!(
                        "intercepted by {means}; the sidecar does not listen yet, connections are \
                         refused until it does"
                    ),
                    _ => format!("intercepted by {means}"),
                };
                self.outlets.tell(&subject.key, name, "Intercepted", &text);
            }
            Ok(Enrolled::Repaired(faults)) => {
                metrics.drift(means, faults.len());
                let text = format!(
                    "what somebody had changed in the kernel is mended: {}",
                    faults.join(", ")
                );
                self.outlets.is_over(&subject.key, "DriftRepaired");
                self.outlets
                    .warn(&subject.key, name, "DriftRepaired", &text);
            }
            Ok(Enrolled::Changed) => {
                tracing::info!(pod = name, "lists or addresses changed");
            }
            Ok(Enrolled::Upgraded) => {
                tracing::info!(pod = name, "moved to the programs of this version");
            }
            Ok(Enrolled::Unchanged) => {}
            Err(error) => subject.failure = Some(error.to_string()),
        }
        subject.is_acted_on = true;
    }

    fn was_let_go(&self, name: &str, action: Action, error: Option<&Error>) {
        self.outlets.metrics.withdrawn(match error {
            None => Withdrawal::Done,
            Some(_) => Withdrawal::Failed,
        });
        let by = action.means;
        match (error, action.step) {
            (Some(error), _) => tracing::error!(pod = name, "{error}; it is tried again"),
            (None, Step::RemoveFormer) => {
                tracing::info!(pod = name, "no longer intercepted by {by} as well");
            }
            (None, _) => tracing::info!(pod = name, "no longer intercepted by {by}"),
        }
    }

    /// Looks at those who were acted on again, and shows all.
    fn conclude(&mut self, survey: Survey) {
        let Survey {
            subjects,
            mut entries,
            ..
        } = survey;
        for (number, subject) in subjects {
            let Some(means) = subject.means else {
                if subject.failure.is_none() {
                    self.knowledge.has_left(&subject.key);
                }
                continue;
            };
            let state = match self.why_not_in_force(&subject, means) {
                None => {
                    self.outlets.is_over(&subject.key, "NotIntercepted");
                    State::Intercepted(means)
                }
                Some(why) => {
                    let name = &subject.pod.name;
                    self.outlets
                        .warn(&subject.key, name, "NotIntercepted", &why);
                    State::Failed(why)
                }
            };
            let entry = Entry {
                pod: Some(number),
                watched: sidecars::paths(&subject.pod, &subject.wanted.first),
                follows_interfaces: means == Means::Ebpf
                    && !subject.wanted.first.excluded_interfaces().is_empty(),
                status: PodStatus {
                    name: subject.pod.name,
                    state,
                    lists_problem: subject.wanted.problem,
                },
            };
            entries.insert(subject.key, entry);
        }
        self.outlets.forget(|key| !entries.contains_key(key));
        let watched = entries.iter().map(|(key, it)| (key, &*it.watched));
        self.sidecars.watch(watched);
        self.settled = Settled(entries);
        self.knowledge.forget_unused();
        self.publish();
    }

    /// None where the pod is intercepted as it has to be, seen in the kernel.
    fn why_not_in_force(&mut self, subject: &Subject, means: Means) -> Option<String> {
        if let Some(failure) = &subject.failure {
            return Some(failure.clone());
        }
        let again;
        let real = if subject.is_acted_on {
            match self.datapath.compare(&subject.pod, &subject.wanted, means) {
                Ok(real) => {
                    again = real;
                    &again
                }
                Err(error) => return Some(error.to_string()),
            }
        } else {
            &subject.real
        };
        match real.by(means) {
            Found::AsWanted => None,
            // The lists are not known, so that it stays as it is.
            Found::Outdated if subject.wanted.policy.is_none() => None,
            Found::Absent => Some("it was just intercepted, and is not any more".into()),
            Found::Otherwise | Found::Outdated => {
                Some("it still goes by former lists or programs".into())
            }
            Found::Faulty(faults) => Some(faults.join(", ")),
        }
    }

    fn publish(&self) {
        let mut pods: Vec<PodStatus> = self
            .settled
            .0
            .values()
            .map(|entry| entry.status.clone())
            .collect();
        let rank = |pod: &PodStatus| match pod.state {
            State::Failed(_) => 0,
            State::Refused(_) => 1,
            State::Waiting(_) => 2,
            State::Intercepted(_) if pod.lists_problem.is_some() => 3,
            State::Intercepted(_) => 4,
        };
        pods.sort_by(|one, other| (rank(one), &one.name).cmp(&(rank(other), &other.name)));
        self.outlets.publish(Status {
            is_synced: self.knowledge.is_synced(),
            mesh_problem: self.knowledge.mesh_problem().map(str::to_owned),
            survey_problem: self.survey_problem.clone(),
            pods,
        });
    }
}

/// None where there was nothing to do.
const fn outcome_of(result: &Result<Enrolled>) -> Option<Enrolment> {
    Some(match result {
        Ok(Enrolled::New { .. }) => Enrolment::New,
        Ok(Enrolled::Changed) => Enrolment::Changed,
        Ok(Enrolled::Repaired(_)) => Enrolment::Repaired,
        Ok(Enrolled::Upgraded) => Enrolment::Upgraded,
        Ok(Enrolled::Unchanged) => return None,
        Err(_) => Enrolment::Failed,
    })
}
