//! What interception of a pod has in the kernel, to see later that nothing of it is left.

use anyhow::Result;
use osm_tests::{Netns, StateDir};

use crate::mode::{Iptables, Mode};
use crate::nat::Nat;
use crate::objects::Objects;

/// What was there before interception, as far as it matters for what is to be left.
#[derive(Debug)]
pub enum Before {
    /// Whatever it was, what interception adds is known by itself.
    Ebpf,
    /// The rules.
    Iptables(Iptables, Nat),
}

/// What is there because of interception.
#[derive(Debug)]
pub enum Traces {
    /// Pins, links, programs and maps.
    Ebpf(Objects),
    /// Whatever makes the rules different.
    Iptables {
        /// What prints them.
        iptables: Iptables,
        /// The rules before interception.
        before: Nat,
        /// The rules with it.
        attached: Nat,
    },
}

/// What was left of that.
#[derive(Debug)]
pub struct Left {
    /// How much out of how much, in words.
    pub counts: [String; 2],
    /// What should not be so.
    pub problems: Vec<String>,
}

impl Before {
    /// To be asked before the pod is intercepted for the first time.
    ///
    /// # Errors
    /// Where its rules can't be read.
    pub fn new(mode: Mode, netns: &Netns) -> Result<Self> {
        Ok(match mode.iptables() {
            None => Self::Ebpf,
            Some(iptables) => Self::Iptables(iptables, Nat::read(iptables, netns)?),
        })
    }
}

impl Traces {
    /// To be asked while the pod is intercepted.
    ///
    /// # Errors
    /// Where its rules can't be read.
    pub fn of(before: &Before, netns: &Netns, state: &StateDir) -> Result<Self> {
        Ok(match before {
            Before::Ebpf => Self::Ebpf(Objects::of(state)),
            Before::Iptables(iptables, before) => Self::Iptables {
                iptables: *iptables,
                before: before.clone(),
                attached: Nat::read(*iptables, netns)?,
            },
        })
    }

    /// To be asked once the pod is let go of.
    ///
    /// # Errors
    /// Where its rules can't be read.
    pub fn left(&self, netns: &Netns, state: &StateDir) -> Result<Left> {
        Ok(match self {
            Self::Ebpf(objects) => {
                let left = objects.left(state);
                Left {
                    counts: left.out_of(objects),
                    problems: objects.problems(&left),
                }
            }
            Self::Iptables {
                iptables,
                before,
                attached,
            } => {
                let now = Nat::read(*iptables, netns)?;
                Left {
                    counts: now.out_of(attached, before),
                    problems: now.problems(attached, before),
                }
            }
        })
    }
}
