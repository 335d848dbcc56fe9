//! Both means of interception, as the loop reads and writes them.

use std::path::Path;

use super::{
    knowledge::Wanted,
    plan::{Cookie, Real},
};
use crate::{
    daemon::status::Means,
    ebpf::{Ebpf, Intercepted},
    error::{Error, Result},
    interceptor::{Enrolled, Found, Interceptor},
    iptables::Iptables,
    pod::{Netns, Pod},
    policy::Policy,
    transition,
};

/// The kernel.
pub(super) struct Datapath {
    ebpf: Result<Ebpf, String>,
    iptables: Iptables,
    /// What the kernel said when it did not do eBPF for a pod.
    refused: Option<String>,
}

impl Datapath {
    /// Opens the state directory, and keeps every other agent from it.
    ///
    /// # Errors
    /// Where another agent has it, or it is none that this version understands. A kernel that
    /// can't do eBPF is no error.
    pub(super) fn open(state_dir: &Path, iptables: Iptables) -> Result<Self> {
        let ebpf = match Ebpf::open_exclusive(state_dir) {
            Ok(ebpf) => {
                if let Err(error) = ebpf.follow_log() {
                    tracing::warn!("{error}; interception does not depend on it");
                }
                Ok(ebpf)
            }
            Err(error) if error.is_unsupported() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        Ok(Self {
            ebpf,
            iptables,
            refused: None,
        })
    }

    /// Why eBPF can't be had on this node, if it can't.
    pub(super) fn why_no_ebpf(&self) -> Option<&str> {
        let refused = self.refused.as_deref();
        self.ebpf.as_ref().err().map(String::as_str).or(refused)
    }

    /// From now on, pods are not intercepted by eBPF where the mesh leaves the choice; those that
    /// are so already stay.
    pub(super) fn give_up_ebpf(&mut self, error: &Error) {
        self.refused.get_or_insert_with(|| error.to_string());
    }

    /// The pods that the kernel holds state of.
    ///
    /// # Errors
    /// Where it can't be read.
    pub(super) fn records(&self) -> Result<Vec<Intercepted>> {
        self.ebpf.as_ref().map_or(Ok(Vec::new()), Ebpf::pods)
    }

    /// What is in force for a pod, compared with what is wanted by these means.
    ///
    /// # Errors
    /// Where it can't be read.
    pub(super) fn compare(&self, pod: &Pod, wanted: &Wanted, means: Means) -> Result<Real> {
        // By means that are not wanted, only whether there is anything counts.
        let lists = |by| wanted.policy.as_deref().filter(|_| by == means);
        Ok(Real {
            ebpf: match &self.ebpf {
                Ok(ebpf) => ebpf.compare(pod, lists(Means::Ebpf))?,
                Err(_) => Found::Absent,
            },
            iptables: if self.iptables.is_installed() {
                Interceptor::compare(&self.iptables, pod, lists(Means::Iptables))?
            } else {
                Found::Absent
            },
        })
    }

    /// Brings a pod to what is wanted, by these means.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn enrol(
        &mut self,
        pod: &Pod,
        wanted: &Wanted,
        means: Means,
        real: &Real,
    ) -> Result<Enrolled> {
        let policy = match real.by(means) {
            Found::Absent => Some(&*wanted.first),
            _ => wanted.policy.as_deref(),
        };
        match means {
            Means::Ebpf => {
                let ebpf = self.ebpf()?;
                match ebpf.enrol(pod, policy) {
                    Err(_) if is_moved(ebpf, pod)? => {
                        // Its source says so: the programs are where no process of it is.
                        ebpf.withdraw_by_cookie(pod.netns.cookie()?)?;
                        ebpf.enrol(pod, Some(policy.unwrap_or(&wanted.first)))
                    }
                    enrolled => enrolled,
                }
            }
            Means::Iptables => {
                if real.ebpf != Found::Absent
                    && let Err(error) = transition::ignore_older_connections(&pod.netns)
                {
                    tracing::warn!(
                        pod = pod.name,
                        "{error}; inbound connections that reuse a client's port may reach the \
                         application around the sidecar until it restarts"
                    );
                }
                self.iptables.enrol(pod, policy)
            }
        }
    }

    /// Puts pods that eBPF intercepts already under other lists, and does nothing else; says for
    /// which that was something new.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn switch(&mut self, wanted: &[(Cookie, &Policy)]) -> Result<Vec<Cookie>> {
        self.ebpf
            .as_mut()
            .map_or(Ok(Vec::new()), |ebpf| ebpf.switch(wanted))
    }

    /// Lets go of many pods that eBPF intercepts.
    ///
    /// # Errors
    /// Where the kernel refuses; some of them may be let go by then.
    pub(super) fn let_go_many(&mut self, pods: &[Cookie]) -> Result<()> {
        self.ebpf()?.withdraw_many(pods)
    }

    /// Lets go of a pod, by these means. `netns` may be none where eBPF alone is meant.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn let_go(
        &mut self,
        pod: Cookie,
        netns: Option<&Netns>,
        means: Means,
    ) -> Result<()> {
        match (means, netns) {
            (Means::Ebpf, _) => self.ebpf()?.withdraw_by_cookie(pod),
            (Means::Iptables, Some(netns)) => self.iptables.withdraw(netns).map(drop),
            (Means::Iptables, None) => Ok(()),
        }
    }

    /// Removes what no pod needs any more.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn tidy(&mut self) -> Result<()> {
        self.ebpf.as_mut().map_or(Ok(()), Ebpf::tidy)
    }

    fn ebpf(&mut self) -> Result<&mut Ebpf> {
        self.ebpf.as_mut().map_err(|why| Error::System {
            tried: "intercept by eBPF".into(),
            source: why.clone().into(),
            advice: "; set interceptionMode to auto or iptables".into(),
        })
    }
}

/// Whether the pod's cgroup is another one than that which it was enrolled with.
fn is_moved(ebpf: &Ebpf, pod: &Pod) -> Result<bool> {
    let (cookie, cgroup) = (pod.netns.cookie()?, pod.cgroup.id()?);
    let records = ebpf.pods()?;
    Ok(records
        .iter()
        .any(|it| it.netns_cookie == cookie && it.cgroup != cgroup && it.cgroup != 0))
}

/// By what number the loop knows a namespace: its cookie, or on kernels without cookies, which
/// have no eBPF interception either, its inode.
///
/// # Errors
/// Where the kernel can't tell.
pub(super) fn number_of(netns: &Netns) -> Result<Cookie> {
    netns.cookie().or_else(|_| netns.inode())
}
