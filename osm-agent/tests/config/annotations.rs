//! What a pod's annotations mean, and how they join the mesh's lists.

use osm_agent::config::{ANNOTATIONS, Lists, unknown_list_annotations};
use rstest::rstest;

use super::{annotated, ranges};

#[test]
fn annotations_are_read_beside_others() {
    let lists = annotated(&[
        ("openservicemesh.io/sidecar-injection", "enabled"),
        (
            "openservicemesh.io/outbound-ip-range-exclusion-list",
            "0.0.0.0/0, 10.1.2.3/8,fd00::/8",
        ),
        (
            "openservicemesh.io/outbound-ip-range-inclusion-list",
            "1.1.1.1/32",
        ),
        (
            "openservicemesh.io/outbound-port-exclusion-list",
            " 80 ,\t443,80\n",
        ),
        ("openservicemesh.io/inbound-port-exclusion-list", "6379"),
        ("inbound-port-exclusion-list", "not ours"),
    ]);
    assert_eq!(
        lists.unwrap(),
        Lists {
            outbound_ranges_excluded: ranges(&["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"]),
            outbound_ranges_included: ranges(&["1.1.1.1/32"]),
            outbound_ports_excluded: [80, 443].into(),
            inbound_ports_excluded: [6379].into(),
        }
    );
}

#[rstest]
#[case::empty("", 1, "empty")]
#[case::blank(" \t", 1, "empty")]
#[case::empty_item("80,,81", 2, "empty")]
#[case::trailing_comma("80,", 2, "empty")]
#[case::too_high("80,70000", 2, "\"70000\"")]
#[case::zero("0", 1, "\"0\"")]
#[case::leading_zero("080", 1, "\"080\"")]
#[case::signed("+80", 1, "\"+80\"")]
#[case::span("80-90", 1, "\"80-90\"")]
#[case::semicolon("80;81", 1, "\"80;81\"")]
#[case::service_name("1, 2, http", 3, "\"http\"")]
#[case::other_digits("٨٠", 1, "\"٨٠\"")]
fn bad_annotation_item_is_named(#[case] value: &str, #[case] item: usize, #[case] found: &str) {
    let key = "openservicemesh.io/outbound-port-exclusion-list";
    assert_eq!(
        annotated(&[(key, value)]),
        Err(format!(
            "annotation {key}: item {item} is {found}; expected a port from 1 to 65535"
        ))
    );
}

#[test]
fn annotation_given_twice_is_refused() {
    let twice = [(ANNOTATIONS[2], "80"), ("a", "b"), (ANNOTATIONS[2], "80")];
    let message = "annotation openservicemesh.io/outbound-port-exclusion-list: is given twice; \
                   expected one value with all items";
    assert_eq!(annotated(&twice), Err(message.to_owned()));
}

#[test]
fn misspelt_list_annotation_is_found() {
    let misspelt = "openservicemesh.io/outbound-ports-exclusion-list";
    let keys = ANNOTATIONS.into_iter().chain([
        misspelt,
        "openservicemesh.io/sidecar-injection",
        "example.org/outbound-port-exclusion-list",
    ]);
    assert_eq!(
        unknown_list_annotations(keys).collect::<Vec<_>>(),
        [misspelt]
    );
}

#[test]
fn union_holds_each_item_once() {
    let lists = |range: &str, port: u16| Lists {
        outbound_ranges_excluded: ranges(&["10.0.0.0/8", range]),
        outbound_ranges_included: ranges(&[range]),
        outbound_ports_excluded: [80, port].into(),
        inbound_ports_excluded: [port].into(),
    };
    let both = lists("1.1.1.1/32", 1).union(&lists("2.2.2.2/32", 2));
    assert_eq!(
        both,
        Lists {
            outbound_ranges_excluded: ranges(&["10.0.0.0/8", "1.1.1.1/32", "2.2.2.2/32"]),
            outbound_ranges_included: ranges(&["1.1.1.1/32", "2.2.2.2/32"]),
            outbound_ports_excluded: [1, 2, 80].into(),
            inbound_ports_excluded: [1, 2].into(),
        }
    );
}
