//! The fallback: the four chains that `spec.md` documents, in a network namespace's table
//! nat, written with the system's own `iptables-restore`.
//!
//! * [`RuleSet`]: what the rules are; a pure function of the policy,
//! * [`Saved`]: what `iptables-save` says is there,
//! * [`transaction`]: the text that turns the one into the other at once,
//! * [`Iptables`]: does it, with the backend that the namespace uses.
//!
//! There is no state but the rules. Every rule has a comment that says whose it is, and the
//! one of `PROXY_REDIRECT` holds digests of the other chains: by them a change of lists is
//! told from chains that somebody else changed. A rule of whatever chain that jumps into one
//! of the four counts as ours too, since without them it could not be.
//!
//! The jumps are appended to PREROUTING and OUTPUT, so that rules of others that come before
//! go on seeing what they saw; a jump that is right already stays where it is.
//!
//! After [`Iptables::cleanup`] the rules of others, their counters and the policies are as
//! they were. Two things can't be undone with iptables: the kernel keeps the table itself,
//! empty, and iptables-legacy puts the counters of the policies (not of the rules) to zero
//! with every change of the table, whoever makes it.
#![forbid(unsafe_code)]

mod ahead;
mod apply;
mod backend;
mod canonical;
mod failure;
mod interceptor;
mod keep;
mod presence;
mod rules;
mod run;
mod save;
mod session;
mod survey;
mod target;
mod tools;
mod transaction;

use std::{path::PathBuf, time::Duration};

pub use apply::{Applied, Report};
pub use backend::{Backend, Choice, Found, choose};
pub use rules::{CHAINS, Family, RuleSet, Rules};
pub use save::{Jump, Saved, Unreadable};
pub use target::Target;
pub use transaction::{restoration, transaction};

use crate::error::Result;
use session::Session;
use tools::Tools;

/// How long the xtables lock is waited for, unless told otherwise.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Writes and removes the rules.
///
/// It needs `CAP_NET_ADMIN` over the namespace, with iptables-legacy `CAP_NET_RAW` as well
/// (it opens a raw socket), and `CAP_SYS_ADMIN` to enter another namespace than its own.
/// Nothing on disk is needed: where `/run` can't be written, the namespace itself serves
/// iptables-legacy as the lock.
#[derive(Clone, Debug)]
pub struct Iptables {
    backend: Option<Backend>,
    lock_wait: Duration,
    directories: Vec<PathBuf>,
}

impl Iptables {
    /// With the tools of `PATH`, `/usr/sbin` and `/sbin`, the backend found out by looking.
    #[must_use]
    pub fn new() -> Self {
        Self {
            backend: None,
            lock_wait: LOCK_WAIT,
            directories: tools::directories(),
        }
    }

    /// With this backend, whatever the namespace uses; none finds out again.
    #[must_use]
    pub const fn with_backend(mut self, backend: Option<Backend>) -> Self {
        self.backend = backend;
        self
    }

    /// Waits this long for the xtables lock, in whole seconds and at least one.
    #[must_use]
    pub const fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// With the tools of these directories only.
    #[must_use]
    pub fn with_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.directories = directories;
        self
    }

    /// Puts a namespace under a rule set. Whatever was there of ours is replaced in one
    /// transaction, for new connections; established ones are left alone. Rules that are
    /// right already are not touched.
    ///
    /// # Errors
    /// Where the tools, the kernel or the privileges are not there, the lock is not to be had,
    /// or two backends are in use. The former rules stay in force then, those of the other
    /// family too.
    pub fn apply(&self, target: &Target<'_>, rules: &RuleSet) -> Result<Report> {
        self.session(target, |session| session.apply(self.backend, rules))
    }

    /// Leaves the rules in force that there are, whatever their lists, and repairs what
    /// somebody else did to them. A chain whose lists can't be known any more intercepts
    /// everything from then on. Where there is nothing of ours, puts `otherwise` in force.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn keep(&self, target: &Target<'_>, otherwise: &RuleSet) -> Result<Report> {
        self.session(target, |session| session.keep(self.backend, otherwise))
    }

    /// What [`Self::apply`] would do; without rules, what [`Self::keep`] would. Changes nothing.
    ///
    /// # Errors
    /// Where the tables can't be read.
    pub fn dry_run(&self, target: &Target<'_>, rules: Option<&RuleSet>) -> Result<Applied> {
        self.session(target, |session| session.compare(self.backend, rules))
    }

    /// Removes all that is ours; says whether there was anything.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn cleanup(&self, target: &Target<'_>) -> Result<bool> {
        self.session(target, |session| session.cleanup(self.backend))
    }

    /// Whether there are tools at all.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        Tools::find(&self.directories).is_ok()
    }

    /// The backends whose tables hold rules of ours, whatever state these are in.
    ///
    /// # Errors
    /// Where the tables can't be read.
    pub fn inspect(&self, target: &Target<'_>) -> Result<Vec<Backend>> {
        self.session(target, |session| session.backends_with_ours(self.backend))
    }

    fn session<T: Send>(
        &self,
        target: &Target<'_>,
        run: impl FnOnce(&Session<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        let tools = Tools::find(&self.directories)?;
        let where_ = target.to_string();
        target.enter(|| run(&Session::open(&tools, self.lock_wait, &where_)?))
    }
}

impl Default for Iptables {
    fn default() -> Self {
        Self::new()
    }
}
