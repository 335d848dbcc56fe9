//! The steps of an agent, each by what the code does then.

use super::{
    Adopting, CONNECT, DETACHING, INBOUND, KILLS, Links, Next, Phase, SERVES, State, Version, Wrong,
};

impl Adopting {
    /// Which maps a version's programs ask.
    pub(super) const fn maps(&self, version: Version) -> usize {
        if self.shares_maps { 0 } else { version }
    }

    pub(super) fn agent(&self, state: &State) -> Next {
        let mut next = state.clone();
        match state.phase {
            Phase::Begins => {
                next.phase = Phase::Recovers;
                next.versions[state.version] = true;
                if self.wrong == Wrong::RemovesVersionEarly {
                    next.versions[1 - state.version] = false;
                }
                Some(("makes its version", next))
            }
            Phase::Recovers => Some(self.recover(state, next)),
            Phase::Forgets => Some(self.forget(state, next, Phase::Acts)),
            Phase::Acts if state.is_wanted => Some(self.enrol(state, next)),
            Phase::Acts | Phase::Withdraws => Some(self.withdraw(state, next)),
            Phase::Tidies => {
                next.phase = Phase::Idle;
                let other = 1 - state.version;
                if state.record != Some(other) {
                    next.versions[other] = false;
                }
                Some(("removes the other version", next))
            }
            Phase::Idle => None,
        }
    }

    fn recover(&self, state: &State, mut next: State) -> (&'static str, State) {
        if let Some(staged) = &mut next.staged
            && self.wrong != Wrong::KeepsStaging
        {
            if !self.detach(staged) {
                next.staged = None;
            }
            return ("empties staging", next);
        }
        let maps = self.maps(state.version);
        let is_known = state.record.is_some()
            || state.pods[maps]
            || (state.locals[maps] && self.wrong != Wrong::OverlooksLocals);
        let is_linked = state.published.is_some() && self.wrong != Wrong::ForgetsAll;
        next.phase = if is_known && !is_linked {
            Phase::Forgets
        } else {
            Phase::Acts
        };
        ("has recovered", next)
    }

    /// Detaches one link, in the order of their ranks; false where there is none.
    fn detach(&self, links: &mut Links) -> bool {
        let mut order = DETACHING;
        if self.wrong == Wrong::StopsServingFirst {
            order.reverse();
        }
        let found = order.into_iter().find(|hook| links[*hook].is_some());
        found.is_some_and(|hook| links[hook].take().is_some())
    }

    /// Removes one entry.
    fn forget(&self, state: &State, mut next: State, then: Phase) -> (&'static str, State) {
        let maps = self.maps(state.version);
        let record_first = self.wrong == Wrong::ForgetsRecordFirst;
        if state.pods[maps] {
            next.pods[maps] = false;
        } else if record_first && state.record.is_some() {
            next.record = None;
        } else if state.locals[maps] {
            next.locals[maps] = false;
        } else if state.notes {
            next.notes = false;
        } else {
            (next.record, next.phase) = (None, then);
        }
        ("forgets", next)
    }

    fn enrol(&self, state: &State, mut next: State) -> (&'static str, State) {
        let (own, maps) = (state.version, self.maps(state.version));
        if state.record.is_none() {
            next.record = Some(own);
            return ("records", next);
        }
        let waits = self.wrong == Wrong::DescribesLate && !state.is_whole();
        let is_described = state.locals[maps] && state.pods[maps];
        if !waits && !is_described {
            // Addresses first: at no time the pod is known and they are not.
            if state.locals[maps] {
                next.pods[maps] = true;
            } else {
                next.locals[maps] = true;
            }
            return ("describes", next);
        }
        if let Some(step) = self.attach(state) {
            return step;
        }
        if state.published.is_none() {
            next.published = next.staged.take();
            return ("publishes", next);
        }
        next.phase = Phase::Tidies;
        (next.record, next.is_promised) = (Some(own), true);
        ("notes its version", next)
    }

    fn attach(&self, state: &State) -> Option<(&'static str, State)> {
        let mut next = state.clone();
        let own = Some(state.version);
        let is_published = state.published.is_some();
        if !is_published && state.staged.is_none() {
            next.staged = Some([None; 3]);
            return Some(("stages", next));
        }
        let place = if is_published {
            &mut next.published
        } else {
            &mut next.staged
        };
        let links = place.as_mut()?;
        if let Some(hook) = state.held {
            (links[hook], next.held) = (own, None);
            return Some(("pins", next));
        }
        let mut order = [SERVES, INBOUND, CONNECT];
        if self.wrong == Wrong::ConnectsFirst {
            order.reverse();
        }
        let hook = order.into_iter().find(|hook| links[*hook] != own)?;
        if self.wrong == Wrong::PromisesEarly && hook == CONNECT {
            next.is_promised = true;
        }
        let name = match links[hook] {
            None => {
                next.held = Some(hook);
                "attaches"
            }
            Some(_) if self.wrong == Wrong::UnpinsBeforePinning => {
                links[hook] = None;
                "unpins"
            }
            Some(_) => {
                links[hook] = own;
                "updates"
            }
        };
        Some((name, next))
    }

    fn withdraw(&self, state: &State, mut next: State) -> (&'static str, State) {
        next.phase = Phase::Withdraws;
        if let Some(published) = &mut next.published {
            if !self.detach(published) {
                next.published = None;
            }
            return ("detaches", next);
        }
        if state.record.is_none() {
            next.phase = Phase::Tidies;
            return ("knows nothing of it", next);
        }
        self.forget(state, next, Phase::Tidies)
    }

    /// Killed; the next agent is of this version.
    pub(super) fn kill(state: &State, version: Version) -> Next {
        let mut next = state.clone();
        next.kills += 1;
        (next.version, next.phase, next.held) = (version, Phase::Begins, None);
        (state.kills < KILLS).then_some(("is killed, and another one begins", next))
    }
}

impl State {
    /// Whether every link runs this version's programs.
    pub(super) fn is_whole(&self) -> bool {
        self.published.or(self.staged) == Some([Some(self.version); 3])
    }

    /// By hook, whose programs run. A link may be in two places.
    pub(super) fn attached(&self) -> [Vec<Version>; 3] {
        [SERVES, INBOUND, CONNECT].map(|hook| {
            let pinned = [self.staged, self.published];
            let pinned = pinned.into_iter().filter_map(|links| links?[hook]);
            let held = self.held.filter(|held| *held == hook);
            pinned.chain(held.map(|_| self.version)).collect()
        })
    }
}
