//! Files that change, and the source that reads them.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use osm_agent::{
    config::MeshConfig,
    daemon::source::{
        Event, PodSpec,
        files::{FileOptions, run},
    },
    error::Error,
};
use tokio::sync::oneshot;

use crate::{SILENCE, SOON};

/// A directory that goes away with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("osm-files-{}-{count}/files", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a new directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// Another file takes the name: written where nobody looks, so that the renaming is all that
    /// happens here.
    pub fn replace(&self, name: &str, text: &str) {
        let aside = self.0.with_extension("aside");
        fs::write(&aside, text).expect("a file");
        // Its own events in the parent directory are over when it is renamed.
        thread::sleep(SILENCE);
        fs::rename(&aside, self.path(name)).expect("the file is there");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.0.parent().map(fs::remove_dir_all);
    }
}

/// A source at work on a thread; ends with this guard.
pub struct Source {
    pub events: Receiver<Event>,
    errors: Arc<AtomicU32>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Source {
    /// Reads again for no reason when no test is waiting any more.
    pub fn new(mesh_config: Option<PathBuf>, pods: Option<PathBuf>) -> Self {
        Self::with(FileOptions {
            mesh_config,
            pods,
            resync: Duration::from_hours(1),
        })
    }

    pub fn with(options: FileOptions) -> Self {
        let (sender, events) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let errors = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&errors);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let count = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            runtime.block_on(async {
                tokio::select! {
                    result = run(options, sender, count) => result,
                    _ = stopped => Ok(()),
                }
            })
        });
        Self {
            events,
            errors,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Of pod files in this directory, past what it says first of the mesh.
    pub fn of_pods(directory: &Directory) -> Self {
        let source = Self::new(None, Some(directory.0.clone()));
        assert_eq!(source.mesh(), Ok(Box::default()));
        source
    }

    pub fn next(&self) -> Event {
        self.events.recv_timeout(SOON).expect("an event")
    }

    #[track_caller]
    pub fn pods(&self) -> BTreeMap<String, PodSpec> {
        match self.next() {
            Event::Pods(pods) => pods,
            other => panic!("{other:?}"),
        }
    }

    /// The pods, when they are as is asked for: in between may be others.
    #[track_caller]
    pub fn pods_until(&self, wanted: impl Fn(&BTreeMap<String, PodSpec>) -> bool) {
        while !wanted(&self.pods()) {}
    }

    #[track_caller]
    pub fn mesh(&self) -> Result<Box<MeshConfig>, String> {
        match self.next() {
            Event::Mesh(mesh) => mesh,
            other => panic!("{other:?}"),
        }
    }

    /// The mesh's excluded ports, when it is good and they are these.
    #[track_caller]
    pub fn expect_port(&self, port: u16) {
        loop {
            let mesh = self.mesh();
            if mesh.is_ok_and(|it| it.lists.outbound_ports_excluded.contains(&port)) {
                return;
            }
        }
    }

    pub fn errors(&self) -> u32 {
        self.errors.load(Ordering::Relaxed)
    }

    #[track_caller]
    pub fn expect_silence(&self) {
        let said = self.events.recv_timeout(SILENCE);
        assert!(matches!(said, Err(RecvTimeoutError::Timeout)), "{said:?}");
    }

    /// Stops it; what it ended with.
    pub fn end(mut self) -> Result<(), Error> {
        drop(self.stop.take());
        self.join()
    }

    /// What it ends with by itself.
    pub fn join(&mut self) -> Result<(), Error> {
        let thread = self.thread.take().expect("it is joined once");
        thread.join().expect("no panic")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
