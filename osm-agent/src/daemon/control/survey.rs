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

    fn note(&mut self, key: &PodKey, spec: &PodSpec, state: State, problem: Option<String>) {
        let entry = Entry {
            pod: None,
            status: PodStatus {
                name: spec.name.clone(),
                state,
                lists_problem: problem,
            },
            follows_interfaces: false,
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
                survey.note(key, spec, State::Refused(why.clone()), None);
            }
            Membership::InMesh if self.knowledge.is_switched_off() => {
                self.survey_leaving(key, spec, index, survey);
            }
            Membership::InMesh => {
                let wanted = self.lists_of(key, spec);
                let hint = self.hint(key);
                match self.options.locator.locate(spec, index, hint.as_deref()) {
                    Whereabouts::Found(pod) => {
                        self.add(key, pod, wanted, true, survey);
                    }
                    Whereabouts::NotYet(why) => {
                        survey.missing.insert(spec.name.clone());
                        survey.note(key, spec, State::Waiting(why), wanted.problem);
                    }
                    Whereabouts::Unfit(why) => {
                        survey.missing.insert(spec.name.clone());
                        self.outlets.warn(key, &spec.name, "NotIntercepted", &why);
                        survey.note(key, spec, State::Failed(why), wanted.problem);
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
            if self.is_kept(&record, survey) {
                // A namespace of which no program is left may be gone, or somebody has detached
                // it: whoever finds its processes knows.
                let is_missing = survey.missing.contains(&record.name);
                let is_found = !is_missing && self.adopt(&record, index, survey);
                if is_found || !record.is_gone {
                    continue;
                }
            }
            let real = Real {
                ebpf: Found::AsWanted,
                iptables: Found::Absent,
            };
            survey.real.insert(pod, real);
        }
    }

    /// Whether a pod that no source knows is to stay as it is: nobody has said yet who is
    /// wanted, or nobody will, or it is one that is wanted and was not found this time.
    fn is_kept(&self, record: &Intercepted, survey: &Survey) -> bool {
        !self.knowledge.is_synced()
            || (!self.options.has_source && !self.knowledge.is_switched_off())
            || survey.missing.contains(&record.name)
    }

    /// Keeps a pod intercepted that the kernel knows: by the mesh's lists where nobody will
    /// ever say more, else as it is until somebody has. Says whether it was found.
    fn adopt(&mut self, record: &Intercepted, index: &Index, survey: &mut Survey) -> bool {
        let key = format!("netns-{}", record.netns_cookie);
        let spec = PodSpec {
            name: record.name.clone(),
            uid: None,
            membership: Membership::InMesh,
            annotations: BTreeMap::new(),
            netns: None,
            cgroup: None,
        };
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
        let means = self.means_for(&pod, survey);
        let compared = number_of(&pod.netns)
            .and_then(|number| Ok((number, self.datapath.compare(&pod, &wanted, means)?)));
        let (number, real) = match compared {
            Ok(compared) => compared,
            Err(error) => {
                survey.missing.insert(pod.name.clone());
                let text = error.to_string();
                self.outlets.warn(key, &pod.name, "NotIntercepted", &text);
                let entry = Entry {
                    pod: None,
                    status: PodStatus {
                        name: pod.name,
                        state: State::Failed(text),
                        lists_problem: wanted.problem,
                    },
                    follows_interfaces: false,
                };
                survey.entries.insert(key.clone(), entry);
                return;
            }
        };
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
        if is_wanted || !survey.wanted.contains_key(&number) {
            survey.subjects.insert(number, subject);
        }
    }

    /// By which means a pod is to be intercepted. A pod that is intercepted by eBPF does not
    /// fall back because another could not be.
    fn means_for(&self, pod: &Pod, survey: &Survey) -> Means {
        let is_by_ebpf =
            || number_of(&pod.netns).is_ok_and(|number| survey.records.contains_key(&number));
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
