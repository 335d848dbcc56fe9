//! Whether a pod is in the mesh.

use super::{
    super::{Membership, PodSpec, SidecarPlace},
    pod::Pod,
};
use crate::config::quote;

/// The annotation, of a pod or of its namespace, that asks for a sidecar.
pub const INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// What is wrong with a pod as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// In one word, `CamelCase`.
    pub reason: &'static str,
    /// In a sentence, with what to do.
    pub text: String,
}

enum Wish {
    Yes,
    No,
    /// An annotation that says neither; where, and what it says.
    Unclear(String),
}

/// What the loop is told of a pod, and what its owner is; of a pod that is refused, the loop
/// tells its owner.
///
/// `namespace` is the [`INJECTION`] of its namespace, which counts where the pod has none.
/// A value counts in any case of its letters. One that can't be read counts as `enabled`:
/// somebody meant something, and if there is a sidecar then it was not "no sidecar".
#[must_use]
pub fn judge(pod: &Pod, namespace: Option<&str>) -> (PodSpec, Option<Complaint>) {
    let (membership, complaint) = membership(pod, &wish(pod, namespace));
    let spec = PodSpec {
        name: format!("{}/{}", pod.namespace, pod.name),
        uid: Some(pod.cgroup_uid.clone()),
        membership,
        annotations: pod.annotations.clone(),
        netns: None,
        cgroup: None,
        sidecar: pod.sidecar.clone().map(SidecarPlace::Container),
    };
    (spec, complaint)
}

fn wish(pod: &Pod, namespace: Option<&str>) -> Wish {
    let (origin, value) = match (&pod.injection, namespace) {
        (Some(value), _) => ("the pod", value.as_str()),
        (None, Some(value)) => ("its namespace", value),
        (None, None) => return Wish::No,
    };
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "true" | "yes" => Wish::Yes,
        "disabled" | "false" | "no" => Wish::No,
        _ => Wish::Unclear(format!(
            "annotation {INJECTION} of {origin} is {}; expected enabled or disabled",
            quote(value)
        )),
    }
}

fn membership(pod: &Pod, wish: &Wish) -> (Membership, Option<Complaint>) {
    if matches!(wish, Wish::No) {
        return (Membership::Outside, None);
    }
    if pod.is_on_host_network {
        let text = format!(
            "the pod uses the node's own network (hostNetwork: true), where interception would \
             take the traffic of the node; set hostNetwork: false, or annotate the pod with \
             {INJECTION}: disabled"
        );
        // The loop tells people why.
        return (Membership::Refused(text), None);
    }
    let membership = if pod.has_sidecar {
        Membership::InMesh
    } else {
        Membership::Outside
    };
    let complaint = match wish {
        Wish::Unclear(problem) if pod.has_sidecar => Some(Complaint {
            reason: "InvalidInjection",
            text: format!("{problem}; the pod has a sidecar, and is intercepted"),
        }),
        Wish::Unclear(problem) => Some(Complaint {
            reason: "InvalidInjection",
            text: format!("{problem}; the pod has no sidecar, and is not intercepted"),
        }),
        _ if !pod.has_sidecar => Some(Complaint {
            reason: "NoSidecar",
            text: "sidecar injection is enabled, but the pod has no sidecar and is not \
                   intercepted: it is older than the setting, or the injector was not there; \
                   create it anew"
                .to_owned(),
        }),
        _ => None,
    };
    (membership, complaint)
}
