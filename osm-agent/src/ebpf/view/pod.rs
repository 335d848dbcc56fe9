//! One pod, with all that is known of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type::BPF_SK_LOOKUP;
use osm_ebpf_common::{
    decision::Direction,
    maps::{PodRecord, PolicyWord},
    reason::Reason,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::View;
use crate::{
    config::SidecarIdentity,
    ebpf::{
        found,
        hooks::{CGROUP_HOOKS, INBOUND, INBOUND_CODE, is_known_to},
        layout::file_name,
        links::condition,
        maps::{Maps, open_pin},
        objects,
        version::program_id,
    },
    error::{Result, Tried as _},
    pod::{Netns, processes_below},
    sys::bpf::{self, Target},
};

/// One pod behind eBPF.
#[derive(Clone, Debug, Serialize)]
pub struct PodView {
    /// What people call it.
    pub name: String,
    /// Its network namespace.
    pub netns_cookie: u64,
    /// The kernel's number of its cgroup.
    pub cgroup: u64,
    /// Where that cgroup is; none where it is gone.
    pub cgroup_path: Option<PathBuf>,
    /// Whether other pods are in the same cgroup.
    pub shares_cgroup: bool,
    /// The version of the programs that run for it, in hexadecimal.
    pub version: String,
    /// Whether that is the version of the agent that asks.
    pub is_this_version: bool,
    /// The sidecar's user, as the initial user namespace numbers it; none where the programs don't know
    /// the pod.
    pub sidecar_uid: Option<u32>,
    /// The kernel's number of the sidecar's cgroup; none where that is not known.
    pub sidecar_cgroup: Option<u64>,
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// What it goes by; none where that can't be read.
    pub policy: Option<PolicyView>,
    /// The sidecar's listening sockets that are known.
    pub listeners: Listeners,
    /// How many connections there were of each reason, in the order of [`Reason::ALL`].
    #[serde(serialize_with = "by_name")]
    pub counters: Vec<(Reason, u64)>,
    /// Handshakes on their way and destinations that are known by an address.
    pub handshakes: u64,
    /// What keeps it from being intercepted whole, in words.
    pub problems: Vec<String>,
}

/// The policy in force for a pod.
#[derive(Clone, Debug, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each setting that is on or off"
)]
pub struct PolicyView {
    /// Its number; 0 for one without lists.
    pub id: u32,
    /// SHA-256 of its lists, in hexadecimal; none without lists.
    pub digest: Option<String>,
    /// Whether native IPv6 is intercepted.
    pub dual_stack: bool,
    /// Whether the sidecar's calls to the local host go to the pod's address.
    pub pod_ip: bool,
    /// Whether connections take the loopback shortcut.
    pub shortcut: bool,
    /// Whether the sidecar's ports are for the sidecar alone.
    pub reserved_port_guard: bool,
    /// By what the sidecar is to be known: `uid` or `uid-and-cgroup`.
    pub sidecar_identity: &'static str,
    /// How many ranges there are, exclusions and inclusions.
    pub ranges: usize,
    /// How many excluded outbound ports.
    pub outbound_ports: usize,
    /// How many excluded inbound ports.
    pub inbound_ports: usize,
    /// How many excluded interfaces the pod has.
    pub interfaces: usize,
}

/// How many listening sockets are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listeners {
    /// On port 15001.
    pub outbound: usize,
    /// On port 15003.
    pub inbound: usize,
}

/// How long lists are: ranges, outbound ports, inbound ports; by version and policy.
pub(super) type Sizes = HashMap<(u64, u32), [usize; 3]>;

impl PodView {
    /// Whether the sidecar is told from others of its user by its cgroup.
    #[must_use]
    pub fn goes_by_cgroup(&self) -> bool {
        let asks =
            |policy: &PolicyView| policy.sidecar_identity == SidecarIdentity::UidAndCgroup.name();
        self.sidecar_cgroup.is_some() && self.policy.as_ref().is_some_and(asks)
    }

    /// How many connections there were of one reason.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        let found = self.counters.iter().find(|(it, _)| *it == reason);
        found.map_or(0, |(_, count)| *count)
    }

    /// The processes of the pod; none where its cgroup is gone.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let Some(cgroup) = &self.cgroup_path else {
            return Ok(Vec::new());
        };
        processes_below(cgroup).tried(|| format!("list the processes of {}", cgroup.display()))
    }

    /// The pod's network namespace, by one of its processes; none where it has none there.
    ///
    /// # Errors
    /// Where its processes can't be listed.
    pub fn netns(&self) -> Result<Option<Netns>> {
        let processes = self.processes()?.into_iter();
        // A process that has just ended, or has another namespace of its own, says nothing.
        let mut opened =
            processes.filter_map(|pid| Netns::open(Path::new(&format!("/proc/{pid}/ns/net"))).ok());
        Ok(opened.find(|netns| netns.cookie().is_ok_and(|it| it == self.netns_cookie)))
    }
}

impl View {
    pub(super) fn look_at(&self, cookie: u64, record: &PodRecord) -> Result<PodView> {
        let mut problems = self.link_problems(cookie, record)?;
        let mut view = PodView {
            name: record.name().into(),
            netns_cookie: cookie,
            cgroup: record.cgroup(),
            cgroup_path: self.cgroup_path(record.cgroup()),
            shares_cgroup: record.shares_cgroup(),
            version: file_name(record.version()),
            is_this_version: record.version() == objects::version(),
            sidecar_uid: None,
            sidecar_cgroup: None,
            addresses: Vec::new(),
            policy: None,
            listeners: Listeners::default(),
            counters: self.counted(record.slot())?,
            handshakes: 0,
            problems: Vec::new(),
        };
        match self.maps_of(record) {
            Err(why) => problems.push(why),
            Ok(maps) => self.describe(maps, record, &mut view, &mut problems)?,
        }
        // The kernel detaches a link whose namespace is gone.
        let is_over = |problem: &String| problem.starts_with("the link inbound is detached");
        if problems.iter().any(is_over) && view.processes().is_ok_and(|it| it.is_empty()) {
            problems.retain(|problem| !is_over(problem));
            problems.push(
                "no process of it is left, and its network namespace is gone: it has ended".into(),
            );
        }
        view.problems = problems;
        Ok(view)
    }

    fn describe(
        &self,
        maps: &Maps,
        record: &PodRecord,
        view: &mut PodView,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let cookie = view.netns_cookie;
        view.listeners = self.listeners()?.get(&cookie).copied().unwrap_or_default();
        let handshakes = maps.handshakes_of_pod.get(&record.slot(), 0);
        view.handshakes = handshakes.tried(|| "read the map HANDSHAKES_OF_POD")?;
        let Some(entry) = maps.pod(cookie)? else {
            problems.push("its entry in the map PODS is missing".into());
            return Ok(());
        };
        view.sidecar_uid = Some(entry.sidecar_uid());
        view.sidecar_cgroup = entry.sidecar_cgroup();
        let own = [entry.address_v4(), entry.address_v6()];
        let own = own.into_iter().filter(|it| !it.is_unspecified());
        view.addresses = own.map(IpAddr::from).collect();
        for key in maps.locals.keys() {
            let key = key.tried(|| "read the map LOCALS")?;
            if key.netns_cookie() == cookie {
                view.addresses.push(key.address().into());
            }
        }
        let word = maps.policy(entry.slot())?;
        view.policy = Some(self.policy(maps, record.version(), cookie, word)?);
        Ok(())
    }

    fn policy(
        &self,
        maps: &Maps,
        version: u64,
        cookie: u64,
        word: PolicyWord,
    ) -> Result<PolicyView> {
        let id = word.id();
        let record = found(maps.policies.get(&id, 0)).tried(|| "read the map POLICIES")?;
        let hex = |byte: &u8| format!("{byte:02x}");
        let mut interfaces = 0;
        for key in maps.interfaces.keys() {
            let key = key.tried(|| "read the map INTERFACES")?;
            interfaces += usize::from(key.netns_cookie() == cookie && key.policy() == id);
        }
        let [ranges, outbound_ports, inbound_ports] = self
            .sizes()?
            .get(&(version, id))
            .copied()
            .unwrap_or_default();
        Ok(PolicyView {
            id,
            digest: record.map(|record| record.digest.iter().map(hex).collect()),
            dual_stack: word.has(PolicyWord::DUAL_STACK),
            pod_ip: word.has(PolicyWord::POD_IP),
            shortcut: word.has(PolicyWord::SHORTCUT),
            sidecar_identity: identity(word).name(),
            reserved_port_guard: !word.has(PolicyWord::OPEN_PORTS),
            ranges,
            outbound_ports,
            inbound_ports,
            interfaces,
        })
    }

    /// The lists of all policies are walked through once.
    pub(super) fn sizes(&self) -> Result<&Sizes> {
        if let Some(sizes) = self.sizes.get() {
            return Ok(sizes);
        }
        let mut sizes = Sizes::new();
        for (version, maps) in &self.versions {
            let Ok(maps) = maps else {
                continue;
            };
            for key in maps.ranges.keys() {
                let key = key.tried(|| "read the map RANGES")?;
                sizes.entry((*version, key.data().policy())).or_default()[0] += 1;
            }
            for entry in &maps.port_pages {
                let (key, page) = entry.tried(|| "read the map PORT_PAGES")?;
                let of = if key.is_for(Direction::Outbound) {
                    1
                } else {
                    2
                };
                sizes.entry((*version, key.policy())).or_default()[of] += page.len();
            }
        }
        Ok(self.sizes.get_or_init(|| sizes))
    }

    /// The sidecars' listeners of all pods, by netns cookie; walked through once. All versions share them.
    pub(super) fn listeners(&self) -> Result<&HashMap<u64, Listeners>> {
        if let Some(listeners) = self.listeners.get() {
            return Ok(listeners);
        }
        let mut listeners: HashMap<u64, Listeners> = HashMap::new();
        if let Some(maps) = self.maps().next() {
            for key in maps.listeners.keys() {
                let key = key.tried(|| "read the map LISTENERS")?;
                let known = listeners.entry(key.netns_cookie()).or_default();
                known.outbound += usize::from(key.is_for(Direction::Outbound));
                known.inbound += usize::from(key.is_for(Direction::Inbound));
            }
        }
        Ok(self.listeners.get_or_init(|| listeners))
    }

    pub(super) fn counted(&self, slot: u32) -> Result<Vec<(Reason, u64)>> {
        let counters = self.counters.get(&slot, 0);
        let counters = counters.tried(|| "read the map COUNTERS")?;
        let sum = |reason: &Reason| counters.iter().map(|cpu| cpu.0[*reason as usize]).sum();
        Ok(Reason::ALL.iter().map(|it| (*it, sum(it))).collect())
    }

    /// How the pod's links are, in words where one is not as it has to be.
    fn link_problems(&self, cookie: u64, record: &PodRecord) -> Result<Vec<String>> {
        let own = self.layout.pod(cookie);
        let of_cgroup = if record.shares_cgroup() {
            self.layout.cgroup(record.cgroup())
        } else {
            own.clone()
        };
        let programs = self.layout.version(record.version());
        let cgroup = Target::Cgroup(record.cgroup());
        let mut problems = Vec::new();
        let mut note = |name: &str, problem: Option<&str>| {
            let consequence = consequence(name);
            problems.extend(problem.map(|it| format!("the link {name} is {it}{consequence}")));
        };
        let is_here = record.version() == objects::version();
        for hook in &CGROUP_HOOKS {
            if !is_here && !is_known_to(&programs, hook.program) {
                continue;
            }
            let path = of_cgroup.join(hook.program);
            let wanted = program_id(&programs.join(hook.program));
            // A version whose pins are lost can't say which program it has to be.
            let is_ours = |program| wanted.is_none_or(|wanted| wanted == program);
            let is_target = |target: &Target| *target == cgroup;
            let (condition, _) = condition(&path, is_target, hook.attach_type, is_ours)?;
            note(hook.program, condition.problem());
        }
        let is_netns = |target: &Target| matches!(target, Target::Netns(_));
        let is_ours = |program| bpf::is_program_named(program, "inbound_lookup");
        let (condition, _) = condition(&own.join(INBOUND), is_netns, BPF_SK_LOOKUP, is_ours)?;
        note(INBOUND, condition.problem());
        if open_pin(&own.join(INBOUND_CODE))?.is_none() {
            note(INBOUND_CODE, Some("missing"));
        }
        Ok(problems)
    }
}

/// What becomes of connections without a link, where that is worse than that some are refused.
fn consequence(link: &str) -> &'static str {
    match link {
        "connect4" => ": outbound connections over IPv4 go around the sidecar",
        "connect6" => ": outbound connections from IPv6 sockets go around the sidecar",
        INBOUND => ": inbound connections go around the sidecar",
        _ => "",
    }
}

const fn identity(word: PolicyWord) -> SidecarIdentity {
    if word.has(PolicyWord::SIDECAR_CGROUP) {
        SidecarIdentity::UidAndCgroup
    } else {
        SidecarIdentity::Uid
    }
}

fn by_name<S: Serializer>(counters: &[(Reason, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(counters.len()))?;
    for (reason, count) in counters {
        map.serialize_entry(reason.name(), count)?;
    }
    map.end()
}
