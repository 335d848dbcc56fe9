//! Who is wanted, where they are, and what is in force for them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Control,
    datapath::number_of,
    knowledge::{Dirty, Wanted},
    pass::Entry,
    plan::{Cookie, Real},
};
use crate::{
    config::InterceptionMode,
    daemon::{
        locate::{Index, Whereabouts},
        metrics::Part,
        source::{Membership, PodKey, PodSpec},
        status::{Means, PodStatus, State},
    },
    ebpf::Intercepted,
    error::Result,
    interceptor::Found,
    pod::Pod,
};

/// What a pass goes by.
#[derive(Default)]
pub(super) struct Survey {
    /// The pods to be looked at, by the number of their namespace.
    pub subjects: BTreeMap<Cookie, Subject>,
    /// By which means pods are to be intercepted.
    pub wanted: BTreeMap<Cookie, Means>,
    /// What is in force.
    pub real: BTreeMap<Cookie, Real>,
    /// What is known already of pods: nothing is done to them.
    pub entries: BTreeMap<PodKey, Entry>,
    /// What the kernel's records say.
    records: BTreeMap<Cookie, Intercepted>,
    /// Pods that are in the mesh and were not found, by name.
    missing: BTreeSet<String>,
    /// The same, by the namespaces that they were found in before.
    missed: BTreeSet<Cookie>,
    /// Whether a source can't read what is said of some pod.
    has_unreadable: bool,
}

/// A pod in a pass.
pub(super) struct Subject {
    pub key: PodKey,
    pub pod: Pod,
    pub wanted: Wanted,
    /// None: it is to be let go.
    pub means: Option<Means>,
    pub real: Real,
    pub is_acted_on: bool,
    pub failure: Option<String>,
}

impl Survey {
    /// What a pod that only the kernel knows is called.
    pub(super) fn name_of(&self, pod: Cookie) -> String {
        self.records
            .get(&pod)
            .map_or_else(|| format!("netns-{pod}"), |record| record.name.clone())
    }

    /// `before` is where the pod was found in an earlier pass.
    fn note(
        &mut self,
        key: &PodKey,
        name: &str,
        before: Option<Cookie>,
        state: State,
        problem: Option<String>,
    ) {
        self.missing.insert(name.to_owned());
        self.missed.extend(before);
        let entry = Entry {
            pod: before,
            status: PodStatus {
                name: name.to_owned(),
                state,
                lists_problem: problem,
            },
            follows_interfaces: false,
            watched: Vec::new(),
        };
        self.entries.insert(key.clone(), entry);
    }

    /// A pod that is as it was: nothing is done to it.
    fn carry_over(&mut self, key: &PodKey, entry: &Entry) {
        if let (Some(pod), State::Intercepted(means)) = (entry.pod, &entry.status.state) {
            self.wanted.insert(pod, *means);
            let as_wanted = |by| {
                if by == *means {
                    Found::AsWanted
                } else {
                    Found::Absent
                }
            };
            self.real.insert(
                pod,
                Real {
                    ebpf: as_wanted(Means::Ebpf),
                    iptables: as_wanted(Means::Iptables),
                },
            );
        }
        self.entries.insert(key.clone(), entry.clone());
    }
}

impl Control {
    /// Looks at the pods that may have changed.
    pub(super) fn survey(&mut self, dirty: &Dirty) -> Result<Survey> {
        let index = self.options.locator.index()?;
        let records = self.datapath.records()?;
        let mut survey = Survey {
            records: records
                .into_iter()
                .map(|record| (record.netns_cookie, record))
                .collect(),
            ..Survey::default()
        };
        let specs: Vec<(PodKey, PodSpec)> = self
            .knowledge
            .pods()
            .map(|(key, spec)| (key.clone(), spec.clone()))
            .collect();
        for (key, spec) in specs {
            match self.settled.get(&key) {
                Some(entry) if !dirty.contains(&key) => survey.carry_over(&key, entry),
                _ => self.survey_pod(&key, &spec, &index, &mut survey),
            }
        }
        for (key, spec) in self.knowledge.leaving().clone() {
            self.survey_leaving(&key, &spec, &index, &mut survey);
        }
        self.survey_records(&index, &mut survey);
        Ok(survey)
    }

    fn survey_pod(&mut self, key: &PodKey, spec: &PodSpec, index: &Index, survey: &mut Survey) {
        match &spec.membership {
            Membership::Outside => {}
            Membership::Refused(why) => {
                self.outlets.warn(key, &spec.name, "Refused", why);
                survey.note(key, &spec.name, None, State::Refused(why.clone()), None);
                survey.missing.remove(&spec.name);
            }
            Membership::Unreadable(why) => {
                survey.has_unreadable = true;
                self.outlets.warn(key, &spec.name, "Unreadable", why);
                survey.note(key, &spec.name, None, State::Failed(why.clone()), None);
            }
            Membership::InMesh if self.knowledge.is_switched_off() => {
                self.survey_leaving(key, spec, index, survey);
            }
            Membership::InMesh => {
                let wanted = self.lists_of(key, spec);
                let hint = self.hint(key);
                let before = self.settled.get(key).and_then(|entry| entry.pod);
                match self.options.locator.locate(spec, index, hint.as_deref()) {
                    Whereabouts::Found(pod) => {
                        self.add(key, pod, wanted, true, survey);
                    }
                    Whereabouts::NotYet(why) => {
                        let state = State::Waiting(why);
                        survey.note(key, &spec.name, before, state, wanted.problem);
                    }
                    Whereabouts::Unfit(why) => {
                        self.outlets.warn(key, &spec.name, "NotIntercepted", &why);
                        let state = State::Failed(why);
                        survey.note(key, &spec.name, before, state, wanted.problem);
                    }
                }
            }
        }
    }

    /// A pod that is not to be intercepted any more, if it is.
    fn survey_leaving(&mut self, key: &PodKey, spec: &PodSpec, index: &Index, survey: &mut Survey) {
        match self.options.locator.locate(spec, index, None) {
            Whereabouts::Found(pod) => {
                let wanted = self.knowledge.lists_of(key, spec);
                self.add(key, pod, wanted, false, survey);
            }
            // It has gone; where not, the kernel's records know it.
            Whereabouts::NotYet(_) | Whereabouts::Unfit(_) => self.knowledge.has_left(key),
        }
    }

    /// Pods that the kernel holds state of and no source has spoken of.
    fn survey_records(&mut self, index: &Index, survey: &mut Survey) {
        let unknown: Vec<Intercepted> = survey
            .records
            .values()
            .filter(|record| !survey.subjects.contains_key(&record.netns_cookie))
            .filter(|record| !survey.wanted.contains_key(&record.netns_cookie))
            .cloned()
            .collect();
        for record in unknown {
            let pod = record.netns_cookie;
            // One that is wanted and was not found this time stays, until its source drops it.
            if survey.missing.contains(&record.name) || survey.missed.contains(&pod) {
                continue;
            }
            // A namespace of which no program is left may be gone, or somebody has detached it:
            // whoever finds its processes knows.
            if self.is_kept(survey) && (self.adopt(&record, index, survey) || !record.is_gone) {
                continue;
            }
            let real = Real {
                ebpf: Found::AsWanted,
                iptables: Found::Absent,
            };
            survey.real.insert(pod, real);
        }
    }

    /// Whether pods that no source knows are to stay as they are: nobody has said yet who is
    /// wanted, or nobody will, or not all that is said can be read.
    fn is_kept(&self, survey: &Survey) -> bool {
        !self.knowledge.is_synced()
            || (!self.options.has_source && !self.knowledge.is_switched_off())
            || survey.has_unreadable
    }

    /// Keeps a pod intercepted that the kernel knows: by the mesh's lists where nobody will
    /// ever say more, else as it is until somebody has. Says whether it was found.
    fn adopt(&mut self, record: &Intercepted, index: &Index, survey: &mut Survey) -> bool {
        let key = format!("netns-{}", record.netns_cookie);
        let spec = PodSpec::in_mesh(record.name.clone(), None);
        let whereabouts = self.options.locator.locate_known(
            &record.name,
            record.cgroup,
            record.netns_cookie,
            index,
        );
        let Whereabouts::Found(pod) = whereabouts else {
            // Its processes have ended, or not begun; the namespace says when it is over.
            return false;
        };
        let mut wanted = self.lists_of(&key, &spec);
        if !self.knowledge.is_synced() {
            wanted.policy = None;
        }
        self.add(&key, pod, wanted, true, survey);
        true
    }

    /// Puts a pod that was found into the survey.
    fn add(
        &mut self,
        key: &PodKey,
        pod: Pod,
        wanted: Wanted,
        is_wanted: bool,
        survey: &mut Survey,
    ) {
        let before = self.settled.get(key).and_then(|entry| entry.pod);
        let (number, means, real) = match self.look_at(&pod, &wanted, survey) {
            Ok(seen) => seen,
            Err(error) => {
                let text = error.to_string();
                self.outlets.warn(key, &pod.name, "NotIntercepted", &text);
                let state = State::Failed(text);
                survey.note(key, &pod.name, before, state, wanted.problem);
                return;
            }
        };
        if survey.wanted.contains_key(&number) {
            if is_wanted {
                let text = "another pod that is in the mesh has the same network namespace; \
                            have one of them only"
                    .to_owned();
                self.outlets.warn(key, &pod.name, "NotIntercepted", &text);
                let state = State::Failed(text);
                survey.note(key, &pod.name, None, state, wanted.problem);
            } else {
                // It goes on under another name.
                self.knowledge.has_left(key);
            }
            return;
        }
        if is_wanted {
            survey.wanted.insert(number, means);
        }
        survey.real.insert(number, real.clone());
        let subject = Subject {
            key: key.clone(),
            pod,
            wanted,
            means: is_wanted.then_some(means),
            real,
            is_acted_on: false,
            failure: None,
        };
        survey.subjects.insert(number, subject);
    }

    fn look_at(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        survey: &Survey,
    ) -> Result<(Cookie, Means, Real)> {
        let number = number_of(&pod.netns)?;
        let means = self.means_for(number, survey);
        let real = self.datapath.compare(pod, wanted, means)?;
        // Without a configuration that was ever good, by the means that is in force.
        let is_by_other =
            *real.by(means) == Found::Absent && *real.by(means.other()) != Found::Absent;
        if is_by_other && !self.knowledge.has_mesh() {
            let means = means.other();
            return Ok((number, means, self.datapath.compare(pod, wanted, means)?));
        }
        Ok((number, means, real))
    }

    /// By which means a pod is to be intercepted. A pod that is intercepted by eBPF does not
    /// fall back because another could not be.
    fn means_for(&self, number: Cookie, survey: &Survey) -> Means {
        let is_by_ebpf = || survey.records.contains_key(&number);
        match self.knowledge.mode() {
            InterceptionMode::Ebpf => Means::Ebpf,
            InterceptionMode::Iptables | InterceptionMode::None => Means::Iptables,
            InterceptionMode::Auto => {
                if self.datapath.why_no_ebpf().is_none() || is_by_ebpf() {
                    Means::Ebpf
                } else {
                    Means::Iptables
                }
            }
        }
    }

    /// The lists for a pod; tells people what is wrong with them.
    fn lists_of(&mut self, key: &PodKey, spec: &PodSpec) -> Wanted {
        const REASON: &str = "BadAnnotation";
        let wanted = self.knowledge.lists_of(key, spec);
        match &wanted.problem {
            Some(problem) => {
                let stands = if wanted.policy.is_some() {
                    "its last good lists stay in force"
                } else {
                    "the lists that are in force stay, or else the mesh's own count"
                };
                let text = format!("{problem}; {stands}");
                if self.outlets.warn(key, &spec.name, REASON, &text) {
                    self.outlets.metrics.config_error(Part::Pod);
                }
            }
            None => self.outlets.is_over(key, REASON),
        }
        wanted
    }
}
