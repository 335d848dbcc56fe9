//! `osm-agent check --pod`: one pod, proven from inside.

use std::{
    fs,
    path::Path,
    process::{self, Command, ExitStatus},
};

use serde::Serialize;

use super::{Check, SCHEMA};
use crate::{
    check::pod::{Subject, Wanted},
    cli::{
        check_privileges,
        out::{print, say},
        style::{Format, bad, document, good},
    },
    error::{Error, Result, Tried as _},
    selfcheck::{Finding, Means, Outcome, Verdict, to_the_end, verdict},
};

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    pod: &'a str,
    means: &'static str,
    verdict: &'static str,
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    path: &'a str,
    outcome: &'static str,
    detail: &'a str,
}

/// Proves it, in a process that is in the pod's cgroup where that matters.
pub fn run(check: &Check) -> Result<()> {
    check_privileges()?;
    let mesh = check.policy.mesh()?;
    let wanted = Wanted {
        pod: check.pod.as_deref(),
        netns: check.netns.as_deref(),
        cgroup: check.cgroup.as_deref(),
        state_dir: &check.state.state_dir,
        otherwise: check.policy.policy(&mesh)?,
        from: check.from.as_deref(),
    };
    // First: who is in its cgroup takes it for no pod's.
    let subject = wanted.find()?;
    if let Some(cgroup) = &check.inside {
        join(cgroup)?;
        return prove(check, &wanted, subject);
    }
    let Some(cgroup) = subject.cgroup_within()? else {
        return prove(check, &wanted, subject);
    };
    // Told to end, it ends when the cgroup is gone again.
    to_the_end(|| {
        let status = again_inside(cgroup.cgroup.path());
        drop(cgroup);
        match status?.code() {
            Some(0) => Ok(()),
            // It has said why.
            Some(code) => process::exit(code),
            None => Err(Error::System {
                tried: "prove the redirection".into(),
                source: "the process in the pod was killed".into(),
                advice: String::new(),
            }),
        }
    })
}

/// The same command again, in a process that goes into a cgroup first.
fn again_inside(cgroup: &Path) -> Result<ExitStatus> {
    let arguments = std::env::args_os().skip(1);
    let mut again = Command::new("/proc/self/exe");
    again.args(arguments).arg("--inside").arg(cgroup);
    again.status().tried(|| "start a process in the pod")
}

fn join(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    fs::write(&path, "0").tried(|| format!("enter the cgroup {}", cgroup.display()))
}

fn prove(check: &Check, wanted: &Wanted<'_>, subject: Subject) -> Result<()> {
    let (name, means) = (subject.name.clone(), subject.means);
    let findings = to_the_end(|| subject.check(wanted.from))?;
    let verdict = verdict(&findings);
    match check.output {
        Format::Table => table(&name, means, &findings),
        format => {
            let json = json(&name, means, &verdict, &findings);
            print(document(&json, format)?.trim_end())?;
        }
    }
    judge(&name, means, verdict)
}

fn table(name: &str, means: Means, findings: &[Finding]) {
    say(format_args!("{name}, by {}", means_name(means)));
    for finding in findings {
        let line = finding.to_string();
        let line = match finding.outcome {
            Outcome::Proven(_) => good(&line),
            Outcome::Wrong(_) => bad(&line),
            Outcome::Unproven(_) | Outcome::Unheard(_) => line,
        };
        say(format_args!("{line}"));
    }
}

fn json<'a>(pod: &'a str, means: Means, verdict: &Verdict, findings: &'a [Finding]) -> Json<'a> {
    let findings = findings.iter().map(|Finding { path, outcome }| {
        let (outcome, detail) = match outcome {
            Outcome::Proven(what) => ("proven", what),
            Outcome::Unproven(what) | Outcome::Unheard(what) => ("not-proven", what),
            Outcome::Wrong(what) => ("wrong", what),
        };
        JsonFinding {
            path,
            outcome,
            detail,
        }
    });
    Json {
        version: SCHEMA,
        pod,
        means: means_name(means),
        verdict: match verdict {
            Verdict::Proven => "proven",
            Verdict::Wrong(_) => "not-in-force",
            Verdict::Unheard(_) | Verdict::Untried => "unknown",
        },
        findings: findings.collect(),
    }
}

const fn means_name(means: Means) -> &'static str {
    match means {
        Means::Ebpf => "ebpf",
        Means::Iptables => "iptables",
    }
}

fn judge(name: &str, means: Means, verdict: Verdict) -> Result<()> {
    let untold = |source: String, advice: &str| {
        Err(Error::System {
            tried: format!("tell whether {name} is intercepted"),
            source: source.into(),
            advice: advice.into(),
        })
    };
    match verdict {
        Verdict::Proven => Ok(()),
        Verdict::Wrong(problem) => Err(Error::NotInForce {
            problem,
            advice: match means {
                Means::Ebpf => {
                    "see `osm-agent status` for what is wrong with it, and `osm-agent check` for \
                     programs of others"
                }
                Means::Iptables => {
                    "give the pod's lists with --config and --annotation, as its rules don't tell \
                     them; another program's rules may come before: see iptables-save -t nat there"
                }
            }
            .into(),
        }),
        Verdict::Unheard(what) => untold(
            what,
            "; see whether the sidecar runs, and as which user, and what it logs",
        ),
        Verdict::Untried => untold(
            "no connection that has to be redirected could be tried".into(),
            "; run this as root on the node itself",
        ),
    }
}
