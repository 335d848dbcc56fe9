//! The items of the lists. Each reader returns the item, or what it expected instead.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const RANGE: &str = "a range as address/length, such as 10.0.0.0/8 or fd00::/8";
const PORT: &str = "a port from 1 to 65535";
const INTERFACE: &str = "the name of a network interface: 1 to 15 bytes, neither . nor .., \
                         without spaces, slashes, colons and control characters";

/// Where IPv4 begins among the 128-bit addresses, in bits: `::ffff:0:0/96`.
const V4_MAPPED_LENGTH: u8 = 96;

/// A range with its host bits cleared. One that lies in `::ffff:0:0/96` is the IPv4 range.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("address/length; for this one address write {text}/32"),
            Ok(IpAddr::V6(_)) => format!("address/length; for this one address write {text}/128"),
            Err(_) => RANGE.to_owned(),
        });
    };
    let address: IpAddr = address.parse().map_err(|_| RANGE.to_owned())?;
    let (longest, family) = match address {
        IpAddr::V4(_) => (32, "an IPv4"),
        IpAddr::V6(_) => (128, "an IPv6"),
    };
    decimal(length)
        .and_then(|length| u8::try_from(length).ok())
        .and_then(|length| IpNet::new(address, length).ok())
        .map(normal)
        .ok_or_else(|| {
            format!("{family} address and a length from 0 to {longest} without leading zeros")
        })
}

/// A port that stands in a text.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    decimal(text)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| PORT.to_owned())
}

/// A port that is a number of the file.
pub(super) fn port_number(number: i128) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| PORT.to_owned())
}

/// A port that is neither: the file's lists hold integers only, as in the resource's schema.
pub(super) fn port_expected() -> String {
    format!("{PORT}, as an integer without quotes")
}

/// The name of a network interface, by the kernel's own rule (`dev_valid_name`), but without
/// control characters.
pub(crate) fn interface(name: &str) -> Result<String, String> {
    let is_good = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control());
    if is_good {
        Ok(name.to_owned())
    } else {
        Err(interface_expected())
    }
}

/// An interface name that is not even text.
pub(super) fn interface_expected() -> String {
    INTERFACE.to_owned()
}

/// A range that is not even text.
pub(super) fn range_expected() -> String {
    RANGE.to_owned()
}

/// A number as people write it: digits only, and no zero in front of others.
fn decimal(text: &str) -> Option<u32> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

fn normal(range: IpNet) -> IpNet {
    let range = range.trunc();
    let IpNet::V6(v6) = range else { return range };
    mapped_v4(v6).map_or(range, IpNet::V4)
}

fn mapped_v4(range: Ipv6Net) -> Option<Ipv4Net> {
    let length = range.prefix_len().checked_sub(V4_MAPPED_LENGTH)?;
    let address = range.network().to_ipv4_mapped()?;
    Ipv4Net::new(address, length).ok()
}
