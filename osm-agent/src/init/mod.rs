//! What an init container does: it has its pod intercepted, proves it, and only then lets the
//! pod start.
//!
//! * [`settings`]: what it is told, by flags, environment and file,
//! * [`Init`]: asks the node agent for eBPF over its socket ([`crate::protocol`]), else writes
//!   the iptables rules, then has [`crate::selfcheck`] prove that they work.
//!
//! Whatever is in force already is found so, and run again it ends as it did.

pub mod settings;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{
    config::InterceptionMode,
    error::{Error, Result},
    iptables::{Applied, Iptables, RuleSet, Target},
    policy::Policy,
    protocol::{self, Answer},
    selfcheck::{self, Finding, Means, Outcome, Verdict},
};

/// What is to be done, in the network namespace of this process.
#[derive(Debug)]
pub struct Init {
    /// What the pod goes by.
    pub policy: Policy,
    /// By which means.
    pub mode: InterceptionMode,
    /// Where the node agent listens.
    pub agent_socket: PathBuf,
    /// How long it may take.
    pub agent_timeout: Duration,
    /// With which tools rules are written.
    pub iptables: Iptables,
}

impl Init {
    /// Removes rules of an earlier run, where it is allowed to look for them.
    fn not_at_all(&self) -> String {
        let removed = Target::own().and_then(|own| self.iptables.cleanup(&own));
        match removed {
            Ok(true) => {
                "nothing is intercepted any more: the mode is none, and the iptables rules \
                         of an earlier run are removed"
                    .into()
            }
            Ok(false) => "nothing is intercepted: the mode is none".into(),
            Err(_) => {
                "nothing is done: the mode is none, and whether there are rules of an earlier \
                       run can't be told"
                    .into()
            }
        }
    }

    /// Does it, and tells `say` what, a line at a time.
    ///
    /// # Errors
    /// Where the pod is not intercepted, or that can't be proven; [`Error::NotInForce`] where it
    /// is proven that it is not.
    pub fn run(&self, mut say: impl FnMut(&str)) -> Result<()> {
        if self.mode == InterceptionMode::None {
            say(&self.not_at_all());
            return Ok(());
        }
        let target = Target::own()?;
        let own = target.addresses()?;
        let agent = match self.mode {
            InterceptionMode::Auto | InterceptionMode::Ebpf => Some(self.ask_agent()),
            InterceptionMode::Iptables | InterceptionMode::None => None,
        };
        let means = match (agent, self.mode) {
            (Some(Ok(protocol::Mode::Ebpf)), _) => {
                self.by_ebpf(&target, &mut say)?;
                Means::Ebpf
            }
            (Some(Err(why)), InterceptionMode::Ebpf) => return Err(self.no_agent(why)),
            (Some(Err(why)), _) => {
                say(&format!("no eBPF: {why}; using iptables instead"));
                self.by_iptables(&target, &own, &mut say)?;
                Means::Iptables
            }
            (None, _) => {
                self.by_iptables(&target, &own, &mut say)?;
                Means::Iptables
            }
        };
        judge(&selfcheck::run(&self.policy, own, means)?, means, say)
    }

    fn ask_agent(&self) -> Result<protocol::Mode, String> {
        let socket = self.agent_socket.display();
        match protocol::enrol(&self.agent_socket, self.agent_timeout) {
            Ok(Answer::Mode(mode)) => Ok(mode),
            Ok(Answer::Refused(why)) => Err(format!(
                "the node agent at {socket} refuses: {}",
                in_one_line(&why)
            )),
            Err(error) => Err(format!(
                "no node agent at {socket}: {}",
                in_one_line(&error.to_string())
            )),
        }
    }

    fn no_agent(&self, why: String) -> Error {
        Error::System {
            tried: "have this pod intercepted by eBPF".into(),
            source: why.into(),
            advice: format!(
                "; see to it that the agent runs on this node and that the directory of {} is \
                 mounted here, or use --mode auto",
                self.agent_socket.display()
            ),
        }
    }

    fn by_ebpf(&self, target: &Target<'_>, say: &mut impl FnMut(&str)) -> Result<()> {
        say("intercepted by eBPF, by the node agent");
        // An earlier run may have found no agent. Where rules can't be looked for, this
        // container can't have written any.
        let has_rules = self
            .iptables
            .inspect(target)
            .is_ok_and(|found| !found.is_empty());
        if has_rules && self.iptables.cleanup(target)? {
            say("the iptables rules of an earlier run are removed");
        }
        Ok(())
    }

    fn by_iptables(
        &self,
        target: &Target<'_>,
        own: &[IpAddr],
        say: &mut impl FnMut(&str),
    ) -> Result<()> {
        let rules = RuleSet::new(&self.policy, own)?;
        let report = self.iptables.apply(target, &rules)?;
        let backend = report.backend;
        say(&match report.applied {
            Applied::New => format!("intercepted by {backend}"),
            Applied::Changed => format!("intercepted by {backend}; the rules were others before"),
            Applied::Repaired(faults) => format!(
                "intercepted by {backend}; rules repaired: {}",
                faults.join("; ")
            ),
            Applied::Unchanged => format!("intercepted by {backend}, with these rules already"),
        });
        if let Some(other) = report.removed_from {
            say(&format!("rules of osm-agent are removed from {other}"));
        }
        for rule in self.iptables.ahead(target)? {
            let path = "every connection".into();
            let what = format!("a rule of others comes first and may take some: {rule}");
            let outcome = Outcome::Unproven(in_one_line(&what));
            say(&format!("self-check: {}", Finding { path, outcome }));
        }
        Ok(())
    }
}

/// Tells what was found, and makes an error of what is wrong.
fn judge(findings: &[Finding], means: Means, mut say: impl FnMut(&str)) -> Result<()> {
    for finding in findings {
        say(&format!("self-check: {finding}"));
    }
    match selfcheck::verdict(findings) {
        Verdict::Proven => Ok(()),
        Verdict::Wrong(problem) => {
            let advice = match means {
                Means::Iptables => {
                    "another program's rules may come before: see iptables-save -t nat in this pod"
                }
                Means::Ebpf => {
                    "the node agent may go by other lists than this container: have both read the \
                     same"
                }
            };
            Err(Error::NotInForce {
                problem,
                advice: advice.into(),
            })
        }
        Verdict::Unheard(_) | Verdict::Untried => Err(Error::System {
            tried: "prove the redirection".into(),
            source: "no connection that has to be redirected could be tried".into(),
            advice: "; leave SETUID and NET_RAW in securityContext.capabilities of the container"
                .into(),
        }),
    }
}

/// What somebody else says, as a message can show it.
fn in_one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(SHOWN).map(plain).collect()
}
