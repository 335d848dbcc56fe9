//! Which rule made a verdict, and whose.

use std::fmt::Write as _;

use osm_ebpf_common::{
    decision::{Direction, Verdict},
    maps::{Origin, RangeEntry},
    reason::Reason,
};
use serde::Serialize;

use super::{Question, meant};
use crate::{
    config::ANNOTATIONS,
    ebpf::view::{Asked, RangeItem},
    error::Result,
};

/// What made a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// In words.
    pub text: String,
    /// The item of a list that decided; none where no list did.
    pub item: Option<String>,
    /// Where that item is written: fields of the `MeshConfig`, annotations of the pod.
    pub written_in: Vec<&'static str>,
}

/// A list that both mesh and pod have: the field of the one and the annotation of the other.
#[derive(Clone, Copy)]
struct List {
    field: &'static str,
    annotation: &'static str,
}

const EXCLUDED_RANGES: List = List {
    field: "spec.traffic.outboundIPRangeExclusionList",
    annotation: ANNOTATIONS[0],
};
const INCLUDED_RANGES: List = List {
    field: "spec.traffic.outboundIPRangeInclusionList",
    annotation: ANNOTATIONS[1],
};
const OUTBOUND_PORTS: List = List {
    field: "spec.traffic.outboundPortExclusionList",
    annotation: ANNOTATIONS[2],
};
const INBOUND_PORTS: List = List {
    field: "spec.traffic.inboundPortExclusionList",
    annotation: ANNOTATIONS[3],
};

impl List {
    fn written_in(self, origin: Origin) -> Vec<&'static str> {
        let both = [(Origin::MESH, self.field), (Origin::POD, self.annotation)];
        let both = both.into_iter().filter(|(one, _)| origin.has(*one));
        both.map(|(_, place)| place).collect()
    }
}

impl Rule {
    /// The rule by which a verdict was given.
    pub(super) fn of(asked: &Asked<'_>, question: Question, verdict: Verdict) -> Result<Self> {
        let destination = meant(question.destination().ip());
        let port = question.destination().port();
        let range = |list, text| -> Result<Self> {
            let item = asked.range_item(&destination)?;
            Ok(Self::of_range(list, item, text))
        };
        let of_port = |list, direction, text: &str| -> Result<Self> {
            let origin = asked.port_origin(direction, port)?;
            Ok(Self::new(
                text,
                Some(port.to_string()),
                List::written_in(list, origin),
            ))
        };
        match verdict.reason() {
            Reason::PassExcludedRange => {
                range(EXCLUDED_RANGES, "an excluded range holds the destination")
            }
            Reason::PassNotIncluded => Ok(Self::new(
                "there are inclusion ranges of this family, and none holds the destination",
                None,
                vec![INCLUDED_RANGES.field, INCLUDED_RANGES.annotation],
            )),
            Reason::PassExcludedPort => of_port(
                OUTBOUND_PORTS,
                Direction::Outbound,
                "the destination's port is excluded",
            ),
            Reason::PassExcludedInboundPort => of_port(
                INBOUND_PORTS,
                Direction::Inbound,
                "the pod's port is excluded from inbound interception",
            ),
            Reason::PassExcludedInterface => Ok(Self::new(
                "it goes by an excluded interface",
                None,
                vec!["spec.traffic.networkInterfaceExclusionList"],
            )),
            Reason::RedirectOutbound => {
                let item = asked.range_item(&destination)?;
                let included = item.filter(|it| it.entry.kind() == RangeEntry::INCLUDED);
                Ok(match included {
                    Some(item) => Self::of_range(
                        INCLUDED_RANGES,
                        Some(item),
                        "an inclusion range holds the destination, and nothing excludes it",
                    ),
                    None => Self::new("nothing excludes it", None, Vec::new()),
                })
            }
            reason => Ok(Self::new(without_lists(reason), None, Vec::new())),
        }
    }

    fn of_range(list: List, item: Option<RangeItem>, text: &str) -> Self {
        let written_in = item.map_or_else(Vec::new, |it| list.written_in(it.entry.origin()));
        Self::new(text, item.map(range_text), written_in)
    }

    fn new(text: &str, item: Option<String>, written_in: Vec<&'static str>) -> Self {
        Self {
            text: text.into(),
            item,
            written_in,
        }
    }

    /// All of it in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.text.clone();
        // Writing to a string does not fail.
        if let Some(item) = &self.item {
            let _ = write!(text, ": {item}");
        }
        if !self.written_in.is_empty() {
            let _ = write!(text, " ({})", self.written_in.join(", "));
        }
        text
    }
}

/// As people write it.
fn range_text(item: RangeItem) -> String {
    let v4_length = item.length.checked_sub(96).filter(|_| item.address.is_v4());
    let length = v4_length.unwrap_or(item.length);
    format!("{}/{length}", item.address)
}

/// The rules that come before all lists.
const fn without_lists(reason: Reason) -> &'static str {
    match reason {
        Reason::RedirectInbound => "nothing excludes it",
        Reason::RedirectSidecarToPod => {
            "the sidecar calls an address of the pod: that goes to its own inbound listener"
        }
        Reason::PassSidecar => "the caller is the sidecar's user",
        Reason::PassLocal => "it stays inside the pod",
        Reason::PassReservedPort => "the port is the sidecar's, for probes or metrics",
        Reason::PassOtherFamily => "it is native IPv6, and only IPv4 is intercepted for this pod",
        Reason::PassUnroutable => {
            "no TCP connection can be made to a multicast or broadcast address"
        }
        Reason::PassSidecarToPodAddress => {
            "the sidecar calls the local host, and spec.sidecar.localProxyMode is PodIP"
        }
        // Those of lists are told above, and no decision gives the others.
        _ => "",
    }
}
