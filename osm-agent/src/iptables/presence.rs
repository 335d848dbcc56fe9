//! Whether a backend has a table nat at all, in the namespace of the calling thread. No
//! program is started for it: most namespaces have none, and a node has hundreds of them.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

use super::{backend::Backend, rules::Family, target::proc_net};

/// `NFTA_TABLE_NAME` of `linux/netfilter/nf_tables.h`.
const TABLE_NAME: u16 = 1;

/// The length of `struct nfgenmsg`: family, version, and a number that only batches have.
const NFGENMSG: usize = 4;

/// Whether there may be rules. Where the kernel does not tell, there may: the tool will say.
pub(super) fn may_have_table(backend: Backend, family: Family) -> bool {
    match backend {
        Backend::Nft => has_nft_table(family).unwrap_or(true),
        // Asking iptables-legacy would make the table.
        Backend::Legacy => has_legacy_table(family),
    }
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

/// Asks for the table by its name. It takes `CAP_NET_ADMIN` over the namespace.
///
/// # Errors
/// Where the kernel says neither yes nor no.
fn has_nft_table(family: Family) -> io::Result<bool> {
    let answer = match ask(family) {
        // No netfilter in this kernel (socket(2)), or no nf_tables in it (`nfnetlink_rcv_msg`).
        Err(error) if is(&error, &[libc::EPROTONOSUPPORT]) => return Ok(false),
        answer => answer?,
    };
    match answer {
        NetlinkPayload::InnerMessage(Table { .. }) => Ok(true),
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

fn ask(family: Family) -> io::Result<NetlinkPayload<Table>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Table { family }));
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

/// A table nat: as a question whether it is there, and as the answer that it is.
#[derive(Debug)]
struct Table {
    family: Family,
}

impl Table {
    fn name() -> DefaultNla {
        DefaultNla::new(TABLE_NAME, b"nat\0".to_vec())
    }
}

impl NetlinkSerializable for Table {
    fn message_type(&self) -> u16 {
        message(libc::NFT_MSG_GETTABLE)
    }

    fn buffer_len(&self) -> usize {
        NFGENMSG + Self::name().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(NFGENMSG);
        header.fill(0);
        header[0] = number(self.family);
        Self::name().emit(attributes);
    }
}

impl NetlinkDeserializable for Table {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let is_table = header.message_type == message(libc::NFT_MSG_NEWTABLE);
        let mut families = Family::ALL.into_iter();
        families
            .find(|family| is_table && payload.first() == Some(&number(*family)))
            .map(|family| Self { family })
            .ok_or_else(|| "an answer that is no table".into())
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` of `linux/netfilter.h`.
const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
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
    fn table_of_one_family_is_seen_in_that_one_only() {
        let made = thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() || has_nft_table(Family::V4).is_err() {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            let seen = || Family::ALL.map(|family| has_nft_table(family).unwrap());
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
        });
        made.join().unwrap();
    }
}
