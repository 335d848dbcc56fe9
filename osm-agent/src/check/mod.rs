//! What this kernel can do for interception, each feature probed by doing it.
//!
//! eBPF: the very maps and programs that pods get are loaded and attached to a cgroup and a
//! network namespace that are made for it, with pins in a bpffs of a mount namespace that nobody
//! else sees; at last, such a pod is enrolled whole and let go. iptables: the very rules are
//! written into a network namespace that is made for it. All of that is gone when it is done;
//! a kernel that loads its modules on demand keeps those it loaded.
//!
//! Without the privileges nothing is known, and said so.

mod attached;
mod ebpf;
mod features;
mod iptables;
mod place;
pub mod pod;
mod system;

use std::path::Path;

use crate::{iptables::Backend, privilege};
pub use attached::{Attached, Order, Owner};
use features::Features;
pub use features::{Feature, For, Status};
pub use system::Fact;

/// What `auto` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// eBPF.
    Ebpf,
    /// iptables, with that backend where a pod uses neither.
    Iptables(Backend),
    /// Nothing works.
    None,
    /// Nothing is known.
    Unknown,
}

impl Mode {
    /// Whether a pod can be intercepted.
    #[must_use]
    pub const fn works(self) -> bool {
        matches!(self, Self::Ebpf | Self::Iptables(_))
    }

    /// The name in output: `ebpf`, `iptables`, `none` or `unknown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables(_) => "iptables",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each feature, in the order in which they were probed.
    pub features: Vec<Feature>,
    /// What the machine is like.
    pub system: Vec<Fact>,
    /// Which programs run for pods, ours and others'; or why that can't be told.
    pub attached: Result<Vec<Attached>, String>,
    /// What `auto` takes.
    pub mode: Mode,
    /// Why, in one sentence.
    pub reason: String,
}

/// Probes everything; it takes half a second. `cgroup_root` is where a cgroup is made, for a
/// moment; by default the root of the hierarchy. `state_dir` is where pods are pinned.
#[must_use]
pub fn probe(cgroup_root: Option<&Path>, state_dir: &Path) -> Report {
    let mut features = Features::default();
    let attached = if let Some(why) = missing_privileges() {
        ebpf::unknown(&mut features, &why);
        iptables::unknown(&mut features, &why);
        Err(why)
    } else {
        ebpf::probe(&mut features, cgroup_root);
        iptables::probe(&mut features);
        attached::find(state_dir, cgroup_root).map_err(|error| error.to_string())
    };
    let (mode, reason) = judge(&features.0);
    Report {
        features: features.0,
        system: system::facts(state_dir),
        attached,
        mode,
        reason,
    }
}

/// Chooses from what was found. Pure.
fn judge(features: &[Feature]) -> (Mode, String) {
    let find = |name: &str| features.iter().find(|feature| feature.name == name);
    let is_ok = |name: &str| find(name).is_some_and(|feature| feature.status == Status::Ok);
    if is_ok(ebpf::WHOLE) {
        let reason = "eBPF works: a pod could be intercepted and let go";
        return (Mode::Ebpf, reason.into());
    }
    let of_ebpf = || features.iter().filter(|feature| feature.for_ == For::Ebpf);
    if let Some(unknown) = of_ebpf().find(|it| it.status == Status::Unknown)
        && of_ebpf().all(|feature| feature.status != Status::Missing)
    {
        return (
            Mode::Unknown,
            format!("nothing was probed: {}", unknown.detail),
        );
    }
    let missing = of_ebpf().find(|it| it.status == Status::Missing);
    let why_no_ebpf = missing.map_or_else(
        || "eBPF does not work".into(),
        |it| {
            format!(
                "eBPF does not work, as {} is missing ({})",
                it.name, it.detail
            )
        },
    );
    let backend = Backend::ALL
        .into_iter()
        .find(|it| is_ok(&iptables::name(*it, false)));
    match backend {
        Some(backend) => {
            let limit = if is_ok(&iptables::name(backend, true)) {
                ""
            } else {
                " for IPv4 only"
            };
            let reason = format!("{why_no_ebpf}, and {backend} does{limit}");
            (Mode::Iptables(backend), reason)
        }
        None => (Mode::None, format!("{why_no_ebpf}, nor does any iptables")),
    }
}

/// Why nothing can be probed, if so.
fn missing_privileges() -> Option<String> {
    let missing = privilege::missing().join(" and ");
    (!missing.is_empty()).then(|| format!("needs root; this process lacks {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(found: &[(&str, For, Status)]) -> (Mode, String) {
        let feature = |(name, for_, status): &(&str, For, Status)| Feature {
            name: (*name).into(),
            for_: *for_,
            status: *status,
            detail: format!("about {name}"),
        };
        judge(&found.iter().map(feature).collect::<Vec<_>>())
    }

    #[test]
    fn mode_and_reason_follow_from_features() {
        use For::{Ebpf, Iptables};
        use Status::{Missing, Ok, Unknown};
        let whole = ebpf::WHOLE;
        for (features, mode, words) in [
            (vec![("bpf", Ebpf, Ok), (whole, Ebpf, Ok)], "ebpf", "works"),
            (
                vec![("pidfd_getfd", Ebpf, Missing), (whole, Ebpf, Ok)],
                "ebpf",
                "works",
            ),
            (
                vec![
                    ("hook_sk_lookup", Ebpf, Missing),
                    (whole, Ebpf, Missing),
                    ("iptables_nft", Iptables, Ok),
                    ("ip6tables_nft", Iptables, Ok),
                ],
                "iptables",
                "hook_sk_lookup is missing (about hook_sk_lookup), and iptables-nft does",
            ),
            (
                vec![
                    ("bpf", Ebpf, Missing),
                    (whole, Ebpf, Unknown),
                    ("iptables_nft", Iptables, Missing),
                    ("iptables_legacy", Iptables, Ok),
                ],
                "iptables",
                "iptables-legacy does for IPv4 only",
            ),
            (
                vec![("bpf", Ebpf, Missing), ("iptables_nft", Iptables, Missing)],
                "none",
                "nor does any iptables",
            ),
            (
                vec![("bpf", Ebpf, Unknown), (whole, Ebpf, Unknown)],
                "unknown",
                "about bpf",
            ),
        ] {
            let (found, reason) = found(&features);
            assert_eq!(found.name(), mode, "{reason}");
            assert!(reason.contains(words), "{reason}");
        }
    }
}
