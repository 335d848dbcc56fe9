//! What is in a state directory: a path below it a line, directories with a slash at the end.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use osm_agent::fuzzed;

/// As many are made at most.
const MOST: usize = 24;
/// What redirects: it goes before what only serves it.
const REDIRECTING: [&str; 3] = ["inbound", "connect4", "connect6"];
/// What redirected connections need.
const SERVING: [&str; 3] = ["getsockopt", "getpeername4", "socket_events"];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that goes with this.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes it, and reads it as the agent does.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for name in text.lines().filter_map(|line| line.rsplit('/').next()) {
        check_name(name);
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("osm-fuzz-{}-{number}", std::process::id());
    // In memory, where that can be had.
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let directory = Directory(parent.join(name));
    let mut files = 0;
    for line in text.lines().take(MOST) {
        files += usize::from(make(&directory.0, line));
    }
    if !directory.0.is_dir() {
        return;
    }
    let pods = fuzzed::linked_pods(&directory.0);
    for pod in pods.into_iter().flatten() {
        let path = directory.0.join("pods").join(fuzzed::file_name(pod));
        assert!(path.is_dir(), "{}", path.display());
    }
    // Whatever it is: it is said to be there, and stays.
    let foreign = fuzzed::foreign_in(&directory.0).expect("it can be read");
    assert_eq!(foreign.len(), files, "{foreign:?}");
}

fn check_name(name: &str) {
    if let Some(number) = fuzzed::number_of(name) {
        assert_eq!(fuzzed::file_name(number), name);
    }
    let rank = fuzzed::detach_rank(name);
    let of = |names: &[&str]| names.iter().map(|name| fuzzed::detach_rank(name)).collect();
    let (first, last): (Vec<usize>, Vec<usize>) = (of(&REDIRECTING), of(&SERVING));
    assert!(first.iter().max() < last.iter().min());
    if !SERVING.iter().any(|known| name.starts_with(known)) && !name.starts_with("get") {
        // It may redirect: it does not stay when what it needs is gone.
        assert!(Some(&rank) < last.iter().min(), "{name:?}");
    }
}

/// Makes a file or a directory; says whether it is a file that was not there.
fn make(directory: &Path, line: &str) -> bool {
    let is_below = |path: &Path| {
        path.components().count() <= 4
            && path
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
    };
    let path = Path::new(line);
    if line.is_empty() || line.contains('\0') || !is_below(path) {
        return false;
    }
    let path = directory.join(path);
    if line.ends_with('/') {
        let _ = fs::create_dir_all(path);
        return false;
    }
    let _ = path.parent().map(fs::create_dir_all);
    !path.exists() && fs::write(&path, "").is_ok() && !is_of_the_kernel(&path)
}

/// The kernel puts these into every bpffs.
fn is_of_the_kernel(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(name, Some("maps.debug" | "progs.debug"))
}
