//! Which events are shown: those that all that was asked for fits.

use osm_ebpf_common::{
    maps::Event,
    reason::{Kind, Reason},
};

use super::names::Names;

/// What was asked for; nothing: everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// This pod's.
    pub pod: Option<String>,
    /// Of one of these reasons.
    pub reasons: Vec<Reason>,
    /// Of one of these verdicts.
    pub verdicts: Vec<Kind>,
    /// Made by this user, as the initial user namespace numbers it.
    pub user: Option<u32>,
    /// To this port.
    pub port: Option<u16>,
}

impl Filter {
    /// Whether an event is shown.
    pub(super) fn lets_through(&self, event: &Event, names: &mut Names) -> bool {
        self.fits(event)
            && self
                .pod
                .as_ref()
                .is_none_or(|pod| names.of(event.netns_cookie()) == pod.as_str())
    }

    /// Whether all fits but the pod.
    fn fits(&self, event: &Event) -> bool {
        let reason = event.reason();
        let kind = reason.map(Reason::kind);
        let user = event.caller().map(osm_ebpf_common::maps::Caller::user);
        (self.reasons.is_empty() || reason.is_some_and(|it| self.reasons.contains(&it)))
            && (self.verdicts.is_empty() || kind.is_some_and(|it| self.verdicts.contains(&it)))
            && (self.user.is_none() || self.user == user)
            && self.port.is_none_or(|port| port == event.ends().port())
    }
}
