//! What a pod's processes do that they should not, and what is kept from them. Pure.

use osm_ebpf_common::{GUARDED_PORTS, SIDECAR_UID, reason::Reason};

use super::{report::Problem, users::Users};
use crate::{config::SidecarIdentity, ebpf::view::PodView};

/// How many processes are named.
const NAMED: usize = 5;

/// All that there is to say of a pod.
pub fn warnings(view: &PodView, users: &Users) -> Vec<Problem> {
    [ports(view), unknown(view, users), same_user(view, users)]
        .into_iter()
        .flatten()
        .collect()
}

fn ports(view: &PodView) -> Option<Problem> {
    let refused = view.count(Reason::RefuseReservedPortBind);
    let [rest @ .., last] = GUARDED_PORTS.map(|port| port.to_string());
    (refused > 0).then(|| {
        Problem::new(
            format!(
                "a process that is not the sidecar's asked for one of its ports ({} or {last}); \
                 refused so far: {refused}",
                rest.join(", ")
            ),
            format!(
                "see who by `osm-agent monitor --pod {} --reason {}`, and have it use another port; \
                 spec.traffic.reservedPortGuard switches this off",
                view.name,
                Reason::RefuseReservedPortBind.name()
            ),
        )
    })
}

/// The sidecar is to be known by its cgroup, and can't be.
fn unknown(view: &PodView, users: &Users) -> Option<Problem> {
    let policy = view.policy.as_ref()?;
    if policy.sidecar_identity != SidecarIdentity::UidAndCgroup.name() {
        return None;
    }
    if view.sidecar_cgroup.is_none() {
        return Some(Problem::new(
            "spec.sidecar.identity is uid-and-cgroup, and the cgroup of the sidecar's container is \
             not known: until it is, whoever runs as the sidecar's user is taken for it",
            format!(
                "see whether a container of the pod has runAsUser: {SIDECAR_UID} and runs; without \
                 Kubernetes, give osm.sidecarCgroup in the pod file, or `attach --sidecar-cgroup`"
            ),
        ));
    }
    users.is_sidecar_gone.then(|| {
        Problem::new(
            "the cgroup of the sidecar's container is gone: a sidecar in another one is taken for an \
             application",
            "the agent looks for the new one at its next --resync; without an agent, attach again",
        )
    })
}

/// Others run as the sidecar's user.
fn same_user(view: &PodView, users: &Users) -> Option<Problem> {
    let user = view.sidecar_uid?;
    let todo =
        |then: &str| format!("have the application run as another user than {SIDECAR_UID}{then}");
    if view.sidecar_cgroup.is_none() {
        return (users.cgroups > 1).then(|| {
            let what = format!(
                "processes in {} of its containers run as user {user}: those that are not the \
                 sidecar get around it",
                users.cgroups
            );
            Problem::new(what, todo(""))
        });
    }
    if users.strangers.is_empty() {
        return None;
    }
    let (fate, then) = if view.goes_by_cgroup() {
        ("intercepted like any other", "")
    } else {
        (
            "not intercepted",
            ", or set spec.sidecar.identity: uid-and-cgroup",
        )
    };
    let named = users.strangers.iter().take(NAMED);
    let named: Vec<_> = named
        .map(|(pid, command)| format!("{command}({pid})"))
        .collect();
    let more = match users.strangers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Problem::new(
        format!(
            "outside of the sidecar's container, {}{more} runs as the sidecar's user {user}, and is {fate}",
            named.join(", ")
        ),
        todo(then),
    ))
}
