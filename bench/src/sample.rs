//! What a measurement yields.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One reading. Readings of the same measurement, setting and variant are one figure, of which
/// the median and the spread are reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured, such as `connections-outbound`.
    pub measurement: String,
    /// The setting it was measured at, such as `ranges=1000`; empty where there is one only.
    pub setting: String,
    /// How the traffic went, or what did the work.
    pub variant: Variant,
    /// The unit of `value`, such as `1/s`, `µs`, `bytes`.
    pub unit: String,
    /// The reading.
    pub value: f64,
    /// Which way is better.
    pub better: Better,
}

/// How the traffic went, or what did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Straight to the sidecar's port, nothing attached: the limit.
    Direct,
    /// Intercepted by eBPF.
    Ebpf,
    /// Intercepted by eBPF, bytes handed over between the sockets.
    EbpfShortcut,
    /// Intercepted by the chains, written by iptables-legacy.
    IptablesLegacy,
    /// Intercepted by the chains, written by iptables-nft.
    IptablesNft,
}

impl Variant {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Direct,
        Self::Ebpf,
        Self::EbpfShortcut,
        Self::IptablesLegacy,
        Self::IptablesNft,
    ];

    /// Whether it is intercepted by chains.
    #[must_use]
    pub fn is_iptables(self) -> bool {
        matches!(self, Self::IptablesLegacy | Self::IptablesNft)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Ebpf => "eBPF",
            Self::EbpfShortcut => "eBPF+shortcut",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
        })
    }
}

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Rates.
    Higher,
    /// Times, memory.
    Lower,
}
