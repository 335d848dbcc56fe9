//! Which programs run for pods, whoever attached them, and in which order.
//!
//! Those of a cgroup run before those of the cgroups above it. Each sees what the ones before it
//! made of the call, and any may refuse it.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya_obj::generated::{bpf_attach_type::BPF_SK_LOOKUP, bpf_prog_type};
use serde::Serialize;

use crate::{
    ebpf::{
        hooks::{CGROUP_HOOKS, INBOUND_PROGRAM},
        is_map_of_ours,
        view::{PodView, View},
    },
    error::{Result, Tried as _},
    pod::{Netns, cgroup_root},
    sys::{
        attached::{attached_programs, effective_programs},
        bpf::{map_by_id, map_info, program_by_id, program_info},
    },
};

/// A program that runs for a pod, or for everything below the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The pod; none for what runs for every cgroup.
    pub pod: Option<String>,
    /// The event, by the name of our program for it.
    pub hook: &'static str,
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Its type, as bpftool calls it.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it is attached to: a cgroup, or the pod's network namespace.
    pub at: String,
    /// Whose it is.
    pub owner: Owner,
    /// When it runs, where a program of ours runs as well.
    pub order: Option<Order>,
}

/// Whose a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// Ours, of whichever version.
    Ours,
    /// Cilium's, by its name.
    Cilium,
    /// Somebody else's.
    Other,
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Before ours: ours sees what it made of the call.
    BeforeOurs,
    /// After ours: it sees the redirected call.
    AfterOurs,
}

/// What Cilium calls its programs for these events, before and after it gave all of them a prefix.
const CILIUM: [&str; 7] = [
    "cil_",
    "sock4_connect",
    "sock6_connect",
    "sock4_getpeerna",
    "sock6_getpeerna",
    "bpf_sockops",
    "sock4_post_bind",
];

const NETNS: &str = "its network namespace";

/// Asks for all of them: those that run in a cgroup where pods may be, by default the root, then
/// each pod's.
///
/// # Errors
/// Where the kernel does not tell.
pub(super) fn find(state_dir: &Path, place: Option<&Path>) -> Result<Vec<Attached>> {
    let root = cgroup_root()?;
    let mut look = Look {
        root: root.clone(),
        described: HashMap::new(),
        found: Vec::new(),
    };
    look.cgroup(None, place.unwrap_or(&root))?;
    let Some(view) = View::open(state_dir)? else {
        return Ok(look.found);
    };
    for pod in view.pods()? {
        if let Some(path) = &pod.cgroup_path {
            look.cgroup(Some(&pod), path)?;
        }
        if let Some(netns) = pod.netns()? {
            look.netns(&pod, &netns)?;
        }
    }
    Ok(look.found)
}

struct Look {
    root: PathBuf,
    described: HashMap<u32, Option<Described>>,
    found: Vec<Attached>,
}

/// What is known of a program.
#[derive(Clone)]
struct Described {
    name: String,
    kind: &'static str,
    owner: Owner,
}

impl Look {
    fn cgroup(&mut self, pod: Option<&PodView>, path: &Path) -> Result<()> {
        // From the pod's own on up, in the order in which their programs run.
        let mut levels = Vec::new();
        for level in path.ancestors().take_while(|it| it.starts_with(&self.root)) {
            match File::open(level) {
                Ok(directory) => levels.push((level, directory)),
                // The pod has just gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error).tried(|| format!("open {}", level.display())),
            }
        }
        let Some((_, own)) = levels.first() else {
            return Ok(());
        };
        for hook in &CGROUP_HOOKS {
            let tried = || format!("ask for the programs on {}", path.display());
            let running = effective_programs(own, hook.attach_type).tried(tried)?;
            let mut at = Vec::new();
            for (level, directory) in &levels {
                let there = attached_programs(directory, hook.attach_type).tried(tried)?;
                at.extend(
                    there
                        .into_iter()
                        .map(|id| (id, level.display().to_string())),
                );
            }
            self.note(pod, hook.program, &running, &at);
        }
        Ok(())
    }

    fn netns(&mut self, pod: &PodView, netns: &Netns) -> Result<()> {
        let running = attached_programs(netns.file(), BPF_SK_LOOKUP)
            .tried(|| format!("ask for the programs on {}", netns.path().display()))?;
        let at: Vec<_> = running.iter().map(|id| (*id, NETNS.to_owned())).collect();
        self.note(Some(pod), INBOUND_PROGRAM, &running, &at);
        Ok(())
    }

    fn note(
        &mut self,
        pod: Option<&PodView>,
        hook: &'static str,
        running: &[u32],
        at: &[(u32, String)],
    ) {
        let described: Vec<_> = running
            .iter()
            .filter_map(|id| Some((*id, self.describe(*id, hook)?)))
            .collect();
        let ours = described.iter().position(|(_, it)| it.owner == Owner::Ours);
        for (index, (id, described)) in described.into_iter().enumerate() {
            let order = ours.filter(|_| described.owner != Owner::Ours).map(|ours| {
                if index < ours {
                    Order::BeforeOurs
                } else {
                    Order::AfterOurs
                }
            });
            // One that was attached in between has no place yet.
            let place = at.iter().find(|(other, _)| *other == id);
            self.found.push(Attached {
                pod: pod.map(|pod| pod.name.clone()),
                hook,
                id,
                name: described.name,
                kind: described.kind,
                at: place.map_or_else(String::new, |(_, at)| at.clone()),
                owner: described.owner,
                order,
            });
        }
    }

    /// None for one that has just gone.
    fn describe(&mut self, id: u32, hook: &str) -> Option<Described> {
        let known = self.described.entry(id);
        known.or_insert_with(|| describe(id, hook).ok()).clone()
    }
}

fn describe(id: u32, hook: &str) -> io::Result<Described> {
    let info = program_info(program_by_id(id)?.as_fd())?;
    let name: Vec<u8> = info
        .name
        .iter()
        .copied()
        .take_while(|it| *it != 0)
        .collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    let kept = &hook[..hook.len().min(info.name.len() - 1)];
    let uses_ours = || {
        info.maps.iter().any(|map| {
            let map = map_by_id(*map).and_then(|map| map_info(map.as_fd()));
            map.is_ok_and(|map| is_map_of_ours(&map))
        })
    };
    let owner = if name == kept && uses_ours() {
        Owner::Ours
    } else if CILIUM.iter().any(|it| name.starts_with(it)) {
        Owner::Cilium
    } else {
        Owner::Other
    };
    Ok(Described {
        name,
        kind: kind(info.kind),
        owner,
    })
}

/// Those that can be attached to what we ask for.
fn kind(kind: u32) -> &'static str {
    use bpf_prog_type::{
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_PROG_TYPE_LSM,
        BPF_PROG_TYPE_SK_LOOKUP, BPF_PROG_TYPE_SOCK_OPS,
    };
    let names = [
        (BPF_PROG_TYPE_SOCK_OPS, "sock_ops"),
        (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "cgroup_sock_addr"),
        (BPF_PROG_TYPE_CGROUP_SOCKOPT, "cgroup_sockopt"),
        (BPF_PROG_TYPE_SK_LOOKUP, "sk_lookup"),
        (BPF_PROG_TYPE_LSM, "lsm"),
    ];
    let found = names.iter().find(|(known, _)| *known as u32 == kind);
    found.map_or("unknown", |(_, name)| name)
}
