//! The pod's network, asked without any privilege.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use nix::ifaddrs::getifaddrs;
use procfs::net::TcpNetEntry;
use socket2::Domain;

use super::plan::Network;

/// The network namespace of this process.
#[derive(Debug)]
pub struct PodNetwork {
    own: Vec<IpAddr>,
    interfaces: HashMap<IpAddr, String>,
}

impl PodNetwork {
    /// As it is now, with these addresses of its own.
    pub fn new(own: Vec<IpAddr>) -> Self {
        let mut interfaces = HashMap::new();
        for it in getifaddrs().into_iter().flatten() {
            let Some(address) = it.address else { continue };
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()));
            if let Some(ip) = ip {
                interfaces.insert(ip, it.interface_name);
            }
        }
        Self { own, interfaces }
    }
}

impl Network for PodNetwork {
    fn own(&self) -> &[IpAddr] {
        &self.own
    }

    fn interface_towards(&self, to: IpAddr) -> Option<String> {
        let any: IpAddr = if to.is_ipv6() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // It looks for a route and sends nothing; the address tells the interface.
        socket.connect((to, 9)).ok()?;
        let from = socket.local_addr().ok()?.ip();
        Some(self.interfaces.get(&from).cloned().unwrap_or_default())
    }
}

/// The families that are intercepted.
pub const fn families(dual: bool) -> &'static [Domain] {
    if dual {
        &[Domain::IPV4, Domain::IPV6]
    } else {
        &[Domain::IPV4]
    }
}

/// The TCP sockets of the network namespace.
pub fn sockets() -> Vec<TcpNetEntry> {
    let mut all = procfs::net::tcp().unwrap_or_default();
    all.extend(procfs::net::tcp6().unwrap_or_default());
    all
}
