//! What became of connections to a socket of the agent, to be counted.

/// What became of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered; what the loop said is the loop's to count.
    Answered,
    /// The answer was ready, and the peer was gone.
    Left,
    /// The loop did not answer in time.
    Late,
    /// The loop is gone.
    Stopping,
    /// The peer is in a PID namespace that the agent can't see into.
    Invisible,
    /// The peer ended before it was known who it is.
    Vanished,
    /// The peer is no pod's process.
    NoPod,
    /// The peer may not ask here.
    Forbidden,
    /// All connections are taken.
    Full,
    /// The pod has as many connections as it may.
    PodFull,
    /// More requests than the agent takes.
    Flood,
    /// More requests of the pod than the agent takes.
    PodFlood,
    /// The request did not arrive in time.
    Slow,
    /// The request is too long.
    TooLong,
    /// The peer closed before its request was whole.
    Incomplete,
    /// The request is not of this protocol.
    Garbage,
    /// The request is of another version.
    OtherVersion,
    /// The kernel did not hand the connection over.
    NotAccepted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Answered,
        Self::Left,
        Self::Late,
        Self::Stopping,
        Self::Invisible,
        Self::Vanished,
        Self::NoPod,
        Self::Forbidden,
        Self::Full,
        Self::PodFull,
        Self::Flood,
        Self::PodFlood,
        Self::Slow,
        Self::TooLong,
        Self::Incomplete,
        Self::Garbage,
        Self::OtherVersion,
        Self::NotAccepted,
    ];

    /// Its name, as metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Left => "left",
            Self::Late => "late",
            Self::Stopping => "stopping",
            Self::Invisible => "invisible",
            Self::Vanished => "vanished",
            Self::NoPod => "no_pod",
            Self::Forbidden => "forbidden",
            Self::Full => "full",
            Self::PodFull => "pod_full",
            Self::Flood => "flood",
            Self::PodFlood => "pod_flood",
            Self::Slow => "slow",
            Self::TooLong => "too_long",
            Self::Incomplete => "incomplete",
            Self::Garbage => "garbage",
            Self::OtherVersion => "other_version",
            Self::NotAccepted => "not_accepted",
        }
    }
}

/// Why a peer gets no answer of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub outcome: Outcome,
    /// What the peer is told.
    pub text: String,
}

impl Refusal {
    pub fn new(outcome: Outcome, text: impl Into<String>) -> Self {
        Self {
            outcome,
            text: text.into(),
        }
    }
}
