//! TCP segments without payload, as Ethernet carries them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A hardware address.
pub type Mac = [u8; 6];

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const PROTOCOL_TCP: u8 = 6;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
}

impl Segment {
    /// The frame, from one hardware address to another. None where the families differ.
    pub fn frame(&self, from: Mac, to: Mac) -> Option<Vec<u8>> {
        let mut tcp = [0; TCP];
        tcp[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        // Its length in words, then flags and a window that nothing will fill.
        tcp[12] = 5 << 4;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        let (ethertype, ip, addresses) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                (ETHERTYPE_IPV4, ipv4(&addresses), addresses)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                (ETHERTYPE_IPV6, ipv6(&addresses), addresses)
            }
            _ => return None,
        };
        let pseudo = [0, PROTOCOL_TCP, 0, 20];
        let sum = checksum(&[&addresses, &pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum);
        Some([&to[..], &from, &ethertype, &ip, &tcp].concat())
    }

    /// Reads a frame; none where it is something else.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let ethertype = frame.get(12..ETHERNET)?;
        let ip = &frame[ETHERNET..];
        let (from, to, tcp) = if ethertype == ETHERTYPE_IPV4 {
            let length = usize::from(ip.first()? & 0xf) * 4;
            if *ip.get(9)? != PROTOCOL_TCP {
                return None;
            }
            let address = |at| {
                Some(IpAddr::V4(Ipv4Addr::from(
                    *ip.get(at..)?.first_chunk::<4>()?,
                )))
            };
            (address(12)?, address(16)?, ip.get(length..)?)
        } else if ethertype == ETHERTYPE_IPV6 {
            if *ip.get(6)? != PROTOCOL_TCP {
                return None;
            }
            let address = |at| {
                Some(IpAddr::V6(Ipv6Addr::from(
                    *ip.get(at..)?.first_chunk::<16>()?,
                )))
            };
            (address(8)?, address(24)?, ip.get(IPV6..)?)
        } else {
            return None;
        };
        let port = |at| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let number = |at| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        Some(Self {
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            sequence: number(4)?,
            acknowledged: number(8)?,
            flags: *tcp.get(13)?,
        })
    }
}

fn ipv4(addresses: &[u8]) -> Vec<u8> {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[3] = 40;
    // Not to be fragmented; 64 hops.
    header[6] = 0x40;
    header[8] = 64;
    header[9] = PROTOCOL_TCP;
    header[12..].copy_from_slice(addresses);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    header.to_vec()
}

fn ipv6(addresses: &[u8]) -> Vec<u8> {
    let mut header = [0; IPV6];
    header[0] = 0x60;
    header[5] = 20;
    header[6] = PROTOCOL_TCP;
    header[7] = 64;
    header[8..].copy_from_slice(addresses);
    header.to_vec()
}

/// RFC 1071, of parts that each have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str) -> Segment {
        Segment {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            sequence: 0x0102_0304,
            acknowledged: 0xfffe_fdfc,
            flags: SYN | ACK,
        }
    }

    #[test]
    fn frame_is_read_back() {
        for (from, to, length) in [
            ("192.0.2.254:40000", "10.0.0.2:80", 54),
            ("[2001:db8::fe]:40000", "[fd00::2]:80", 74),
        ] {
            let segment = segment(from, to);
            let frame = segment.frame([1; 6], [2; 6]).expect("one family");
            assert_eq!(frame.len(), length);
            assert_eq!(Segment::read(&frame), Some(segment));
        }
        let mixed = segment("192.0.2.254:40000", "[fd00::2]:80");
        assert_eq!(mixed.frame([1; 6], [2; 6]), None);
    }

    #[test]
    fn what_is_cut_off_or_no_tcp_is_not_read() {
        let segment = segment("192.0.2.254:40000", "10.0.0.2:80");
        let frame = segment.frame([1; 6], [2; 6]).expect("one family");
        for length in 0..ETHERNET + IPV4 + 14 {
            assert_eq!(Segment::read(&frame[..length]), None, "{length}");
        }
        let mut udp = frame;
        udp[ETHERNET + 9] = 17;
        assert_eq!(Segment::read(&udp), None);
    }

    #[test]
    fn checksum_is_that_of_rfc_1071() {
        // The RFC's own example: the words add up to ddf2.
        let sum = checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]);
        assert_eq!(sum, (!0xddf2_u16).to_be_bytes());
    }
}
