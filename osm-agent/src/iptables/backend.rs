//! Which of the two iptables is the one to use. Pure.

use std::fmt;

use crate::error::{Error, Result};

/// One of the two iptables that Linux has. Their rules do not see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// iptables-nft, over `nf_tables`.
    Nft,
    /// iptables-legacy, over `x_tables`.
    Legacy,
}

impl Backend {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// What its tools' names end with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables-{}", self.name())
    }
}

/// What a backend's tables hold in a namespace, over all families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rules of ours.
    pub ours: bool,
    /// Rules or chains of others.
    pub others: bool,
}

/// Which one to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Use(Backend),
    /// Neither is in use: nft if this kernel takes a rule of it, else legacy.
    NftIfItWorks,
}

/// Chooses: the one that has rules of ours; else the one that others use. `nft` and `legacy`
/// say what they hold, none where a tool is not installed.
///
/// # Errors
/// Where others use both: whichever we take, the other one's rules decide as well.
pub fn choose(nft: Option<Found>, legacy: Option<Found>) -> Result<Choice> {
    use Backend::{Legacy, Nft};
    let (nft, legacy) = match (nft, legacy) {
        (Some(nft), Some(legacy)) => (nft, legacy),
        (_, None) => return Ok(Choice::Use(Nft)),
        (None, _) => return Ok(Choice::Use(Legacy)),
    };
    let choice = match (nft.ours, legacy.ours) {
        (true, false) => Choice::Use(Nft),
        (false, true) => Choice::Use(Legacy),
        _ => match (nft.others, legacy.others) {
            (false, true) => Choice::Use(Legacy),
            (true, false) => Choice::Use(Nft),
            // With rules of ours in both, the preferred one.
            _ if nft.ours => Choice::Use(Nft),
            (true, true) => return Err(both_in_use()),
            (false, false) => Choice::NftIfItWorks,
        },
    };
    Ok(choice)
}

fn both_in_use() -> Error {
    Error::System {
        tried: "choose between iptables-nft and iptables-legacy".into(),
        source: "both hold nat rules of other programs in this network namespace".into(),
        advice: "; say which is to hold osm-agent's: --iptables-backend nft or legacy".into(),
    }
}
