//! What is wrong with a configuration.

use std::io;

/// The first thing that is wrong with a configuration. One line: where, what, and what was
/// expected or why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("{origin}: cannot be read: {cause}")]
    Unreadable {
        /// The file.
        origin: String,
        /// Why.
        cause: io::Error,
    },
    /// There is more text than any configuration needs; see [`super::MAX_SIZE`].
    #[error("{origin}: is too large; expected at most {limit} bytes")]
    TooLarge {
        /// The file.
        origin: String,
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// There is no object in the text.
    #[error("{origin}: is empty; expected a MeshConfig")]
    Empty {
        /// The file.
        origin: String,
    },
    /// The text is not one YAML document, nor JSON.
    #[error("{origin}: cannot be read as {language}: {problem}")]
    Syntax {
        /// The file.
        origin: String,
        /// The language it was taken for.
        language: &'static str,
        /// What the parser says, with line and column.
        problem: String,
    },
    /// A field, or one item of a list.
    #[error("{origin}: {field} is {found}; expected {expected}")]
    Field {
        /// The file.
        origin: String,
        /// The path of the field, as in `spec.traffic.outboundPortExclusionList[2]`.
        field: String,
        /// What is there.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// One item of an annotation's list.
    #[error("annotation {annotation}: item {item} is {found}; expected {expected}")]
    Annotation {
        /// The annotation's key.
        annotation: &'static str,
        /// Which item, counted from 1.
        item: usize,
        /// What is there.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A key that came twice, so that it is not known which value counts.
    #[error("annotation {annotation}: is given twice; expected one value with all items")]
    DuplicateAnnotation {
        /// The annotation's key.
        annotation: String,
    },
}

/// A name from outside as a message may show it: as it is where it looks like a name, else quoted.
pub(super) fn name(text: &str) -> String {
    const LONGEST: usize = 320;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if !text.is_empty() && text.len() <= LONGEST && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        quote(text)
    }
}

/// A text from outside as a message may show it: quoted, on one line, and not endless.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
