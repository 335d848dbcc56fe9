//! Whether one pod is intercepted, proven from inside, while it is in use.

use std::path::Path;

use nix::sched::{CloneFlags, setns};
use osm_ebpf_common::SIDECAR_UID;

use super::place::TemporaryCgroup;
use crate::{
    ebpf::view::{PodView, View},
    error::{Error, Result, Tried as _},
    iptables::{Iptables, Target},
    pod::{Cgroup, Netns, cgroup_root},
    policy::Policy,
    selfcheck::{Finding, Live, Means, Outcome},
};

/// What is asked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The name of a pod that is pinned.
    pub pod: Option<&'a str>,
    /// Else its network namespace.
    pub netns: Option<&'a Path>,
    /// Its cgroup, where no process of it tells.
    pub cgroup: Option<&'a Path>,
    /// Where pods are pinned.
    pub state_dir: &'a Path,
    /// The lists that a pod behind iptables is to go by.
    pub otherwise: Policy,
    /// A network namespace that reaches the pod.
    pub from: Option<&'a Path>,
}

/// A pod that was found.
#[derive(Debug)]
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// By which means it is intercepted.
    pub means: Means,
    netns: Netns,
    cgroup: Option<Cgroup>,
    sidecar_uid: u32,
    goes_by_cgroup: bool,
    policy: Policy,
    /// What is wrong with what is pinned.
    problems: Vec<String>,
}

impl Wanted<'_> {
    /// Finds it.
    ///
    /// # Errors
    /// Where it is not there; [`Error::NotInForce`] where nothing intercepts it.
    pub fn find(&self) -> Result<Subject> {
        let view = View::open(self.state_dir)?;
        match (self.pod, self.netns) {
            (Some(name), _) => self.by_name(view.as_ref(), name),
            (None, Some(path)) => self.by_netns(view.as_ref(), path),
            (None, None) => Err(Error::input(
                "check",
                "no pod is named",
                "give --pod or --netns",
            )),
        }
    }

    fn by_name(&self, view: Option<&View>, name: &str) -> Result<Subject> {
        let found = view.map(|view| view.pod(name)).transpose()?.flatten();
        let (Some(view), Some(pod)) = (view, found) else {
            return Err(Error::input(
                format!("--pod {name}"),
                format!("no such pod is pinned in {}", self.state_dir.display()),
                "`osm-agent status` shows those that are; a pod behind iptables is found by --netns",
            ));
        };
        let netns = match self.netns {
            Some(path) => Netns::open(path)?,
            None => pod.netns()?.ok_or_else(|| Error::System {
                tried: format!("find the network namespace of {name}"),
                source: "no process of the pod is there".into(),
                advice: "; the pod has ended, or give its namespace with --netns".into(),
            })?,
        };
        self.pinned(view, pod, netns)
    }

    fn by_netns(&self, view: Option<&View>, path: &Path) -> Result<Subject> {
        let netns = Netns::open(path)?;
        let cookie = netns.cookie()?;
        let pods = view.map(View::pods).transpose()?.unwrap_or_default();
        if let (Some(view), Some(pod)) =
            (view, pods.into_iter().find(|it| it.netns_cookie == cookie))
        {
            return self.pinned(view, pod, netns);
        }
        if Iptables::new().inspect(&Target::of(&netns))?.is_empty() {
            return Err(Error::NotInForce {
                problem: format!(
                    "nothing of {} is pinned in {}, and it holds no iptables rules of ours",
                    path.display(),
                    self.state_dir.display()
                ),
                advice: "see `osm-agent status`, and whether the pod is in the mesh at all".into(),
            });
        }
        Ok(Subject {
            name: path.display().to_string(),
            means: Means::Iptables,
            netns,
            cgroup: None,
            sidecar_uid: SIDECAR_UID,
            goes_by_cgroup: false,
            policy: self.otherwise.clone(),
            problems: Vec::new(),
        })
    }

    fn pinned(&self, view: &View, pod: PodView, netns: Netns) -> Result<Subject> {
        let path = self.cgroup.or(pod.cgroup_path.as_deref());
        let path = path.ok_or_else(|| {
            Error::input(
                format!("--pod {}", pod.name),
                "its cgroup is gone",
                "the pod has ended, or give its --cgroup",
            )
        })?;
        let cgroup = Cgroup::open(path, &cgroup_root()?)?;
        Ok(Subject {
            means: Means::Ebpf,
            cgroup: Some(cgroup),
            sidecar_uid: pod.sidecar_uid.unwrap_or(SIDECAR_UID),
            goes_by_cgroup: pod.goes_by_cgroup(),
            policy: view.policy_of(&pod, &netns)?,
            problems: pod.problems,
            name: pod.name,
            netns,
        })
    }
}

impl Subject {
    /// A cgroup in the pod's, for the process that connects: its programs run for that as well,
    /// and no container's limits are touched. None is needed behind iptables.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn cgroup_within(&self) -> Result<Option<TemporaryCgroup>> {
        let pod_s = self.cgroup.as_ref().map(Cgroup::path);
        pod_s
            .map(|path| TemporaryCgroup::new(Some(path)))
            .transpose()
    }

    /// Makes the connections. The calling thread, which has to be the process's first, stays in
    /// the pod's network namespace.
    ///
    /// # Errors
    /// Where it can't.
    pub fn check(self, from: Option<&Path>) -> Result<Vec<Finding>> {
        let from = from.map(open_any).transpose()?;
        let own = Target::of(&self.netns).addresses()?;
        setns(self.netns.file(), CloneFlags::CLONE_NEWNET)
            .map_err(std::io::Error::from)
            .tried(|| format!("enter {}", self.netns.path().display()))?;
        let mut findings: Vec<_> = self.problems.into_iter().map(Finding::wrong_pin).collect();
        let live = Live {
            policy: &self.policy,
            own,
            sidecar_uid: self.sidecar_uid,
            goes_by_cgroup: self.goes_by_cgroup,
            from: from.as_ref(),
        };
        findings.extend(live.run()?);
        Ok(findings)
    }
}

impl Finding {
    fn wrong_pin(problem: String) -> Self {
        Self {
            path: "what is pinned".into(),
            outcome: Outcome::Wrong(problem),
        }
    }
}

/// Also the node's own: it is only connected from.
fn open_any(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).map_err(|error| {
        Error::input(
            format!("--from {}", path.display()),
            format!("cannot be opened ({error})"),
            "give a path such as /proc/1/ns/net",
        )
    })
}
