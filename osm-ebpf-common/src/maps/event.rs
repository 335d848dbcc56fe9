//! What becomes of connections, for who listens.

use crate::{address::Address, decision::Direction, reason::Reason};

/// The words of the map `MONITOR`, by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MonitorWord {
    /// Until when somebody listens: nanoseconds of `CLOCK_BOOTTIME`, or 0. A time, so that a monitor that
    /// is killed does not leave the programs telling for ever.
    Until = 0,
    /// How many events found no room, since the map was made.
    Lost = 1,
}

impl MonitorWord {
    /// How many there are.
    pub const COUNT: usize = 2;

    /// Its index in the map.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

/// What became of one connection, as a program saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    time: u64,
    netns_cookie: u64,
    ends: Ends,
    slot: u32,
    reason: u32,
    caller: Caller,
}

impl Event {
    /// `time` is in nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        time: u64,
        netns_cookie: u64,
        slot: u32,
        reason: Reason,
        ends: Ends,
        caller: Caller,
    ) -> Self {
        Self {
            time,
            netns_cookie,
            ends,
            slot,
            reason: reason as u32,
            caller,
        }
    }

    /// When it was decided, in nanoseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// The pod.
    #[must_use]
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The pod's index in the arrays.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// Why; `None` where a program knows a reason that this one does not.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let index = usize::try_from(self.reason).ok()?;
        Reason::ALL.get(index).copied()
    }

    /// Who connects to what.
    #[must_use]
    pub const fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Who called connect(); `None` where nobody of the pod did.
    #[must_use]
    pub const fn caller(&self) -> Option<&Caller> {
        if self.caller.process == 0 {
            None
        } else {
            Some(&self.caller)
        }
    }
}

/// Who connects to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ends {
    destination: Address,
    client: Address,
    port: u16,
    client_port: u16,
    direction: u16,
    _padding: u16,
}

impl Ends {
    /// A connection that the pod makes, to what it dialled.
    #[inline(always)]
    #[must_use]
    pub const fn outbound(destination: Address, port: u16) -> Self {
        Self {
            destination,
            client: Address::UNSPECIFIED_V6,
            port,
            client_port: 0,
            direction: Direction::Outbound as u16,
            _padding: 0,
        }
    }

    /// A connection to an address of the pod.
    #[inline(always)]
    #[must_use]
    pub const fn inbound(destination: Address, port: u16) -> Self {
        let mut ends = Self::outbound(destination, port);
        ends.direction = Direction::Inbound as u16;
        ends
    }

    /// The same, where it is known from where it comes.
    #[inline(always)]
    #[must_use]
    pub const fn from(mut self, client: Address, port: u16) -> Self {
        self.client = client;
        self.client_port = port;
        self
    }

    /// Seen from the pod.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.direction == Direction::Inbound as u16 {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }

    /// What was dialled.
    #[must_use]
    pub const fn destination(&self) -> Address {
        self.destination
    }

    /// The port that was dialled, host byte order.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From where it comes, address and port; `None` where that was not known yet.
    #[must_use]
    pub const fn client(&self) -> Option<(Address, u16)> {
        if self.client_port == 0 {
            None
        } else {
            Some((self.client, self.client_port))
        }
    }
}

/// The process that called connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Caller {
    process: u32,
    user: u32,
    command: [u8; 16],
}

impl Caller {
    /// Nobody.
    pub const NONE: Self = Self {
        process: 0,
        user: 0,
        command: [0; 16],
    };

    /// Process and user as the initial namespaces number them.
    #[inline(always)]
    #[must_use]
    pub const fn new(process: u32, user: u32, command: [u8; 16]) -> Self {
        Self {
            process,
            user,
            command,
        }
    }

    /// The process, as the initial namespace numbers it.
    #[must_use]
    pub const fn process(&self) -> u32 {
        self.process
    }

    /// The user, as the initial namespace numbers it.
    #[must_use]
    pub const fn user(&self) -> u32 {
        self.user
    }

    /// What the thread calls itself, up to 15 bytes: of anybody's choice.
    #[must_use]
    pub fn command(&self) -> &[u8] {
        let mut names = self.command.split(|byte| *byte == 0);
        names.next().unwrap_or_default()
    }
}

const _: () = {
    assert!(size_of::<Event>() == 88 && align_of::<Event>() == 8);
    assert!(size_of::<Ends>() == 40 && size_of::<Caller>() == 24);
};
