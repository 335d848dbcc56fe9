//! A pod's links: attached, compared, made what they have to be.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::{self, BPF_CGROUP_SOCK_OPS, BPF_SK_LOOKUP};
use osm_ebpf_common::maps::PodRecord;

use super::{
    hooks::{
        CGROUP_HOOKS, INBOUND, INBOUND_CODE, INBOUND_PROGRAM, PASSIVE_HOOKS, is_known_to, names,
    },
    maps::Maps,
    pins::{detach, open, remove_others, replace},
    state::StateDir,
    version::Programs,
};
use crate::{
    error::{Error, Result, Tried as _},
    pod::Pod,
    sys::{
        attached::attached_programs,
        bpf::{self, Target},
    },
};

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Attached where it belongs, and runs a program of this version.
    Right,
    /// Attached where it belongs, and runs another program.
    OtherProgram,
    /// Attached to nothing any more.
    Detached,
    /// Not there.
    Missing,
    /// In its place is something that is not this pod's link.
    Foreign,
}

impl Condition {
    /// What is wrong, behind "was" or "is"; none where it is right.
    pub const fn problem(self) -> Option<&'static str> {
        match self {
            Self::Right => None,
            Self::OtherProgram => Some("running another program"),
            Self::Detached => Some("detached"),
            Self::Missing => Some("missing"),
            Self::Foreign => Some("in somebody else's place"),
        }
    }
}

/// The links of one pod: where they are pinned, and what they attach.
pub struct Links<'a> {
    pub state: &'a StateDir,
    pub programs: &'a Programs,
    pub pod: &'a Pod,
}

impl Links<'_> {
    /// Attaches everything to a pod that has no links yet, and publishes the links.
    ///
    /// `find_listeners` is called when new listeners are noticed by the programs and nothing
    /// is redirected yet: what it finds and what they notice is together all there is.
    ///
    /// # Errors
    /// Where a part can't be attached; then nothing is.
    pub fn attach(&self, find_listeners: impl FnOnce() -> Result<usize>) -> Result<usize> {
        self.refuse_second_interceptor()?;
        if self.pod.shares_cgroup {
            self.ensure_shared()?;
        }
        let published = self.directory()?;
        let staged = self.state.stage(&published)?;
        let attached = self
            .ensure_in(&staged, find_listeners)
            .and_then(|(_, listeners)| {
                self.state.publish(&staged, &published)?;
                Ok(listeners)
            });
        if attached.is_err() {
            // The error that is reported is the first one.
            let _ = detach(&staged);
        }
        attached
    }

    /// Makes every link what it has to be, one by one, while the others go on; says whether one
    /// goes on with another program.
    ///
    /// # Errors
    /// Where the kernel refuses. What worked before still does.
    pub fn ensure(&self, find_listeners: impl FnOnce() -> Result<usize>) -> Result<bool> {
        let shared_moved = self.pod.shares_cgroup && self.ensure_shared()?;
        let directory = self.directory()?;
        let (moved, _) = self.ensure_in(&directory, find_listeners)?;
        let own = if self.pod.shares_cgroup {
            CGROUP_HOOKS.len()
        } else {
            0
        };
        remove_others(&directory, |name| names().skip(own).any(|own| own == name))?;
        Ok(moved || shared_moved)
    }

    /// How every link is, by its name.
    ///
    /// # Errors
    /// Where one can't be asked for.
    pub fn conditions(&self) -> Result<Vec<(&'static str, Condition)>> {
        let cgroup = self.cgroup_directory()?;
        let mut found = Vec::new();
        for (index, hook) in CGROUP_HOOKS.iter().enumerate() {
            let (condition, _) = self.of_cgroup(&cgroup, index)?;
            found.push((hook.program, condition));
        }
        let directory = self.directory()?;
        found.push((INBOUND, self.of_netns(&directory)?.0));
        found.push((INBOUND_CODE, self.of_code(&directory)?));
        Ok(found)
    }

    /// Whether some link still holds on to another cgroup than the pod's.
    pub fn is_on_another_cgroup(&self) -> Result<bool> {
        let (directory, id) = (self.directory()?, self.pod.cgroup.id()?);
        for hook in &CGROUP_HOOKS {
            if let Some(link) = open(&directory.join(hook.program))?
                && let Ok(info) = bpf::link_info(link.as_fd())
                && matches!(info.target, Target::Cgroup(other) if other != id)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn directory(&self) -> Result<PathBuf> {
        Ok(self.state.pod(self.pod.netns.cookie()?))
    }

    fn cgroup_directory(&self) -> Result<PathBuf> {
        if self.pod.shares_cgroup {
            Ok(self.state.cgroup(self.pod.cgroup.id()?))
        } else {
            self.directory()
        }
    }

    fn ensure_in(
        &self,
        directory: &Path,
        find_listeners: impl FnOnce() -> Result<usize>,
    ) -> Result<(bool, usize)> {
        if self.pod.shares_cgroup {
            let moved = self.ensure_inbound(directory)?;
            return Ok((moved, find_listeners()?));
        }
        let mut moved = false;
        for index in 0..PASSIVE_HOOKS {
            moved |= self.ensure_hook(directory, index)?;
        }
        let listeners = find_listeners()?;
        moved |= self.ensure_inbound(directory)?;
        for index in PASSIVE_HOOKS..CGROUP_HOOKS.len() {
            moved |= self.ensure_hook(directory, index)?;
        }
        Ok((moved, listeners))
    }

    /// The one set of links on a cgroup that several pods share: the kernel takes no more than
    /// 64 programs of a type.
    fn ensure_shared(&self) -> Result<bool> {
        let published = self.cgroup_directory()?;
        if published.is_dir() {
            let mut moved = false;
            for index in 0..CGROUP_HOOKS.len() {
                moved |= self.ensure_hook(&published, index)?;
            }
            remove_others(&published, |name| {
                CGROUP_HOOKS.iter().any(|hook| hook.program == name)
            })?;
            return Ok(moved);
        }
        let staged = self.state.stage(&published)?;
        let made = (0..CGROUP_HOOKS.len())
            .try_for_each(|index| self.ensure_hook(&staged, index).map(drop))
            .and_then(|()| self.state.publish(&staged, &published));
        if made.is_err() {
            let _ = detach(&staged);
        }
        made.map(|()| false)
    }

    fn ensure_hook(&self, directory: &Path, index: usize) -> Result<bool> {
        let hook = &CGROUP_HOOKS[index];
        let (condition, link) = self.of_cgroup(directory, index)?;
        let program = self.programs.for_hook(index).object.as_fd();
        let what = || {
            let cgroup = self.pod.cgroup.path().display();
            format!("attach {} to {cgroup}", hook.program)
        };
        match (condition, link) {
            (Condition::Right, _) => return Ok(false),
            (Condition::OtherProgram, Some(link)) => {
                bpf::link_update(link.as_fd(), program).tried(what)?;
                return Ok(true);
            }
            _ => {}
        }
        let cgroup = self.pod.cgroup.directory().as_fd();
        let link = bpf::link_create(program, cgroup, hook.attach_type).tried(what)?;
        replace(link.as_fd(), &directory.join(hook.program))?;
        Ok(false)
    }

    fn ensure_inbound(&self, directory: &Path) -> Result<bool> {
        let is_moved = self.ensure_lookup(directory)?;
        if self.of_code(directory)? != Condition::Right {
            let code = self.programs.inbound().code();
            replace(code.object.as_fd(), &directory.join(INBOUND_CODE))?;
        }
        Ok(is_moved)
    }

    fn ensure_lookup(&self, directory: &Path) -> Result<bool> {
        let (condition, link) = self.of_netns(directory)?;
        if condition == Condition::Right {
            return Ok(false);
        }
        let program = self.programs.inbound().load(self.pod.netns.cookie()?)?;
        let what = || {
            let netns = self.pod.netns.path().display();
            format!("attach inbound_lookup to {netns}")
        };
        if let (Condition::OtherProgram, Some(link)) = (condition, link) {
            bpf::link_update(link.as_fd(), program.as_fd()).tried(what)?;
            return Ok(true);
        }
        let netns = self.pod.netns.file().as_fd();
        let link = bpf::link_create(program.as_fd(), netns, BPF_SK_LOOKUP).tried(what)?;
        replace(link.as_fd(), &directory.join(INBOUND))?;
        Ok(false)
    }

    fn of_cgroup(&self, directory: &Path, index: usize) -> Result<(Condition, Option<OwnedFd>)> {
        let hook = &CGROUP_HOOKS[index];
        let target = Target::Cgroup(self.pod.cgroup.id()?);
        condition(
            &directory.join(hook.program),
            |it| *it == target,
            hook.attach_type,
            |program| program == self.programs.for_hook(index).id,
        )
    }

    fn of_netns(&self, directory: &Path) -> Result<(Condition, Option<OwnedFd>)> {
        let inode = self.pod.netns.inode()?;
        let target = Target::Netns(u32::try_from(inode).unwrap_or_default());
        let is_ours = |program| self.programs.is_inbound(program);
        condition(
            &directory.join(INBOUND),
            |it| *it == target,
            BPF_SK_LOOKUP,
            is_ours,
        )
    }

    fn of_code(&self, directory: &Path) -> Result<Condition> {
        let Some(pinned) = open(&directory.join(INBOUND_CODE))? else {
            return Ok(Condition::Missing);
        };
        Ok(match bpf::map_info(pinned.as_fd()) {
            Ok(info) if info.id == self.programs.inbound().code().id => Condition::Right,
            Ok(_) => Condition::OtherProgram,
            Err(_) => Condition::Foreign,
        })
    }

    /// Two interceptors on one pod would redirect each other's connections. One that is
    /// attached to a cgroup above or below this one is known by the network namespace.
    fn refuse_second_interceptor(&self) -> Result<()> {
        let cgroup = self.pod.cgroup.path().display();
        let netns = self.pod.netns.path().display();
        let on_cgroup = if self.pod.shares_cgroup && self.cgroup_directory()?.is_dir() {
            Vec::new()
        } else {
            attached_programs(self.pod.cgroup.directory(), BPF_CGROUP_SOCK_OPS)
                .tried(|| format!("ask for the programs on {cgroup}"))?
        };
        let on_netns = attached_programs(self.pod.netns.file(), BPF_SK_LOOKUP)
            .tried(|| format!("ask for the programs on {netns}"))?;
        for (what, ids, name) in [
            (format!("--cgroup {cgroup}"), on_cgroup, "socket_events"),
            (format!("--netns {netns}"), on_netns, INBOUND_PROGRAM),
        ] {
            if ids.into_iter().any(|id| bpf::is_program_named(id, name)) {
                return Err(Error::input(
                    what,
                    "is intercepted already, by an agent with another state directory or in the \
                     foreground",
                    "detach it there first",
                ));
            }
        }
        Ok(())
    }
}

/// Whether all links of a pod are attached, whichever version's programs they run.
///
/// # Errors
/// Where one can't be asked.
pub fn are_attached(state: &StateDir, cookie: u64, maps: &Maps) -> Result<bool> {
    let record = maps.record(cookie)?;
    let of_cgroup = match record.filter(PodRecord::shares_cgroup) {
        Some(record) => state.cgroup(record.cgroup()),
        None => state.pod(cookie),
    };
    let version = record.map(|it| state.version(it.version()));
    let hooks = CGROUP_HOOKS.iter().filter(|hook| {
        let version = version.as_deref();
        version.is_none_or(|it| is_known_to(it, hook.program))
    });
    let hooks = hooks.map(|hook| of_cgroup.join(hook.program));
    for path in hooks.chain([state.pod(cookie).join(INBOUND)]) {
        let attached = open(&path)?
            .and_then(|link| bpf::link_info(link.as_fd()).ok())
            .is_some_and(|info| info.target != Target::Gone);
        if !attached {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a pod's network namespace is gone, as far as its link tells.
///
/// # Errors
/// Where the link can't be asked.
pub fn is_netns_gone(directory: &Path) -> Result<bool> {
    let path = directory.join(INBOUND);
    let Some(link) = open(&path)? else {
        return Ok(true);
    };
    let info = bpf::link_info(link.as_fd());
    Ok(!info.is_ok_and(|info| info.target != Target::Gone))
}

/// How the link at a path is.
///
/// # Errors
/// Where it can't be opened.
pub fn condition(
    path: &Path,
    is_target: impl FnOnce(&Target) -> bool,
    attach_type: bpf_attach_type,
    is_ours: impl FnOnce(u32) -> bool,
) -> Result<(Condition, Option<OwnedFd>)> {
    let Some(link) = open(path)? else {
        return Ok((Condition::Missing, None));
    };
    let condition = match bpf::link_info(link.as_fd()) {
        Err(_) => Condition::Foreign,
        Ok(info) if info.target == Target::Gone => Condition::Detached,
        Ok(info) if !is_target(&info.target) || info.attach_type != attach_type as u32 => {
            Condition::Foreign
        }
        Ok(info) if is_ours(info.program) => Condition::Right,
        Ok(_) => Condition::OtherProgram,
    };
    Ok((condition, Some(link)))
}
