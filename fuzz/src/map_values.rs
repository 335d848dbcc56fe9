//! Bytes of maps: what another version, or whoever may write to the maps, left there.

use osm_agent::monitor::show::Format;
use osm_ebpf_common::{
    maps::{Event, Meta, PodRecord, State},
    read_value,
};

use super::LONGEST_MESSAGE;

/// Reads them as every value that the agent reads whatever made it.
pub fn run(input: &[u8]) {
    if let Some(record) = read_value::<PodRecord>(input) {
        let name = record.name();
        assert!(name.len() <= PodRecord::MAX_NAME);
        if let Some(again) = PodRecord::new(name, record.cgroup()) {
            let again = again
                .with_slot(record.slot())
                .with_version(record.version())
                .with_shared_cgroup(record.shares_cgroup());
            assert_eq!(again.name(), name);
            assert_eq!(again.slot(), record.slot());
            assert_eq!(again.shares_cgroup(), record.shares_cgroup());
        }
    }
    // Of another size it is not of this layout.
    assert_eq!(
        read_value::<State>(input).is_some(),
        input.len() == size_of::<State>()
    );
    assert_eq!(
        read_value::<Meta>(input).is_some(),
        input.len() == size_of::<Meta>()
    );
    if let Some(event) = Event::read(input) {
        for format in [Format::Table, Format::Json] {
            let line = osm_agent::fuzzed::shown(&event, format);
            let line = line.strip_suffix('\n').expect("it is a line");
            assert!(line.len() <= LONGEST_MESSAGE, "{line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
            if format == Format::Json {
                let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(told["netns_cookie"], event.netns_cookie());
            }
        }
    }
}
