//! Configuration: parse and validate, nothing else.
//!
//! * [`MeshConfig`]: what the mesh says, from a `MeshConfig` object in a file,
//! * [`Lists`]: the four lists of exclusions and inclusions, of the mesh or of one pod's
//!   annotations, and their union, which is what counts,
//! * [`FIELDS`]: what people are told of each field,
//! * [`Error`]: the first thing that is wrong, and where.
//!
//! The norm is the section "Configuration" of `spec.md`. Nothing is taken in part: there is
//! a whole configuration, or an error.

mod annotations;
mod cursor;
mod error;
mod field;
pub(crate) mod item;
mod lists;
mod mesh;
mod node;

pub use annotations::{ANNOTATIONS, unknown_list_annotations};
pub(crate) use cursor::Cursor;
pub use error::Error;
pub(crate) use error::quote;
pub use field::{FIELDS, Field};
pub use lists::Lists;
pub(crate) use mesh::read_text;
pub use mesh::{InterceptionMode, LocalProxyMode, MAX_SIZE, MeshConfig, SidecarIdentity};
pub(crate) use node::Node;
