//! Whether a backend has a table nat at all, or a chain of ours in it, in the namespace of the
//! calling thread. No program is started for it: most namespaces have none, and a node has
//! hundreds of them.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

use super::{
    backend::Backend,
    rules::{CHAINS, Family},
    target::proc_net,
};

/// `NFTA_TABLE_NAME` and `NFTA_CHAIN_TABLE` of `linux/netfilter/nf_tables.h`.
const TABLE_NAME: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME: u16 = 3;

/// The length of `struct nfgenmsg`: family, version, and a number that only batches have.
const NFGENMSG: usize = 4;

/// Whether there may be rules. Where the kernel does not tell, there may: the tool will say.
pub(super) fn may_have_table(backend: Backend, family: Family) -> bool {
    match backend {
        Backend::Nft => has_nft(family, None).unwrap_or(true),
        // Asking iptables-legacy would make the table.
        Backend::Legacy => has_legacy_table(family),
    }
}

/// Whether nft's table nat holds a chain by a name of ours, by whomever it was made.
///
/// # Errors
/// Where the kernel says neither yes nor no.
pub(super) fn has_nft_chains(family: Family) -> io::Result<bool> {
    for chain in CHAINS {
        if has_nft(family, Some(chain))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_legacy_table(family: Family) -> bool {
    let name = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    match proc_net(name) {
        Ok(tables) => tables.lines().any(|table| table == "nat"),
        // Without the file the kernel has no iptables-legacy, as yet.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Asks for the table, or a chain of it, by its name. It takes `CAP_NET_ADMIN` over the namespace.
///
/// # Errors
/// Where the kernel says neither yes nor no.
fn has_nft(family: Family, chain: Option<&'static str>) -> io::Result<bool> {
    let answer = match ask(Place { family, chain }) {
        // No netfilter in this kernel (socket(2)), or no nf_tables in it (`nfnetlink_rcv_msg`).
        Err(error) if is(&error, &[libc::EPROTONOSUPPORT]) => return Ok(false),
        answer => answer?,
    };
    match answer {
        NetlinkPayload::InnerMessage(Present) => Ok(true),
        NetlinkPayload::Error(error) => match error.to_io() {
            error if is(&error, &[libc::ENOENT, libc::EINVAL, libc::EOPNOTSUPP]) => Ok(false),
            error => Err(error),
        },
        other => Err(io::Error::other(format!("an odd answer: {other:?}"))),
    }
}

fn is(error: &io::Error, numbers: &[i32]) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

fn ask(about: Place) -> io::Result<NetlinkPayload<Present>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(about));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_NETFILTER)?;
    // The answer is there as soon as the question is sent.
    socket.set_non_blocking(true)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
    Ok(answer.payload)
}

/// The question whether there is a table nat, or a chain in it.
struct Place {
    family: Family,
    chain: Option<&'static str>,
}

/// The answer that it is there. It describes it; nothing of that is needed.
#[derive(Debug)]
struct Present;

impl Place {
    fn attributes(&self) -> Vec<DefaultNla> {
        let names = [(TABLE_NAME, Some("nat")), (CHAIN_NAME, self.chain)];
        names
            .into_iter()
            .filter_map(|(kind, name)| Some(DefaultNla::new(kind, format!("{}\0", name?).into())))
            .collect()
    }
}

impl NetlinkSerializable for Place {
    fn message_type(&self) -> u16 {
        message(match self.chain {
            None => libc::NFT_MSG_GETTABLE,
            Some(_) => libc::NFT_MSG_GETCHAIN,
        })
    }

    fn buffer_len(&self) -> usize {
        NFGENMSG + self.attributes().as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(NFGENMSG);
        header.fill(0);
        // `NFPROTO_IPV4` and `NFPROTO_IPV6` of `linux/netfilter.h`.
        header[0] = match self.family {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        self.attributes().as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Present {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, _: &[u8]) -> Result<Self, DecodeError> {
        let known = [libc::NFT_MSG_NEWTABLE, libc::NFT_MSG_NEWCHAIN].map(message);
        if known.contains(&header.message_type) {
            Ok(Self)
        } else {
            Err(DecodeError::from("an answer to another question"))
        }
    }
}

/// A message's number, behind that of its subsystem.
fn message(of_nftables: libc::c_int) -> u16 {
    u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | of_nftables).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use std::{process::Command, thread};

    use super::*;

    #[test]
    fn table_and_chain_of_one_family_are_seen_in_that_one_only() {
        let made = thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() || has_nft(Family::V4, None).is_err() {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            let seen = || Family::ALL.map(|family| has_nft(family, None).unwrap());
            assert_eq!(seen(), [false, false]);
            for (tool, expected) in [
                ("ip6tables-nft", [false, true]),
                ("iptables-nft", [true, true]),
            ] {
                // The table filter says nothing of nat.
                for (table, expected) in [("filter", None), ("nat", Some(expected))] {
                    let before = seen();
                    let args = ["-t", table, "-A", "OUTPUT", "-j", "ACCEPT"];
                    match Command::new(tool).args(args).output() {
                        Ok(output) => assert!(output.status.success(), "{output:?}"),
                        Err(error) => return println!("skipped: {tool}: {error}"),
                    }
                    assert_eq!(seen(), expected.unwrap_or(before), "{tool} {table}");
                }
            }
            let chains = || Family::ALL.map(|family| has_nft_chains(family).unwrap());
            assert_eq!(chains(), [false, false]);
            for (chain, expected) in [("PROXY_OTHER", false), ("PROXY_OUTPUT", true)] {
                let args = ["-t", "nat", "-N", chain];
                let made = Command::new("ip6tables-nft").args(args).status().unwrap();
                assert!(made.success());
                assert_eq!(chains(), [false, expected]);
            }
        });
        made.join().unwrap();
    }
}
