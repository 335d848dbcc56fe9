//! What an init container is told: by flags, by its environment, by a file.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    path::Path,
};

use ipnet::IpNet;

use crate::{
    config::{InterceptionMode, Lists, MeshConfig, item, quote},
    error::{Error, Result},
    policy::Policy,
};

/// A list, as the flags and the environment name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Ranges that are not intercepted.
    OutboundRangesExcluded,
    /// If there are any: the only ranges that are intercepted.
    OutboundRangesIncluded,
    /// Ports that the pod reaches directly.
    OutboundPortsExcluded,
    /// Ports on which the pod is reached directly.
    InboundPortsExcluded,
    /// Interfaces whose traffic is left alone.
    InterfacesExcluded,
}

impl List {
    /// Every list.
    pub const ALL: [Self; 5] = [
        Self::OutboundRangesExcluded,
        Self::OutboundRangesIncluded,
        Self::OutboundPortsExcluded,
        Self::InboundPortsExcluded,
        Self::InterfacesExcluded,
    ];

    /// The flag that adds to it.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::OutboundRangesExcluded => "--outbound-ip-range-exclusion-list",
            Self::OutboundRangesIncluded => "--outbound-ip-range-inclusion-list",
            Self::OutboundPortsExcluded => "--outbound-port-exclusion-list",
            Self::InboundPortsExcluded => "--inbound-port-exclusion-list",
            Self::InterfacesExcluded => "--network-interface-exclusion-list",
        }
    }

    /// The environment variable that adds to it.
    #[must_use]
    pub fn variable(self) -> String {
        let name = self.flag().trim_start_matches('-').replace('-', "_");
        format!("OSM_{}", name.to_ascii_uppercase())
    }
}

/// The environment, in which an empty value is none: so templates of pods write a list that
/// has no items.
#[derive(Clone, Debug, Default)]
pub struct Environment(HashMap<OsString, OsString>);

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl Environment {
    /// The value of a variable.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.0.get(OsStr::new(name)) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) if text.trim().is_empty() => Ok(None),
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::input(name, "is not UTF-8", "write it as text")),
        }
    }

    /// What a flag says, or else a variable.
    ///
    /// # Errors
    /// Where the variable says what is not `expected`.
    pub fn or<T>(
        &self,
        flag: Option<T>,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let (None, Some(text)) = (&flag, self.text(name)?) else {
            return Ok(flag);
        };
        parse(text.trim()).map(Some).ok_or_else(|| {
            let problem = format!("is {}", quote(&text));
            Error::input(name, problem, format!("expected {expected}"))
        })
    }
}

/// All that was said, parsed.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The mesh, and what flags and environment add to its lists.
    pub mesh: MeshConfig,
    /// Whether native IPv6 is intercepted as well.
    pub dual_stack: bool,
}

impl Settings {
    /// Starts with what a file says, if there is one.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let mesh = file.map(MeshConfig::read).transpose()?;
        Ok(Self {
            mesh: mesh.unwrap_or_default(),
            dual_stack: false,
        })
    }

    /// Adds the items of a text, between commas, to a list. `source` is what errors call it.
    ///
    /// # Errors
    /// The first item that is empty or not what it should be.
    pub fn add(&mut self, list: List, source: &str, text: &str) -> Result<()> {
        let lists = &mut self.mesh.lists;
        let ranges = |into: &mut BTreeSet<IpNet>| extend(into, source, text, item::range);
        let ports = |into: &mut BTreeSet<u16>| extend(into, source, text, item::port);
        match list {
            List::OutboundRangesExcluded => ranges(&mut lists.outbound_ranges_excluded),
            List::OutboundRangesIncluded => ranges(&mut lists.outbound_ranges_included),
            List::OutboundPortsExcluded => ports(&mut lists.outbound_ports_excluded),
            List::InboundPortsExcluded => ports(&mut lists.inbound_ports_excluded),
            List::InterfacesExcluded => {
                let into = &mut self.mesh.excluded_interfaces;
                extend(into, source, text, item::interface)
            }
        }
    }

    /// By which means to intercept, unless something else is asked for.
    #[must_use]
    pub const fn mode(&self) -> InterceptionMode {
        self.mesh.interception_mode
    }

    /// The lists.
    #[must_use]
    pub const fn lists(&self) -> &Lists {
        &self.mesh.lists
    }

    /// The policy that all of it makes.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::of_pod(&self.mesh, &Lists::default(), self.dual_stack)
    }
}

fn extend<T: Ord>(
    into: &mut BTreeSet<T>,
    source: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<()> {
    for (index, item) in text.split(',').map(str::trim).enumerate() {
        let item = read(item).map_err(|expected| {
            let found = if item.is_empty() {
                "empty".to_owned()
            } else {
                quote(item)
            };
            Error::input(
                source,
                format!("item {} is {found}", index + 1),
                format!("expected {expected}"),
            )
        })?;
        into.insert(item);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(value: &str) -> Environment {
        [("OSM_MODE".into(), value.into())].into_iter().collect()
    }

    #[test]
    fn variables_are_named_as_documented() {
        let names = List::ALL.map(List::variable);
        assert_eq!(
            names,
            [
                "OSM_OUTBOUND_IP_RANGE_EXCLUSION_LIST",
                "OSM_OUTBOUND_IP_RANGE_INCLUSION_LIST",
                "OSM_OUTBOUND_PORT_EXCLUSION_LIST",
                "OSM_INBOUND_PORT_EXCLUSION_LIST",
                "OSM_NETWORK_INTERFACE_EXCLUSION_LIST",
            ]
        );
    }

    #[test]
    fn empty_variable_is_not_set() {
        for value in ["", "  ", "\n"] {
            let text = environment(value).text("OSM_MODE");
            assert_eq!(text.expect("it is UTF-8"), None, "{value:?}");
        }
        let number = environment("").or(None, "OSM_MODE", "a number", number);
        assert_eq!(number.expect("it is not read"), None);
    }

    fn number(text: &str) -> Option<u8> {
        text.parse().ok()
    }

    #[test]
    fn flag_beats_variable_and_bad_variable_is_named() {
        let flag = environment("7").or(Some(3), "OSM_MODE", "a number", number);
        assert_eq!(flag.expect("a number"), Some(3));
        let variable = environment(" 7 ").or(None, "OSM_MODE", "a number", number);
        assert_eq!(variable.expect("a number"), Some(7));
        let error = environment("x").or(None, "OSM_MODE", "a number", number);
        let error = error.expect_err("no number").to_string();
        assert_eq!(error, "OSM_MODE: is \"x\"; expected a number");
    }

    #[test]
    fn lists_of_all_sources_are_joined() {
        let mut settings = Settings::default();
        for (source, text) in [("--flag", "80, 443"), ("VARIABLE", "443,8080")] {
            let added = settings.add(List::OutboundPortsExcluded, source, text);
            added.expect("ports");
        }
        let ports: Vec<_> = settings.lists().outbound_ports_excluded.iter().collect();
        assert_eq!(ports, [&80, &443, &8080]);
    }

    #[test]
    fn bad_item_is_named_with_its_source() {
        for (list, text, words) in [
            (List::OutboundPortsExcluded, "80,,81", "item 2 is empty"),
            (List::OutboundPortsExcluded, "70000", "item 1 is \"70000\""),
            (List::OutboundRangesExcluded, "10.0.0.0/99", "10.0.0.0/99"),
            (List::InterfacesExcluded, "eth0,a b", "item 2 is \"a b\""),
            (List::InboundPortsExcluded, "", "item 1 is empty"),
        ] {
            let error = Settings::default().add(list, "--some-list", text);
            let error = error.expect_err("a bad item").to_string();
            assert!(error.starts_with("--some-list: "), "{error}");
            assert!(error.contains(words), "{error}");
            assert!(error.contains("; expected "), "{error}");
        }
    }
}
