//! TCP segments that no socket sends.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// A SYN with its checksum (RFC 9293, 3.1); IPv4 only.
#[must_use]
pub fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("IPv4 only")
    };
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let mut summed = Vec::new();
    summed.extend(from.ip().octets());
    summed.extend(to.ip().octets());
    summed.extend([0, 6, 0, 20]);
    summed.extend(&segment);
    let sum: u32 = summed
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("16 bits");
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// The same with the IPv4 header before it (RFC 791), for who claims to be somebody else. Its checksum is left to
/// the kernel (raw(7)).
#[must_use]
pub fn packet_with_syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    const LENGTH: u8 = 40;
    let mut packet = vec![0x45, 0, 0, LENGTH, 0, 0, 0, 0, 64, 6, 0, 0];
    let octets = |ip: &Ipv4Addr| ip.octets();
    packet.extend(octets(from.ip()));
    packet.extend(octets(to.ip()));
    packet.extend(syn(from.into(), to.into()));
    packet
}
