//! What a pod says of itself: its annotations.

use std::collections::{BTreeSet, HashSet};

use super::{
    error::{self, Error, quote},
    item,
    lists::Lists,
};

pub(super) const EXCLUDED_RANGES: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
pub(super) const INCLUDED_RANGES: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";
pub(super) const EXCLUDED_OUTBOUND_PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
pub(super) const EXCLUDED_INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";

/// The keys that [`Lists::from_annotations`] reads.
pub const ANNOTATIONS: [&str; 4] = [
    EXCLUDED_RANGES,
    INCLUDED_RANGES,
    EXCLUDED_OUTBOUND_PORTS,
    EXCLUDED_INBOUND_PORTS,
];

impl Lists {
    /// Reads a pod's annotations, pairs of key and value. Those that are not in
    /// [`ANNOTATIONS`] are left alone, as a pod has many.
    ///
    /// A value is a list with commas and, where wanted, spaces around the items.
    ///
    /// # Errors
    ///
    /// [`Error::Annotation`] if an item is empty (which the only item of an empty value is) or
    /// is not a range or port; [`Error::DuplicateAnnotation`] if a key comes twice.
    pub fn from_annotations<K, V>(
        annotations: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Error>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut lists = Self::default();
        let mut seen = HashSet::new();
        for (key, value) in annotations {
            let (key, value) = (key.as_ref(), value.as_ref());
            if !seen.insert(key.to_owned()) {
                return Err(Error::DuplicateAnnotation {
                    annotation: error::name(key),
                });
            }
            match key {
                EXCLUDED_RANGES => {
                    lists.outbound_ranges_excluded = read(EXCLUDED_RANGES, value, item::range)?;
                }
                INCLUDED_RANGES => {
                    lists.outbound_ranges_included = read(INCLUDED_RANGES, value, item::range)?;
                }
                EXCLUDED_OUTBOUND_PORTS => {
                    lists.outbound_ports_excluded =
                        read(EXCLUDED_OUTBOUND_PORTS, value, item::port)?;
                }
                EXCLUDED_INBOUND_PORTS => {
                    lists.inbound_ports_excluded = read(EXCLUDED_INBOUND_PORTS, value, item::port)?;
                }
                _ => {}
            }
        }
        Ok(lists)
    }
}

/// Those of a pod's annotation keys that look like a list of ours and are none: probably
/// misspelt, and worth a warning. In the order given.
pub fn unknown_list_annotations<'a>(
    keys: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    keys.into_iter().filter(|key| {
        key.starts_with("openservicemesh.io/")
            && key.ends_with("-list")
            && !ANNOTATIONS.contains(key)
    })
}

fn read<T: Ord>(
    annotation: &'static str,
    value: &str,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, Error> {
    let read_at = |(index, text): (usize, &str)| {
        let text = text.trim();
        item(text).map_err(|expected| Error::Annotation {
            annotation,
            item: index + 1,
            found: if text.is_empty() {
                "empty".to_owned()
            } else {
                quote(text)
            },
            expected,
        })
    };
    value.split(',').enumerate().map(read_at).collect()
}
