//! The standard scene: a pod and an outside.
//!
//! ```text
//!  pod (netns, cgroup with app/ and sidecar/)        outside (netns)
//!  eth0 10.77.1.2/24, fd77:1::2/64  ────veth────  pod1 10.77.1.1/24, fd77:1::1/64
//!  default route via 10.77.1.1, fd77:1::1         lo   REMOTE_V4, REMOTE_V6
//! ```
//!
//! Every world is alone with its addresses, so that all have the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use crate::actor::{Actor, Place};
use crate::cgroup::Cgroup;
use crate::client::Client;
use crate::need::{Need, missing};
use crate::netns::{Netns, Veth, flags, has_ipv6};
use crate::process::unique_name;

/// The UID of applications.
pub const APP_UID: u32 = 1000;

/// The UID of sidecars.
pub const SIDECAR_UID: u32 = 1500;

/// IPv4 addresses of the outside, as far as a pod can see remote hosts (RFC 5737).
pub const REMOTE_V4: [&str; 4] = [
    "198.51.100.10",
    "198.51.100.11",
    "203.0.113.7",
    "192.0.2.20",
];

/// IPv6 addresses of the outside (RFC 3849).
pub const REMOTE_V6: [&str; 2] = ["2001:db8::10", "2001:db8::11"];

/// An IPv4 address whose packets the outside drops in silence.
pub const BLACKHOLE: &str = "192.0.2.66";

/// A pod and what it can reach. More pods can join.
#[derive(Debug)]
pub struct World {
    /// The pod.
    pub pod: Pod,
    /// Everything else.
    pub outside: Outside,
    pods: AtomicU16,
}

impl World {
    /// Makes it; none where the test has to be skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        if missing(&[Need::Root, Need::CgroupV2, Need::Program("ip")]) {
            return None;
        }
        let outside = Outside::new();
        Some(Self {
            pod: Pod::new(&outside.netns, 1, Cgroup::new()),
            outside,
            pods: AtomicU16::new(2),
        })
    }

    /// Another pod, numbered on: 10.77.2.2, 10.77.3.2 …, 10.77.255.2, 10.101.0.2 … The pods reach each other.
    #[must_use]
    pub fn add_pod(&self) -> Pod {
        self.add_pod_in(Cgroup::new())
    }

    /// Another pod, whose cgroup this is.
    #[must_use]
    pub fn add_pod_in(&self, cgroup: Cgroup) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        Pod::new(&self.outside.netns, number, cgroup)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let (pod, outside) = (self.pod.netns.path(), self.outside.netns.path());
        eprintln!("the pod:     nsenter --net={}", pod.display());
        eprintln!("its cgroup:  {}", self.pod.cgroup.path().display());
        eprintln!("the outside: nsenter --net={}", outside.display());
        match std::env::var("OSM_TEST_HOLD").map(|it| it.parse()) {
            Ok(Ok(seconds)) => {
                eprintln!("kept for {seconds} s");
                thread::sleep(Duration::from_secs(seconds));
            }
            _ => eprintln!("gone by now; OSM_TEST_HOLD=600 keeps them for ten minutes"),
        }
    }
}

/// An address of a pod's network, 10.77.0.0/24 and so on.
fn address_v4(pod: u16, host: u8) -> Ipv4Addr {
    let [block, third] = pod.to_be_bytes();
    let second = if block == 0 { 77 } else { 100 + block };
    Ipv4Addr::new(10, second, third, host)
}

/// Likewise of fd77::/64 and so on.
const fn address_v6(pod: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, pod, 0, 0, 0, 0, 0, host)
}

/// A pod: a network namespace, a cgroup, and processes in both.
#[derive(Debug)]
pub struct Pod {
    // Children go before their parent.
    app_cgroup: Cgroup,
    sidecar_cgroup: Cgroup,
    /// The pod's cgroup.
    pub cgroup: Cgroup,
    /// The pod's network namespace.
    pub netns: Netns,
    name: String,
    number: u16,
}

impl Pod {
    fn new(outside: &Netns, number: u16, cgroup: Cgroup) -> Self {
        let netns = Netns::new();
        // As container runtimes do: applications bind port 80 without privilege.
        netns.sysctl("net/ipv4/ip_unprivileged_port_start", "0");
        let [near4, far4] = [2, 1].map(|host| address_v4(number, host));
        let [near6, far6] = [2, 1].map(|host| address_v6(number, host));
        let _ = Veth::new((&netns, "eth0"), (outside, &format!("pod{number}"))).addresses(&[
            (&format!("{near4}/24"), &format!("{far4}/24")),
            (&format!("{near6}/64"), &format!("{far6}/64")),
        ]);
        netns.ip(&[format!("route add default via {far4}")]);
        if has_ipv6() {
            netns.ip(&[format!("route add ::/0 via {far6}")]);
        }
        Self {
            app_cgroup: cgroup.child("app"),
            sidecar_cgroup: cgroup.child("sidecar"),
            cgroup,
            netns,
            name: unique_name(),
            number,
        }
    }

    /// Its unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ip4(&self) -> IpAddr {
        address_v4(self.number, 2).into()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ip6(&self) -> IpAddr {
        address_v6(self.number, 2).into()
    }

    /// The cgroup of the application's processes.
    #[must_use]
    pub fn app_cgroup(&self) -> &Cgroup {
        &self.app_cgroup
    }

    /// The cgroup of the sidecar's processes.
    #[must_use]
    pub fn sidecar_cgroup(&self) -> &Cgroup {
        &self.sidecar_cgroup
    }

    /// Where a user's processes live: the sidecar's in its cgroup, all others with the application.
    #[must_use]
    pub fn place(&self, uid: u32) -> Place<'_> {
        let cgroup = match uid {
            SIDECAR_UID => &self.sidecar_cgroup,
            _ => &self.app_cgroup,
        };
        Place {
            netns: &self.netns,
            cgroup: Some(cgroup),
            uid: Some(uid),
        }
    }

    /// An application that makes connections.
    #[must_use]
    #[track_caller]
    pub fn app(&self) -> Client {
        self.client(APP_UID)
    }

    /// A client with the sidecar's UID.
    #[must_use]
    #[track_caller]
    pub fn sidecar_client(&self) -> Client {
        self.client(SIDECAR_UID)
    }

    /// A client with the sidecar's UID in the application's container.
    #[must_use]
    #[track_caller]
    pub fn stranger(&self) -> Client {
        let place = Place {
            netns: &self.netns,
            cgroup: Some(&self.app_cgroup),
            uid: Some(SIDECAR_UID),
        };
        Client::start("stranger", &place)
    }

    /// A client with any UID.
    #[must_use]
    #[track_caller]
    pub fn client(&self, uid: u32) -> Client {
        Client::start(&format!("pod client {uid}"), &self.place(uid))
    }

    /// The sidecar, on 0.0.0.0:15001 and 0.0.0.0:15003.
    #[must_use]
    #[track_caller]
    pub fn sidecar(&self) -> Actor {
        self.sidecar_with(&[])
    }

    /// The sidecar with flags of `actor sidecar`.
    #[must_use]
    #[track_caller]
    pub fn sidecar_with(&self, flags: &[&str]) -> Actor {
        let args = [&["sidecar"], flags].concat();
        Actor::start("sidecar", &self.place(SIDECAR_UID), &args)
    }

    /// An application that serves: `["127.0.0.1:80", "[::]:80,v6only"]`.
    #[must_use]
    #[track_caller]
    pub fn server(&self, role: &str, listen: &[&str]) -> Actor {
        serve(role, &self.place(APP_UID), listen)
    }

    /// The same as a part of the sidecar, such as for its metrics: on ports that are for the sidecar alone.
    #[must_use]
    #[track_caller]
    pub fn sidecar_server(&self, role: &str, listen: &[&str]) -> Actor {
        serve(role, &self.place(SIDECAR_UID), listen)
    }

    /// One more network interface of the pod: `10.78.<number>.2/24`, with the outside at `.1`.
    #[track_caller]
    pub fn add_interface(&self, outside: &Outside, name: &str, number: u8) {
        let peer = format!("p{}-{name}", self.number);
        let (near, far) = (
            format!("10.78.{number}.2/24"),
            format!("10.78.{number}.1/24"),
        );
        let _ = Veth::new((&self.netns, name), (&outside.netns, &peer)).addresses(&[(&near, &far)]);
    }
}

/// All that is not the pod: remote servers and clients.
#[derive(Debug)]
pub struct Outside {
    /// Its network namespace.
    pub netns: Netns,
}

impl Outside {
    fn new() -> Self {
        let netns = Netns::new();
        netns.sysctl("net/ipv4/ip_forward", "1");
        let v6 = if has_ipv6() {
            netns.sysctl("net/ipv6/conf/all/forwarding", "1");
            &REMOTE_V6[..]
        } else {
            &[]
        };
        let addresses: Vec<_> = REMOTE_V4
            .iter()
            .chain(v6)
            .map(|address| format!("addr add {address} dev lo{}", flags(address)))
            .collect();
        netns.ip(&addresses);
        netns.ip(&[format!("route add blackhole {BLACKHOLE}")]);
        Self { netns }
    }

    /// Where its processes live.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        Place {
            netns: &self.netns,
            cgroup: None,
            uid: None,
        }
    }

    /// A remote server; pods reach it at [`REMOTE_V4`] and [`REMOTE_V6`].
    #[must_use]
    #[track_caller]
    pub fn server(&self, role: &str, listen: &[&str]) -> Actor {
        serve(role, &self.place(), listen)
    }

    /// A remote client. [`crate::Dial::bind`] gives it one of the remote addresses.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::start("outside client", &self.place())
    }
}

fn serve(role: &str, place: &Place<'_>, listen: &[&str]) -> Actor {
    let mut args = vec!["serve", "--role", role];
    for address in listen {
        match address.strip_prefix("udp:") {
            Some(address) => args.extend(["--udp", address]),
            None => args.extend(["--listen", address]),
        }
    }
    Actor::start(role, place, &args)
}
