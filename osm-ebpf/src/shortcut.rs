//! The loopback shortcut: what app and sidecar send each other goes from socket to socket, not by way of
//! TCP.
//!
//! A reader takes what was handed over first, and then what came by TCP. So a direction may go from
//! the shortcut to TCP at any time, and never back: what went by TCP would be overtaken. It goes by TCP
//! where the reader is too far behind, which only TCP can make the writer feel, and where a socket was told
//! to do what only TCP can do.
//!
//! Both ends join, or none: for a socket in the map the kernel answers some questions otherwise, so that
//! it has to be worth it. One that may block does not join: while it waits, the kernel wakes it for
//! reasons that TCP would keep to itself.

use osm_ebpf_common::{
    address::Address,
    maps::{
        AppCalls, HandshakeKey, MAX_MESSAGES, MAX_UNREAD, OriginalDestination, ShortcutEnd,
        ShortcutKey, ShortcutPair, ShortcutSocket, SocketLayout,
    },
};

use crate::{
    kernel::{self, Message, Operation, Socket, SocketAddress, peek, peek_wide},
    maps::{SHORTCUT_APPS, SHORTCUT_PAIRS, SOCKET_LAYOUT},
};

/// `BPF_SOCK_OPS_RTT_CB_FLAG`.
const REPORT_ROUND_TRIPS: u32 = 1 << 3;

/// What is remembered of a connection that the pod makes: with the shortcut, if it may take that. One of
/// MPTCP may not: its bytes are sent by another socket.
#[inline(always)]
#[must_use]
pub fn marked(
    ctx: SocketAddress,
    socket: Socket,
    dialled: OriginalDestination,
) -> OriginalDestination {
    match layout() {
        Some(layout) if !ctx.is_mptcp() && is_fit(socket, layout) == Some(true) => {
            dialled.by_shortcut()
        }
        _ => dialled,
    }
}

/// The same for one of the sidecar to its app, where what listens there is fit for it too.
#[inline(always)]
#[must_use]
pub fn marked_to_app(
    ctx: SocketAddress,
    socket: Socket,
    dialled: OriginalDestination,
    address: Address,
) -> Option<OriginalDestination> {
    let marked = marked(ctx, socket, dialled);
    if !marked.is_by_shortcut() {
        return None;
    }
    let listener = ctx.find_listener(address, dialled.port())?;
    let is_fit = layout().and_then(|layout| is_fit(listener.socket(), layout));
    listener.release();
    if is_fit != Some(true) {
        return None;
    }
    let app = HandshakeKey::of_app(ctx.netns_cookie(), address, dialled.port());
    match calls_of(&app) {
        Some(AppCalls::NEVER_BLOCK) => Some(marked.to_app()),
        Some(_) => None,
        None => Some(dialled.to_app()),
    }
}

/// The sidecar's connection to an app of which nothing is known yet is established, at the app's end. A
/// listener whose calls do not block may still accept sockets whose calls do; how this one is used will be
/// known when it has answered.
#[inline(always)]
pub fn watch(operation: Operation) {
    operation.report_events(operation.reported_events() | REPORT_ROUND_TRIPS);
}

/// The app's first answer has arrived at the sidecar.
#[inline(always)]
pub fn answered(operation: Operation) {
    // What watches for more than this is somebody else.
    let (Some(socket), Some(layout)) = (operation.socket(), layout()) else {
        return;
    };
    if !operation.remote_address().is_loopback() {
        return;
    }
    operation.report_events(operation.reported_events() & !REPORT_ROUND_TRIPS);
    let app = HandshakeKey::of_app(
        operation.netns_cookie(),
        operation.local_address(),
        operation.local_port(),
    );
    let calls = match is_fit(socket, layout) {
        Some(true) => AppCalls::NEVER_BLOCK,
        Some(false) => AppCalls::MAY_BLOCK,
        // It is closed already, or not accepted yet: nothing was seen.
        None => return,
    };
    // Once one was seen to block, it stays so.
    if calls_of(&app) != Some(AppCalls::MAY_BLOCK) {
        let _ = SHORTCUT_APPS.insert(app, calls, 0);
    }
}

/// Whether a socket took the shortcut with a connection that it had before. The kernel keeps what was handed over and
/// not read, and would give it to the reader of the next one.
#[inline(always)]
#[must_use]
pub fn was_taken(socket: Socket) -> bool {
    layout().is_some()
        && socket
            .shortcut()
            // SAFETY: storage stays until the program ends.
            .is_some_and(|shortcut| unsafe { shortcut.as_ref() }.other.is_set())
}

/// A connection of the pod is established, at the end that dialled.
#[inline(always)]
pub fn dialled(
    operation: Operation,
    socket: Socket,
    connection: HandshakeKey,
    dialled: &OriginalDestination,
) {
    // Bytes went with the SYN.
    if operation.data_segments_sent() != 0 {
        return;
    }
    let pair = ShortcutPair {
        dialling: socket.place(),
        accepting: 0,
    };
    let me = Joining {
        connection,
        end: ShortcutEnd::Dialling,
        other_socket: 0,
        is_other_the_app: dialled.is_to_app(),
    };
    if SHORTCUT_PAIRS.insert(connection, pair, 0).is_ok() && !join(operation, socket, &me) {
        forget(&connection);
    }
}

/// The same connection is established, at the end that accepts.
#[inline(always)]
pub fn accepted(operation: Operation, connection: HandshakeKey, dialled: &OriginalDestination) {
    let (Some(socket), Some(pair)) = (operation.socket(), SHORTCUT_PAIRS.get_ptr_mut(connection))
    else {
        return;
    };
    // SAFETY: an element stays readable until the program ends; this is written once, before.
    let other_socket = unsafe { (*pair).dialling };
    let end = ShortcutEnd::Accepting;
    let me = Joining {
        connection,
        end,
        other_socket,
        is_other_the_app: !dialled.is_to_app(),
    };
    if join(operation, socket, &me) {
        // SAFETY: as above.
        let accepting = unsafe { &raw mut (*pair).accepting };
        if kernel::exchange(accepting, socket.place()) != ShortcutPair::TOO_LATE {
            return;
        }
        kernel::drop_from_shortcut(&ShortcutKey::new(connection, end));
    }
    // The one does not join without the other.
    kernel::drop_from_shortcut(&ShortcutKey::new(connection, ShortcutEnd::Dialling));
    forget(&connection);
}

/// The dialling end is closed, or has nothing more to say.
#[inline(always)]
pub fn forget(connection: &HandshakeKey) {
    let _ = SHORTCUT_PAIRS.remove(connection);
}

/// A socket that takes the shortcut is about to send.
#[inline(always)]
pub fn send(message: Message) {
    let Some(socket) = message.socket() else {
        return;
    };
    let Some(mut shortcut) = socket.shortcut() else {
        return;
    };
    // SAFETY: storage stays until the program ends. Two threads that send on one socket at once run one
    // after the other here, as the socket is locked.
    let shortcut = unsafe { shortcut.as_mut() };
    if shortcut.is_by_tcp != 0 {
        return;
    }
    if !is_possible(message, shortcut) || !message.hand_over(&mut shortcut.other) {
        shortcut.is_by_tcp = 1;
    }
}

/// One end of a connection, as it joins.
struct Joining {
    connection: HandshakeKey,
    end: ShortcutEnd,
    other_socket: u64,
    is_other_the_app: bool,
}

/// Puts one end where the other one finds it.
#[inline(always)]
fn join(operation: Operation, socket: Socket, me: &Joining) -> bool {
    let other = match me.end {
        ShortcutEnd::Dialling => ShortcutEnd::Accepting,
        ShortcutEnd::Accepting => ShortcutEnd::Dialling,
    };
    let Ok(mut shortcut) = socket.make_shortcut() else {
        return false;
    };
    // SAFETY: storage stays until the program ends, and nobody else has this socket's before it is
    // established.
    let shortcut = unsafe { shortcut.as_mut() };
    // Field by field: a copy of the whole would be a loop over bytes, and the verifier does not let the
    // bytes of a pointer be read one by one ("invalid size of register fill").
    shortcut.other = ShortcutKey::new(me.connection, other);
    shortcut.other_socket = me.other_socket;
    shortcut.own_socket = socket.place();
    shortcut.first_byte = operation.next_sequence_number();
    shortcut.messages = 0;
    shortcut.is_by_tcp = 0;
    shortcut.is_other_the_app = u32::from(me.is_other_the_app);
    operation.keep_for_shortcut(ShortcutKey::new(me.connection, me.end))
}

/// Whether a message may be handed over: nothing of this direction is or was on its way by TCP, both
/// sockets are fit for it, and the reader is not too far behind.
#[inline(always)]
fn is_possible(message: Message, shortcut: &mut ShortcutSocket) -> bool {
    let Some(layout) = layout() else {
        return false;
    };
    if shortcut.other_socket == 0 {
        shortcut.other_socket = place_of_other(shortcut);
    }
    let (own, other) = (shortcut.own_socket, shortcut.other_socket);
    if shortcut.is_other_the_app != 0 && other != 0 && may_block(other, layout) == Some(true) {
        if shortcut.other.is_accepting() {
            let app = shortcut.other.connection().app();
            let _ = SHORTCUT_APPS.insert(app, AppCalls::MAY_BLOCK, 0);
        }
        return false;
    }
    if other == 0
        || peek(own, layout.write_seq) != Some(shortcut.first_byte)
        || !is_plain(own, layout)
        || peek_wide(other, layout.upper_protocol) != Some(0)
        || peek(other, layout.low_water).is_none_or(|bytes| bytes > 1)
    {
        return false;
    }
    let Some(unread) = peek(other, layout.unread) else {
        return false;
    };
    shortcut.messages = if unread == 0 {
        1
    } else {
        shortcut.messages + 1
    };
    if unread == 0 {
        return true;
    }
    unread <= MAX_UNREAD.saturating_sub(message.size())
        && shortcut.messages <= MAX_MESSAGES
        && has_memory(other, layout)
}

/// Whether TCP does not take too much of the machine's memory already.
#[inline(always)]
fn has_memory(place: u64, layout: &SocketLayout) -> bool {
    let pressure = peek_wide(place, layout.protocol)
        .and_then(|protocol| peek_wide(protocol, layout.pressure))
        .and_then(|pressure| peek_wide(pressure, 0));
    pressure == Some(0)
}

/// Where the other end is, at the first message of the end that dialled; 0 where it has not joined,
/// and then it never does.
#[inline(always)]
fn place_of_other(shortcut: &ShortcutSocket) -> u64 {
    let connection = shortcut.other.connection();
    let Some(pair) = SHORTCUT_PAIRS.get_ptr_mut(connection) else {
        return 0;
    };
    // SAFETY: an element stays readable until the program ends.
    let accepting = unsafe { &raw mut (*pair).accepting };
    let place = kernel::exchange(accepting, ShortcutPair::TOO_LATE);
    if place <= ShortcutPair::TOO_LATE {
        return 0;
    }
    forget(&connection);
    place
}

/// Whether a socket's owner does with it what the shortcut does as TCP does; none where nobody has it.
#[inline(always)]
fn is_fit(socket: Socket, layout: &SocketLayout) -> Option<bool> {
    let mut shortcut = socket.make_shortcut().ok()?;
    // SAFETY: storage stays until the program ends. What is written is the same whoever writes it.
    let shortcut = unsafe { shortcut.as_mut() };
    shortcut.own_socket = socket.place();
    // Read anew, as a number.
    // SAFETY: as above.
    let place = unsafe { (&raw const shortcut.own_socket).read_volatile() };
    let may_block = may_block(place, layout)?;
    Some(is_plain(place, layout) && !may_block)
}

/// Whether nothing was asked of a sender that only TCP can do.
#[inline(always)]
fn is_plain(place: u64, layout: &SocketLayout) -> bool {
    peek_wide(place, layout.flags).is_some_and(|flags| flags & layout.ruling_out == 0)
        && peek_wide(place, layout.upper_protocol) == Some(0)
}

/// Whether calls on a socket may block; none where nobody can call: it is not accepted yet, or closed.
#[inline(always)]
fn may_block(place: u64, layout: &SocketLayout) -> Option<bool> {
    const O_NONBLOCK: u32 = 0o4000;
    let socket = peek_wide(place, layout.socket).filter(|socket| *socket != 0)?;
    let file = peek_wide(socket, layout.file).filter(|file| *file != 0)?;
    Some(peek(file, layout.file_flags).is_none_or(|flags| flags & O_NONBLOCK == 0))
}

#[inline(always)]
fn calls_of(app: &HandshakeKey) -> Option<AppCalls> {
    let calls = SHORTCUT_APPS.get_ptr(app)?;
    // SAFETY: an element stays readable until the program ends.
    Some(unsafe { calls.read() })
}

#[inline(always)]
fn layout() -> Option<&'static SocketLayout> {
    // As long as the kernel does not do the shortcut right, nothing is known.
    SOCKET_LAYOUT.get(0).filter(|layout| layout.is_known != 0)
}
