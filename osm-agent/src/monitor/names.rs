//! What pods are called.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use crate::{
    cli::out::plain,
    ebpf::view::{Known, View},
    error::Result,
};

/// The names of the pods, read again when one is not known. Those of pods that are gone stay: of these, events
/// may still be on their way.
pub struct Names {
    state_dir: PathBuf,
    known: HashMap<u64, String>,
    unheard: BTreeSet<String>,
    is_fresh: bool,
}

impl Names {
    /// Of the pods that are intercepted now.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn read(state_dir: &Path) -> Result<Self> {
        let mut names = Self {
            state_dir: state_dir.into(),
            known: HashMap::new(),
            unheard: BTreeSet::new(),
            is_fresh: true,
        };
        if let Some(view) = View::open(state_dir)? {
            names.add(view.known()?);
        }
        Ok(names)
    }

    /// None, and nowhere to look for them.
    pub fn none() -> Self {
        Self {
            state_dir: PathBuf::new(),
            known: HashMap::new(),
            unheard: BTreeSet::new(),
            is_fresh: true,
        }
    }

    /// All of them.
    pub fn all(&self) -> BTreeSet<&str> {
        self.known.values().map(String::as_str).collect()
    }

    /// Those of pods whose programs tell nothing that is understood here.
    pub fn unheard(&self) -> &BTreeSet<String> {
        &self.unheard
    }

    /// What a pod is called; `netns:` and its cookie where nobody says.
    pub fn of(&mut self, cookie: u64) -> Cow<'_, str> {
        if !self.is_fresh && !self.known.contains_key(&cookie) {
            self.is_fresh = true;
            // Its name is not worth an end.
            if let Ok(Some(view)) = View::open(&self.state_dir)
                && let Ok(pods) = view.known()
            {
                self.add(pods);
            }
        }
        match self.known.get(&cookie) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("netns:{cookie:x}")),
        }
    }

    /// From now on, one that is not known is looked for again.
    pub fn expire(&mut self) {
        self.is_fresh = false;
    }

    fn add(&mut self, pods: Vec<Known>) {
        for pod in pods {
            let name = plain(&pod.name);
            if !pod.is_readable {
                self.unheard.insert(name.clone());
            }
            self.known.insert(pod.netns_cookie, name);
        }
    }
}
