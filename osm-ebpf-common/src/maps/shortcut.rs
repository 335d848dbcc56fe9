//! The loopback shortcut: which sockets hand bytes to each other, and what the programs have to know of
//! the kernel's sockets for it.

use super::HandshakeKey;

/// How many bytes one end may leave unread before its connection goes on by TCP, which makes the writer
/// wait. Somewhat more than a writer can write before the scheduler lets the reader run.
pub const MAX_UNREAD: u32 = 64 << 20;
/// How many messages may be handed over since all were last seen to be read: each of them costs
/// the kernel up to a kibibyte that no limit of a socket counts.
pub const MAX_MESSAGES: u32 = 4096;

/// One end of a connection that takes the shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ShortcutKey {
    connection: HandshakeKey,
    end: u32,
    _padding: u32,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ShortcutEnd {
    /// Who called connect().
    Dialling = 1,
    /// Who called accept().
    Accepting = 2,
}

impl ShortcutKey {
    /// `connection` as the handshake knew it.
    #[inline(always)]
    #[must_use]
    pub const fn new(connection: HandshakeKey, end: ShortcutEnd) -> Self {
        Self {
            connection,
            end: end as u32,
            _padding: 0,
        }
    }

    /// Whether it is an end at all, and not the zeros that memory begins with.
    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.end != 0
    }

    /// Whether it is the end that accepted.
    #[inline(always)]
    #[must_use]
    pub const fn is_accepting(&self) -> bool {
        self.end == ShortcutEnd::Accepting as u32
    }

    /// The connection.
    #[inline(always)]
    #[must_use]
    pub const fn connection(&self) -> HandshakeKey {
        self.connection
    }
}

/// What is remembered on a socket that takes the shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ShortcutSocket {
    /// The other end.
    pub other: ShortcutKey,
    /// Where the kernel keeps the other end's socket; 0 while that is not known.
    pub other_socket: u64,
    /// Where the kernel keeps this one. From here it is a number to the verifier; from a context it is a
    /// pointer, with which it lets nobody reckon.
    pub own_socket: u64,
    /// The sequence number of the first byte after the handshake. That the socket's next one is another
    /// shows that bytes went by TCP.
    pub first_byte: u32,
    /// The messages handed over since all were last seen to be read.
    pub messages: u32,
    /// Whether it goes by TCP from now on: 1, or 0.
    pub is_by_tcp: u32,
    /// Whether the other end is the app's: 1, or 0 for the sidecar's, whose calls never block.
    pub is_other_the_app: u32,
}

/// Where the kernel keeps the sockets of both ends, until the dialling one has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ShortcutPair {
    /// Of the end that dialled.
    pub dialling: u64,
    /// Of the end that accepted; 0 while it has not, and [`Self::TOO_LATE`] once the dialling end has sent
    /// its first bytes by TCP.
    pub accepting: u64,
}

impl ShortcutPair {
    /// No place where a socket could be.
    pub const TOO_LATE: u64 = 1;
}

/// What was seen of the connections that an app's listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct AppCalls(u32);

impl AppCalls {
    /// Calls on them never blocked: those to come may take the shortcut.
    pub const NEVER_BLOCK: Self = Self(1);
    /// Calls on one of them may have.
    pub const MAY_BLOCK: Self = Self(2);
}

/// Where the fields of the kernel's sockets are, in bytes from the start of `struct sock`. All zero:
/// the shortcut is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketLayout {
    /// `tcp_sock.write_seq`, 32 bits.
    pub write_seq: u32,
    /// `sock.sk_backlog.rmem_alloc`, 32 bits.
    pub unread: u32,
    /// `sock.sk_rcvlowat`, 32 bits.
    pub low_water: u32,
    /// `sock.sk_flags`, 64 bits.
    pub flags: u32,
    /// The bits of `sk_flags` that rule the shortcut out.
    pub ruling_out: u64,
    /// `inet_connection_sock.icsk_ulp_ops`, 64 bits.
    pub upper_protocol: u32,
    /// `sock.sk_socket`, 64 bits.
    pub socket: u32,
    /// `socket.file`, 64 bits, from the start of `struct socket`.
    pub file: u32,
    /// `file.f_flags`, 32 bits, from the start of `struct file`.
    pub file_flags: u32,
    /// 1 where all of this is known.
    pub is_known: u32,
    /// `sock.sk_prot`, 64 bits.
    pub protocol: u32,
    /// `proto.memory_pressure`, 64 bits, from the start of `struct proto`: where the kernel says whether TCP
    /// takes too much of the machine's memory.
    pub pressure: u32,
    /// For later.
    pub reserved: [u32; 2],
}

const _: () = {
    assert!(size_of::<ShortcutKey>() == 40);
    assert!(size_of::<ShortcutSocket>() == 72);
    assert!(size_of::<ShortcutPair>() == 16 && size_of::<AppCalls>() == 4);
    assert!(size_of::<SocketLayout>() == 64);
};
