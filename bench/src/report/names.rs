//! What measurements are called where people read them.

/// Titles; a measurement without one goes by its name.
const TITLES: [(&str, &str); 22] = [
    ("connections-outbound", "Connections, outbound"),
    (
        "connections-outbound-cpu",
        "Connections, outbound: processor time of both ends for each",
    ),
    ("connections-inbound", "Connections, inbound over veth"),
    (
        "connections-inbound-cpu",
        "Connections, inbound over veth: processor time of both ends for each",
    ),
    (
        "connect-latency",
        "Latency of connect() at a share of the highest rate",
    ),
    ("requests", "Requests and responses"),
    (
        "requests-shortcut",
        "Requests and responses: share of bytes that took the shortcut",
    ),
    (
        "to-app-requests",
        "Requests and responses between sidecar and app, inbound side",
    ),
    (
        "to-app-streams",
        "Streams from sidecar to app, inbound side",
    ),
    (
        "to-app-requests-shortcut",
        "Requests between sidecar and app: share of bytes that took the shortcut",
    ),
    (
        "to-app-streams-cpu",
        "Streams from sidecar to app: processor time of both ends",
    ),
    (
        "to-app-streams-shortcut",
        "Streams from sidecar to app: share of bytes that took the shortcut",
    ),
    ("streams", "Streams"),
    ("streams-cpu", "Streams: processor time of both ends"),
    (
        "streams-shortcut",
        "Streams: share of bytes that took the shortcut",
    ),
    (
        "lists-connections-outbound",
        "Connections, outbound, with long lists",
    ),
    (
        "lists-connections-outbound-cpu",
        "Connections, outbound, with long lists: processor time of both ends for each",
    ),
    (
        "lists-connections-inbound",
        "Connections, inbound over veth, with long lists",
    ),
    (
        "lists-connections-inbound-cpu",
        "Connections, inbound over veth, with long lists: processor time of both ends for each",
    ),
    ("lists-requests", "Requests and responses, with long lists"),
    ("lists-streams", "One stream, with long lists"),
    (
        "lists-streams-cpu",
        "One stream, with long lists: processor time of both ends",
    ),
];

/// What people read for a measurement.
#[must_use]
pub fn title(measurement: &str) -> String {
    let known = TITLES.iter().find(|(name, _)| *name == measurement);
    if let Some((_, title)) = known {
        return (*title).to_owned();
    }
    let words = measurement.replace('-', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_of_unknown_measurement_is_its_name() {
        assert_eq!(title("requests"), "Requests and responses");
        assert_eq!(title("agent-memory"), "Agent memory");
        assert_eq!(title(""), "");
    }
}
