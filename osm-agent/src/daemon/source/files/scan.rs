//! What the files say now, and what of it is new.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    FileOptions,
    pod_file::{self, PodFile},
};
use crate::{
    config::{self, MeshConfig, read_text},
    daemon::source::{Event, Membership, PodKey, PodSpec},
};

/// The files, and what was said of them last.
#[derive(Debug)]
pub(super) struct Scan {
    options: FileOptions,
    mesh: Option<Result<Box<MeshConfig>, String>>,
    pods: Option<BTreeMap<PodKey, PodSpec>>,
    /// What each file said when it was good.
    good: BTreeMap<PodKey, PodSpec>,
    /// What was warned of, by file or directory.
    warned: BTreeMap<String, String>,
}

/// What one reading came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What is new.
    pub events: Vec<Event>,
    /// Why the directory of pod files can't be read.
    pub no_pods: Option<String>,
    /// Whether it, or some file, can't be read; what is wrong in a file does not count.
    pub is_partial: bool,
}

impl Scan {
    pub(super) const fn new(options: FileOptions) -> Self {
        Self {
            options,
            mesh: None,
            pods: None,
            good: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// Reads everything.
    pub(super) fn read(&mut self) -> Found {
        let mut found = Found::default();
        let mesh = self.mesh().map_err(|error| {
            found.is_partial |= is_unreadable(&error);
            error.to_string()
        });
        if self.mesh.as_ref() != Some(&mesh) {
            self.mesh = Some(mesh.clone());
            found.events.push(Event::Mesh(mesh));
        }
        let Some(directory) = self.options.pods.clone() else {
            return found;
        };
        let mut problems = BTreeMap::new();
        match self.read_pods(&directory, &mut problems) {
            Ok((pods, is_partial)) => {
                found.is_partial |= is_partial;
                if self.pods.as_ref() != Some(&pods) {
                    self.pods = Some(pods.clone());
                    found.events.push(Event::Pods(pods));
                }
            }
            Err(error) => {
                let problem = format!("{}: cannot be read: {error}", directory.display());
                let text = format!("{problem}; the pods that are known stay as they are");
                problems.insert(directory.display().to_string(), text);
                found.no_pods = Some(problem);
                found.is_partial = true;
            }
        }
        self.warn(problems);
        found
    }

    fn mesh(&self) -> Result<Box<MeshConfig>, config::Error> {
        let Some(path) = &self.options.mesh_config else {
            return Ok(Box::default());
        };
        let text = read_file(path)?;
        MeshConfig::parse(&text, &path.display().to_string()).map(Box::new)
    }

    /// The pods, and whether some file can't be read.
    fn read_pods(
        &mut self,
        directory: &Path,
        problems: &mut BTreeMap<String, String>,
    ) -> io::Result<(BTreeMap<PodKey, PodSpec>, bool)> {
        let mut pods = BTreeMap::new();
        let mut good = BTreeMap::new();
        let mut is_partial = false;
        for (key, path) in pod_files(directory)? {
            let origin = path.display().to_string();
            match read_file(&path).and_then(|text| pod_file::parse(&text, &origin)) {
                Ok(PodFile { spec, doubts }) => {
                    if !doubts.is_empty() {
                        problems.insert(origin, doubts.join("; "));
                    }
                    good.insert(key.clone(), spec.clone());
                    pods.insert(key, spec);
                }
                // It was removed after the directory was read.
                Err(_) if path.symlink_metadata().is_err() => {}
                Err(error) => {
                    is_partial |= is_unreadable(&error);
                    let spec = if let Some(last) = self.good.get(&key) {
                        problems.insert(origin, format!("{error}; what it said last stands"));
                        good.insert(key.clone(), last.clone());
                        last.clone()
                    } else {
                        problems.insert(origin, error.to_string());
                        refused(&key, &error)
                    };
                    pods.insert(key, spec);
                }
            }
        }
        refuse_twins(&mut pods, self.pods.as_ref(), directory, problems);
        self.good = good;
        Ok((pods, is_partial))
    }

    /// Warns of each problem once, as long as it stays the same.
    fn warn(&mut self, problems: BTreeMap<String, String>) {
        for (origin, text) in &problems {
            if self.warned.get(origin) != Some(text) {
                tracing::warn!("{text}");
            }
        }
        self.warned = problems;
    }
}

/// The pod files in a directory: name → path.
fn pod_files(directory: &Path) -> io::Result<BTreeMap<PodKey, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let extension = path.extension().and_then(|it| it.to_str());
        if let (Some(name), Some("yaml" | "yml" | "json")) = (name, extension)
            && !name.starts_with(['.', '#'])
            && !path.is_dir()
        {
            found.insert(name.to_owned(), path);
        }
    }
    Ok(found)
}

/// Reads a regular file: others may make the reader wait.
fn read_file(path: &Path) -> Result<String, config::Error> {
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(config::Error::Unreadable {
            origin: path.display().to_string(),
            cause: io::Error::other("it is not a regular file"),
        });
    }
    read_text(path)
}

const fn is_unreadable(error: &config::Error) -> bool {
    matches!(error, config::Error::Unreadable { .. })
}

/// A pod of which nothing is known but the name of its file.
fn refused(key: &str, error: &config::Error) -> PodSpec {
    PodSpec {
        name: key.to_owned(),
        uid: None,
        membership: Membership::Unreadable(format!("{error}; correct the file")),
        annotations: BTreeMap::new(),
        netns: None,
        cgroup: None,
        sidecar: None,
    }
}

/// Of files that say the same pod, the one that was there before counts, else the first one by name. The
/// other says nothing that can be used: who goes by its name stays as it is.
fn refuse_twins(
    pods: &mut BTreeMap<PodKey, PodSpec>,
    before: Option<&BTreeMap<PodKey, PodSpec>>,
    directory: &Path,
    problems: &mut BTreeMap<String, String>,
) {
    let is_new = |key: &PodKey| {
        let before = before.and_then(|before| before.get(key));
        before.is_none_or(|spec| matches!(spec.membership, Membership::Unreadable(_)))
    };
    let mut keys: Vec<PodKey> = pods.keys().cloned().collect();
    // A stable sort: by name among those that are alike.
    keys.sort_by_key(is_new);
    let mut seen: BTreeMap<String, PodKey> = BTreeMap::new();
    for key in keys {
        let Some(spec) = pods.get_mut(&key) else {
            continue;
        };
        let said = identity(spec);
        let twin = said
            .iter()
            .find_map(|what| Some((what, seen.get(what)?.clone())));
        if let Some((what, other)) = twin {
            let origin = directory.join(&key).display().to_string();
            let text = format!("{origin}: is left out: {other} has the same {what}");
            let why = format!("{text}; correct or remove one of them");
            spec.membership = Membership::Unreadable(why);
            problems.insert(origin, text);
            continue;
        }
        seen.extend(said.into_iter().map(|what| (what, key.clone())));
    }
}

/// What no two pods have in common, in words.
fn identity(spec: &PodSpec) -> Vec<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|it| it.display().to_string());
    let said = [
        ("name", Some(spec.name.clone())),
        ("uid", spec.uid.clone()),
        ("netns", path(&spec.netns)),
        ("cgroup", path(&spec.cgroup)),
    ];
    let said = said.into_iter();
    said.filter_map(|(what, value)| Some(format!("{what} {}", value?)))
        .collect()
}
