//! Reading and writing the rules of the namespace that the calling thread is in.

use std::{ffi::OsStr, path::Path, time::Duration};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::{
    Backend,
    failure::Failure,
    presence::{has_nft_chains, may_have_table},
    rules::Family,
    run::run,
    save::{Saved, Unreadable},
    tools::Tools,
};
use crate::{
    error::{Error, Result, Tried as _},
    privilege::{self, Capability, NET_ADMIN, NET_RAW},
};

/// How long a program may take besides waiting for the lock. Fifty thousand rules take three
/// seconds.
const LIMIT: Duration = Duration::from_mins(1);

/// Where iptables-legacy keeps its lock unless told otherwise.
const LOCK: &str = "/run/xtables.lock";
const LOCK_VARIABLE: &str = "XTABLES_LOCKFILE";
/// What serves as the lock where that file can't be had: to be opened and locked with
/// flock(2) is all that is asked of it. It is the program's own namespace, so that whoever
/// does the same there waits for each other.
const NAMESPACE: &str = "/proc/self/ns/net";

/// What is needed to work in a namespace.
pub(super) struct Session<'a> {
    pub(super) tools: &'a Tools,
    lock_wait: Duration,
    /// What the namespace is called in errors.
    pub(super) where_: &'a str,
}

impl<'a> Session<'a> {
    /// Begins, in the namespace that the calling thread is in.
    ///
    /// # Errors
    /// Without the privilege that both backends need.
    pub(super) fn open(tools: &'a Tools, lock_wait: Duration, where_: &'a str) -> Result<Self> {
        require_capability(NET_ADMIN, where_, "")?;
        Ok(Self {
            tools,
            lock_wait,
            where_,
        })
    }

    /// What a backend holds; none where its tool is not installed.
    ///
    /// # Errors
    /// Where that can't be known.
    pub(super) fn read(&self, backend: Backend, family: Family) -> Result<Option<Saved>> {
        if self.tools.get(backend, family).is_none() {
            return Ok(None);
        }
        if !may_have_table(backend, family) {
            return Ok(Some(Saved::default()));
        }
        self.save(backend, family).map(Some)
    }

    /// What a backend's tool shows.
    ///
    /// # Errors
    /// As for [`Self::read`], and where the tool is not installed.
    pub(super) fn save(&self, backend: Backend, family: Family) -> Result<Saved> {
        if backend == Backend::Legacy {
            require_capability(NET_RAW, self.where_, ", which iptables-legacy needs")?;
        }
        let program = &self.tools.require(backend, family)?.save;
        let tried = || {
            format!(
                "read the rules of {} with {}",
                self.where_,
                program.display()
            )
        };
        let ended = run(program, &["-t", "nat"], None, String::new(), LIMIT).tried(tried)?;
        if !ended.status.success() {
            // A kernel without nf_tables holds no rules there, and writing will say the same.
            if ended.stderr.contains("Failed to initialize nft") {
                return Ok(Saved::default());
            }
            return Err(Failure::new(tried(), &ended, "").error);
        }
        // What it can't show it says as a comment, in which stream depends on its version.
        let comments = ended.stderr.lines().filter(|line| line.starts_with('#'));
        let text: Vec<&str> = comments.chain(ended.stdout.lines()).collect();
        match Saved::parse(&text.join("\n")) {
            Ok(saved) => Ok(saved),
            // Where the kernel knows no chain of ours, what the tool can't show is others'.
            Err(Unreadable::Native) if matches!(has_nft_chains(family), Ok(false)) => {
                Ok(Saved::native())
            }
            Err(error) => Err(unreadable(tried(), error)),
        }
    }

    /// An error where `saved` is a table that can't be written either.
    ///
    /// # Errors
    /// Says so.
    pub(super) fn require_readable(&self, family: Family, saved: &Saved) -> Result<()> {
        if !saved.is_native {
            return Ok(());
        }
        let tried = format!("write the rules of {} with {}", self.where_, family.tool());
        Err(unreadable(tried, Unreadable::Native))
    }

    /// Feeds a backend one transaction.
    ///
    /// # Errors
    /// Where it fails; nothing of it is in force then.
    pub(super) fn write(
        &self,
        backend: Backend,
        family: Family,
        text: &str,
    ) -> Result<(), Failure> {
        let program = &self.tools.require(backend, family)?.restore;
        if backend == Backend::Legacy {
            require_capability(NET_RAW, self.where_, ", which iptables-legacy needs")?;
        }
        let wait = self.lock_wait.as_secs().max(1);
        let needs_lock = backend == Backend::Legacy && !has_lock_file();
        let environment = needs_lock.then_some((LOCK_VARIABLE, OsStr::new(NAMESPACE)));
        let tried = || {
            format!(
                "write the rules of {} with {}",
                self.where_,
                program.display()
            )
        };
        let args = ["--noflush", "-w", &wait.to_string()];
        let limit = LIMIT + self.lock_wait;
        let ended = run(program, &args, environment, text.to_owned(), limit).tried(tried)?;
        if ended.status.success() {
            Ok(())
        } else {
            Err(Failure::new(tried(), &ended, text))
        }
    }

    /// Whether the kernel takes a rule of all the kinds that ours are of, and why not. The
    /// chain is gone with the same transaction.
    pub(super) fn probe(&self, backend: Backend) -> Result<(), Failure> {
        const PROBE: &str = "*nat\n:PROXY_PROBE - [0:0]\n\
            -A PROXY_PROBE -o lo -p tcp -m multiport --dports 1 -m owner --uid-owner 1500 \
            -m comment --comment \"osm-agent: probe\" -j REDIRECT --to-ports 1\n\
            -F PROXY_PROBE\n-X PROXY_PROBE\nCOMMIT\n";
        self.write(backend, Family::V4, PROBE)
    }
}

fn unreadable(tried: String, error: Unreadable) -> Error {
    let advice = match error {
        Unreadable::Native => {
            "; take them into a table of another name (see nft list table nat), or use \
             --iptables-backend legacy"
        }
        Unreadable::Truncated | Unreadable::Odd(_) => "",
    };
    Error::System {
        tried,
        source: error.into(),
        advice: advice.into(),
    }
}

/// Whether iptables-legacy finds a lock without being told where. It makes the file itself
/// where there is none.
fn has_lock_file() -> bool {
    let flags = OFlag::O_CREAT | OFlag::O_CLOEXEC;
    std::env::var_os(LOCK_VARIABLE).is_some()
        || open(LOCK, flags, Mode::from_bits_truncate(0o600)).is_ok()
}

/// Whether a family can be had at all: it has tools, and the kernel knows it.
pub(super) fn is_there(family: Family) -> bool {
    family == Family::V4 || Path::new("/proc/thread-self/net/if_inet6").exists()
}

fn require_capability(needed: Capability, where_: &str, why: &str) -> Result<()> {
    if privilege::has(needed) {
        return Ok(());
    }
    let (_, name) = needed;
    let short = name.trim_start_matches("CAP_");
    Err(Error::System {
        tried: format!("change the iptables rules of {where_}"),
        source: format!("this process lacks {name}{why}").into(),
        advice: format!(
            "; add {short} to securityContext.capabilities.add of the container, and run it as \
             root (runAsUser: 0)"
        ),
    })
}
