//! What may become of a pod's connections at a moment: while something changes, both what was and what
//! will be.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use osm_agent::{config::Lists, policy::Naive};
use osm_ebpf_common::{
    address::Address,
    decision::{self, Inbound, Outbound, Verdict},
};

/// What may be so at a moment.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The lists that may be in force, the pod's and the mesh's together.
    pub lists: Vec<Lists>,
    /// Connections may go around the sidecar, and may be lost: the pod is not in the mesh, is on its way in
    /// or out, or somebody has taken something of its interception away.
    pub is_open: bool,
    /// The sidecar may not listen.
    pub is_deaf: bool,
}

/// What was possible when, from the beginning on.
#[derive(Debug)]
pub struct Possible {
    own: [IpAddr; 2],
    history: Mutex<Vec<State>>,
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment(usize);

/// Who dialled what.
#[derive(Clone, Copy, Debug)]
pub enum Dialled {
    /// An application of the pod.
    ByApp(SocketAddr),
    /// The sidecar's user.
    BySidecar(SocketAddr),
    /// Somebody outside, the pod.
    FromOutside(IpAddr, SocketAddr),
}

/// Where a connection landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landed {
    /// At the sidecar, which was told that this was dialled.
    AtSidecar(Option<SocketAddr>),
    /// At whom it dialled.
    Directly,
    /// Nowhere, for this error.
    Nowhere(String),
}

impl Possible {
    /// Of a pod with these addresses, which is not in the mesh.
    pub fn new(own: [IpAddr; 2]) -> Self {
        let outside = State {
            is_open: true,
            ..State::default()
        };
        Self {
            own,
            history: Mutex::new(vec![outside]),
        }
    }

    /// This is possible from now on.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let mut history = self.history();
        let mut state = history.last().cloned().unwrap_or_default();
        change(&mut state);
        history.push(state);
    }

    /// What is possible now.
    pub fn now(&self) -> State {
        self.history().last().cloned().unwrap_or_default()
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        Moment(self.history().len() - 1)
    }

    /// Whether a connection that was begun at a moment and has just been made may have landed there; if not,
    /// what was possible.
    pub fn judge(
        &self,
        begun: Moment,
        dialled: Dialled,
        landed: &Landed,
    ) -> Result<(), Vec<State>> {
        let history = self.history();
        let mut states = history[begun.0..].iter();
        if states.any(|state| self.allows(state, dialled, landed)) {
            return Ok(());
        }
        Err(history[begun.0..].to_vec())
    }

    fn allows(&self, state: &State, dialled: Dialled, landed: &Landed) -> bool {
        if let Dialled::BySidecar(_) = dialled {
            // Whatever happens: its own traffic passes.
            return *landed == Landed::Directly;
        }
        if state.is_open {
            // But nobody is ever told that another destination was dialled.
            return match landed {
                Landed::AtSidecar(told) => told.is_none_or(|told| told == dialled.to()),
                Landed::Directly | Landed::Nowhere(_) => true,
            };
        }
        let mut lists = state.lists.iter();
        lists.any(|lists| {
            let is_redirected = matches!(self.decide(lists, dialled), Verdict::Redirect(..));
            match landed {
                Landed::AtSidecar(told) => is_redirected && *told == Some(dialled.to()),
                Landed::Directly => !is_redirected,
                Landed::Nowhere(_) => is_redirected && state.is_deaf,
            }
        })
    }

    fn decide(&self, lists: &Lists, dialled: Dialled) -> Verdict {
        let pod = Naive {
            lists: lists.clone(),
            own_addresses: self.own.map(Address::from).to_vec(),
            dual_stack: true,
            ..Naive::default()
        };
        let to = dialled.to();
        let (destination, port) = (Address::from(to.ip()), to.port());
        match dialled {
            Dialled::FromOutside(client, _) => decision::inbound(
                &pod,
                &Inbound {
                    client: client.into(),
                    destination,
                    port,
                    interface: None,
                },
            ),
            Dialled::ByApp(_) | Dialled::BySidecar(_) => decision::outbound(
                &pod,
                &Outbound {
                    destination,
                    port,
                    by_sidecar: matches!(dialled, Dialled::BySidecar(_)),
                },
            ),
        }
    }

    fn history(&self) -> MutexGuard<'_, Vec<State>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialled {
    /// What was dialled.
    pub const fn to(self) -> SocketAddr {
        match self {
            Self::ByApp(to) | Self::BySidecar(to) | Self::FromOutside(_, to) => to,
        }
    }
}

#[test]
fn judge_refuses_what_is_not_possible_and_remembers_what_was() {
    let own = ["10.77.1.2", "fd77:1::2"].map(|it| it.parse().expect("an address"));
    let possible = Possible::new(own);
    let remote = "198.51.100.10:80".parse().expect("an address");
    let (app, sidecar) = (Dialled::ByApp(remote), Dialled::BySidecar(remote));
    let at_sidecar = Landed::AtSidecar(Some(remote));
    let wrong = Landed::AtSidecar("198.51.100.10:81".parse().ok());
    let lost = Landed::Nowhere("ECONNREFUSED".into());
    let outside = possible.moment();
    assert!(possible.judge(outside, app, &Landed::Directly).is_ok());
    assert!(possible.judge(outside, app, &wrong).is_err());

    possible.change(|state| {
        *state = State {
            lists: vec![Lists::default()],
            ..State::default()
        };
    });
    let inside = possible.moment();
    assert!(possible.judge(inside, app, &at_sidecar).is_ok());
    for landed in [&Landed::Directly, &Landed::AtSidecar(None), &wrong, &lost] {
        assert!(possible.judge(inside, app, landed).is_err(), "{landed:?}");
    }
    // It had begun before.
    assert!(possible.judge(outside, app, &Landed::Directly).is_ok());
    assert!(possible.judge(inside, sidecar, &Landed::Directly).is_ok());
    assert!(possible.judge(inside, sidecar, &at_sidecar).is_err());

    possible.change(|state| state.is_deaf = true);
    let deaf = possible.moment();
    assert!(possible.judge(deaf, app, &lost).is_ok());
    assert!(possible.judge(deaf, app, &Landed::Directly).is_err());
    let excluded = Lists {
        outbound_ports_excluded: [80].into(),
        ..Lists::default()
    };
    possible.change(|state| state.lists.push(excluded.clone()));
    let both = possible.moment();
    assert!(possible.judge(both, app, &Landed::Directly).is_ok());
    assert!(possible.judge(both, app, &at_sidecar).is_ok());
    possible.change(|state| state.lists = vec![excluded]);
    let after = possible.moment();
    assert!(possible.judge(after, app, &at_sidecar).is_err());
    assert!(
        possible.judge(after, app, &lost).is_err(),
        "it needs no sidecar"
    );
}
