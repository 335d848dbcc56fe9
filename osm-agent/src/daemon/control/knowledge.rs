//! What the sources have said, and which lists follow for a pod.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    config::{InterceptionMode, Lists, MeshConfig},
    daemon::source::{Membership, PodKey, PodSpec},
    policy::Policy,
};

/// All that is known of what is wanted.
pub(super) struct Knowledge {
    dual_stack: bool,
    mesh: Mesh,
    /// None until the source has spoken.
    pods: Option<BTreeMap<PodKey, PodSpec>>,
    /// Pods that were in the mesh, or may have been before this process began, and are not to
    /// be any more: whoever finds them clean forgets them.
    leaving: BTreeMap<PodKey, PodSpec>,
    /// What the pods' annotations said when they were right.
    good_lists: HashMap<PodKey, Lists>,
    /// Pods with equal lists share a policy; emptied with every change of the mesh's.
    compiled: HashMap<Lists, Arc<Policy>>,
    dirty: Dirty,
}

#[derive(Default)]
struct Mesh {
    has_spoken: bool,
    good: Option<MeshConfig>,
    problem: Option<String>,
}

/// Which pods have to be looked at anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// All of them.
    pub all: bool,
    /// These.
    pub keys: BTreeSet<PodKey>,
}

impl Dirty {
    pub(super) fn contains(&self, key: &str) -> bool {
        self.all || self.keys.contains(key)
    }
}

/// The lists that a pod is to go by.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// None: those in force stay.
    pub policy: Option<Arc<Policy>>,
    /// For a pod that goes by none yet.
    pub first: Arc<Policy>,
    /// What is wrong with the pod's annotations.
    pub problem: Option<String>,
}

impl Knowledge {
    /// `has_source` is whether somebody will say which pods there are.
    pub(super) fn new(dual_stack: bool, has_source: bool) -> Self {
        Self {
            dual_stack,
            mesh: Mesh::default(),
            pods: (!has_source).then(BTreeMap::new),
            leaving: BTreeMap::new(),
            good_lists: HashMap::new(),
            compiled: HashMap::new(),
            dirty: Dirty::default(),
        }
    }

    /// Takes the mesh's configuration.
    pub(super) fn take_mesh(&mut self, mesh: Result<Box<MeshConfig>, String>) {
        self.mesh.has_spoken = true;
        match mesh {
            Ok(mesh) => {
                self.mesh.problem = None;
                if self.mesh.good.as_ref() != Some(&*mesh) {
                    self.mesh.good = Some(*mesh);
                    self.compiled.clear();
                    self.dirty.all = true;
                }
            }
            Err(problem) => self.mesh.problem = Some(problem),
        }
    }

    /// Takes what the source says of all pods.
    pub(super) fn take_pods(&mut self, pods: BTreeMap<PodKey, PodSpec>) {
        let is_in_mesh = |spec: &PodSpec| spec.membership == Membership::InMesh;
        // Of one that can't be read, nobody says that it is to leave.
        let is_out = |spec: &PodSpec| {
            matches!(
                spec.membership,
                Membership::Outside | Membership::Refused(_)
            )
        };
        let before = self.pods.take();
        for (key, spec) in before.iter().flatten() {
            let leaves = pods.get(key).is_none_or(is_out);
            if leaves && is_in_mesh(spec) {
                self.leaving.insert(key.clone(), spec.clone());
            }
            if !pods.contains_key(key) {
                self.good_lists.remove(key);
            }
        }
        for (key, spec) in &pods {
            if is_in_mesh(spec) {
                self.leaving.remove(key);
            } else if before.is_none() && is_out(spec) {
                // Who was in the mesh before this process began, the kernel alone knows.
                self.leaving.insert(key.clone(), spec.clone());
            }
            if before.as_ref().and_then(|before| before.get(key)) != Some(spec) {
                self.dirty.keys.insert(key.clone());
            }
        }
        self.pods = Some(pods);
    }

    /// Adds a pod that nobody but itself speaks for.
    pub(super) fn add_pod(&mut self, key: PodKey, spec: PodSpec) {
        self.dirty.keys.insert(key.clone());
        self.pods.get_or_insert_default().insert(key, spec);
    }

    /// Whether every source has spoken.
    pub(super) const fn is_synced(&self) -> bool {
        self.mesh.has_spoken && self.pods.is_some()
    }

    /// What is wrong with the mesh's configuration.
    pub(super) fn mesh_problem(&self) -> Option<&str> {
        self.mesh.problem.as_deref()
    }

    /// By which means the mesh wants its traffic intercepted.
    pub(super) fn mode(&self) -> InterceptionMode {
        let mesh = self.mesh.good.as_ref();
        mesh.map_or(InterceptionMode::default(), |mesh| mesh.interception_mode)
    }

    /// The pods that the source knows.
    pub(super) fn pods(&self) -> impl Iterator<Item = (&PodKey, &PodSpec)> {
        self.pods.iter().flatten()
    }

    /// One of them.
    pub(super) fn pod(&self, key: &str) -> Option<&PodSpec> {
        self.pods.as_ref()?.get(key)
    }

    /// Whether a good configuration of the mesh was ever seen.
    pub(super) const fn has_mesh(&self) -> bool {
        self.mesh.good.is_some()
    }

    /// Whether the mesh wants nothing intercepted at all.
    pub(super) fn is_switched_off(&self) -> bool {
        self.mode() == InterceptionMode::None
    }

    /// See the field.
    pub(super) const fn leaving(&self) -> &BTreeMap<PodKey, PodSpec> {
        &self.leaving
    }

    /// A pod that was leaving has left.
    pub(super) fn has_left(&mut self, key: &str) {
        self.leaving.remove(key);
    }

    /// Has these looked at in the next pass.
    pub(super) fn touch(&mut self, key: &str) {
        self.dirty.keys.insert(key.to_owned());
    }

    /// Has all looked at in the next pass.
    pub(super) const fn touch_all(&mut self) {
        self.dirty.all = true;
    }

    /// Which pods have to be looked at, since this was asked last.
    pub(super) fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether the next pass looks at a pod.
    pub(super) fn is_dirty(&self, key: &str) -> bool {
        self.dirty.contains(key)
    }

    /// The lists for a pod.
    pub(super) fn lists_of(&mut self, key: &str, spec: &PodSpec) -> Wanted {
        let (lists, problem) = match Lists::from_annotations(&spec.annotations) {
            Ok(lists) => {
                self.good_lists.insert(key.to_owned(), lists.clone());
                (Some(lists), None)
            }
            Err(error) => (self.good_lists.get(key).cloned(), Some(error.to_string())),
        };
        let are_known = lists.is_some() && self.mesh.good.is_some();
        let first = self.compile(lists.unwrap_or_default());
        Wanted {
            policy: are_known.then(|| first.clone()),
            first,
            problem,
        }
    }

    /// Drops policies that no pod of the last pass went by.
    pub(super) fn forget_unused(&mut self) {
        self.compiled
            .retain(|_, policy| Arc::strong_count(policy) > 1);
    }

    fn compile(&mut self, pod: Lists) -> Arc<Policy> {
        if let Some(policy) = self.compiled.get(&pod) {
            return policy.clone();
        }
        let mesh = self.mesh.good.clone().unwrap_or_default();
        let policy = Arc::new(Policy::of_pod(&mesh, &pod, self.dual_stack));
        self.compiled.insert(pod, policy.clone());
        policy
    }
}
