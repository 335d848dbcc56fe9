//! Fields that look like ours and are none.

use super::{
    cursor::Cursor,
    error::{Error, quote},
    field::{FIELDS, Field},
};

/// So many letters may differ.
const SLIPS: usize = 3;

/// The names at a place that are probably meant for a field of ours, in words. Others have fields there too,
/// so that an unknown one alone is no mistake.
pub(super) fn misspelt(at: &Cursor<'_>, parent: &str) -> Result<Vec<String>, Error> {
    let ours = || FIELDS.iter().filter(|field| is_in(field, parent));
    let unknown = |name: &&str| ours().all(|field| field.name() != *name);
    let meant = |name: &str| {
        let closest = ours().min_by_key(|field| strsim::levenshtein(name, field.name()))?;
        let slips = strsim::levenshtein(name, closest.name());
        (slips <= SLIPS).then(|| {
            let name = quote(name);
            format!(
                "{parent} has a field {name} that is not known; is {} meant?",
                closest.path
            )
        })
    };
    let names = at.names()?.into_iter();
    Ok(names.filter(unknown).filter_map(meant).collect())
}

fn is_in(field: &Field, parent: &str) -> bool {
    let path = field.path.strip_suffix(field.name());
    path.and_then(|path| path.strip_suffix('.')) == Some(parent)
}
