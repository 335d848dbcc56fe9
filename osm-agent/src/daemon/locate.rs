//! Where a pod is in the kernel: its cgroup, its network namespace, its users.

use std::path::Path;
/// Provisional.
pub fn uid_of_cgroup(_path: &Path) -> Option<String> {
    None
}

use super::source::PodSpec;
use crate::{error::Result, pod::Pod};

/// Provisional.
#[derive(Debug)]
pub struct Locator;
/// Provisional.
#[derive(Debug)]
pub struct Index;
/// Provisional.
#[derive(Debug)]
pub enum Whereabouts {
    /// There.
    Found(Pod),
    /// Not yet.
    NotYet(String),
    /// Never.
    Unfit(String),
}
impl Locator {
    pub fn is_below(&self, _one: &Path, _above: &Path) -> bool {
        false
    }
    pub fn index(&self) -> Result<Index> {
        todo!()
    }
    pub fn locate(&self, _spec: &PodSpec, _index: &Index, _hint: Option<&Path>) -> Whereabouts {
        todo!()
    }
    pub fn locate_known(
        &self,
        _name: &str,
        _cgroup: u64,
        _netns: u64,
        _index: &Index,
    ) -> Whereabouts {
        todo!()
    }
}
