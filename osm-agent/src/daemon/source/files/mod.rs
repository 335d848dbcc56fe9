//! Files, for machines without Kubernetes: a MeshConfig file and a directory of pod files.
//!
//! A pod file (`*.yaml`, `*.yml`, `*.json`; others and those with a dot in front are left alone)
//! is a pod's manifest, of which the metadata counts, and says where the pod is:
//!
//! ```yaml
//! apiVersion: v1
//! kind: Pod
//! metadata:
//!   name: web-0
//!   namespace: default            # this one if it is left out
//!   uid: 0a1b2c3d-…               # by which the cgroup is found where none is given
//!   annotations:
//!     openservicemesh.io/outbound-port-exclusion-list: "5432,6379"
//!     openservicemesh.io/sidecar-injection: enabled   # or disabled: left alone
//! osm:
//!   cgroup: kubepods/web          # from the root of the cgroup v2 hierarchy, or absolute
//!   netns: /run/netns/web         # that of the pod's oldest process if it is left out
//! ```
//!
//! A file that turns bad does not matter to the others, and what it last said stands. One that
//! was never good is a pod that is refused. All that is read again on every change, and from time
//! to time: the kernel's notes of changes only say when.

mod pod_file;
mod scan;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
    time::Duration,
};

use tokio::{task::spawn_blocking, time};

use super::Event;
use crate::error::{Error, Result, Tried as _};
pub(crate) use pod_file::{PodFile, parse as parse_pod_file};
use scan::Scan;
use watch::Watch;

/// Which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The MeshConfig; without one the default counts.
    pub mesh_config: Option<PathBuf>,
    /// The directory of pod files; without one, this source does not speak of pods.
    pub pods: Option<PathBuf>,
    /// How often they are read again though nothing is said to have changed: not every change is,
    /// on file systems over a network for one.
    pub resync: Duration,
}

/// How long it has to be quiet before files are read: who writes may not be done.
const QUIET: Duration = Duration::from_millis(50);

/// For how long at most that is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often is looked for a directory that is not there.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a directory of pod files can be read.
///
/// # Errors
/// Where it can't.
pub fn check(directory: &Path) -> Result<()> {
    fs::read_dir(directory).map(drop).map_err(|error| {
        let problem = format!("{}: cannot be read: {error}", directory.display());
        no_directory(problem)
    })
}

/// Sends what the files say, at once and whenever that changes, until nobody receives it any
/// more or this future is dropped. `on_error` is called for every reading in which something
/// could not be read.
///
/// # Errors
/// Where the directory of pod files can't be read at start, or the kernel can't tell of changes.
pub async fn run(options: FileOptions, events: Sender<Event>, on_error: impl Fn()) -> Result<()> {
    let resync = options.resync;
    let mut watch = Watch::new(&options).tried(|| "watch files with inotify")?;
    let mut scan = Scan::new(options);
    let mut is_first = true;
    loop {
        // Before the files are read: a change in between is not missed.
        let is_complete = watch.renew();
        let found;
        (scan, found) = read(scan).await?;
        if found.is_partial {
            on_error();
        }
        if is_first && let Some(problem) = &found.no_pods {
            return Err(no_directory(problem.clone()));
        }
        is_first = false;
        for event in found.events {
            if events.send(event).is_err() {
                return Ok(());
            }
        }
        let is_whole = is_complete && found.no_pods.is_none();
        let again = if is_whole { resync } else { resync.min(RETRY) };
        tokio::select! {
            () = watch.changed() => settle(&mut watch).await,
            () = time::sleep(again) => {}
        }
    }
}

fn no_directory(problem: String) -> Error {
    Error::input(
        "the directory of pod files",
        problem,
        "give a directory that exists; it may be empty",
    )
}

/// Reads files where that holds up nobody else.
async fn read(mut scan: Scan) -> Result<(Scan, scan::Found)> {
    spawn_blocking(move || {
        let found = scan.read();
        (scan, found)
    })
    .await
    .tried(|| "read the files")
}

async fn settle(watch: &mut Watch) {
    let quiet = async { while time::timeout(QUIET, watch.changed()).await.is_ok() {} };
    // Who writes all the time is read as it is.
    let _ = time::timeout(PATIENCE, quiet).await;
}
