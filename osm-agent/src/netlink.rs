//! A pod's interfaces and routes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc::Sender,
};

use futures_util::stream::TryStreamExt as _;
use netlink_packet_route::{
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use osm_ebpf_common::address::Address;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::pod::inside;

/// What a network namespace has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Interfaces: name → number.
    pub interfaces: BTreeMap<String, u32>,
    /// The main table: (first address, length in the 128-bit form) → number of the interface
    /// that connections leave by. Of equal prefixes, the one the kernel prefers.
    pub routes: HashMap<(Address, u8), u32>,
}

/// Reads a network namespace.
///
/// # Errors
/// Where it can't be entered, or the kernel can't tell.
pub fn read(netns: &File) -> io::Result<Network> {
    inside(netns, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let network = dump(&handle).await.map_err(io::Error::other);
            connection.abort();
            network
        })
    })
}

/// Sends a message whenever an interface or a route of a network namespace may have changed,
/// until the receiver is gone.
///
/// # Errors
/// Where it can't be entered or listened to.
pub fn follow<T: Clone + Send + Sync>(netns: &File, changed: &T, to: &Sender<T>) -> io::Result<()> {
    inside(netns, || {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ] {
            socket.add_membership(group)?;
        }
        let mut message = Vec::with_capacity(64 << 10);
        loop {
            message.clear();
            match socket.recv(&mut message, 0) {
                // Messages were lost: what changed is read anew anyway.
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
                _ => {}
            }
            if to.send(changed.clone()).is_err() {
                return Ok(());
            }
        }
    })
}

async fn dump(handle: &Handle) -> Result<Network, rtnetlink::Error> {
    let mut network = Network::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                network.interfaces.insert(name, link.header.index);
            }
        }
    }
    let mut preferred: HashMap<(Address, u8), (u32, u32)> = HashMap::new();
    for wanted in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(wanted).execute();
        while let Some(route) = routes.try_next().await? {
            let Some(Route {
                to,
                priority,
                interface,
            }) = Route::from_message(&route)
            else {
                continue;
            };
            let best = preferred.entry(to).or_insert((priority, interface));
            if priority < best.0 {
                *best = (priority, interface);
            }
        }
    }
    network.routes = preferred
        .into_iter()
        .map(|(to, (_, interface))| (to, interface))
        .collect();
    Ok(network)
}

struct Route {
    to: (Address, u8),
    priority: u32,
    interface: u32,
}

impl Route {
    /// None for what is not an ordinary route of the main table. A route that leads nowhere,
    /// such as a blackhole, leaves by interface 0, which there is not.
    fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let is_v4 = header.address_family == netlink_packet_route::AddressFamily::Inet;
        let mut address = if is_v4 {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let (mut table, mut priority, mut interface) = (u32::from(header.table), 0, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = (*v4).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = (*v6).into(),
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => priority = *number,
                RouteAttribute::Oif(index) => interface = *index,
                RouteAttribute::MultiPath(hops) => {
                    interface = hops.first().map_or(0, |hop| hop.interface_index);
                }
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        if header.kind != RouteType::Unicast {
            interface = 0;
        }
        let length = header.destination_prefix_length + if is_v4 { 96 } else { 0 };
        Some(Self {
            to: (address.into(), length),
            priority,
            interface,
        })
    }
}
