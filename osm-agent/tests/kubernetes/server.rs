//! A small API server that does what a real one does, and what a real one will not do on
//! demand: it forgets, falls silent, breaks off, talks nonsense.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc::UnboundedSender};

use super::connection;

/// How long anything may take before a test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What is done instead of answering.
pub enum Instead {
    /// Answers with this status and body.
    Answer(u16, String),
    /// Does not answer at all.
    Silence,
}

/// What a watch is told.
pub enum Say {
    /// These bytes, as they are.
    Bytes(String),
    /// Nothing more: the connection is cut, amid the answer.
    Cut,
}

#[derive(Default)]
pub struct State {
    version: u64,
    /// By collection and name.
    objects: BTreeMap<(String, String), Value>,
    /// What happened: version, collection, line.
    history: Vec<(u64, String, String)>,
    /// Versions up to this one are forgotten.
    compacted: u64,
    /// The watches that are open, by collection.
    pub watches: Vec<(String, UnboundedSender<Say>)>,
    /// What is to be done at requests that contain a text, each once.
    instead: VecDeque<(String, Instead)>,
    /// Method, target and body of every request.
    pub requests: Vec<(String, String, String)>,
    pub has_meshconfigs: bool,
}

/// The server. It can be killed and comes back with what it knew.
pub struct Server {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

/// The collection of pods of namespace `shop`, of namespaces, of mesh configurations.
pub const PODS: &str = "pods";
pub const NAMESPACES: &str = "namespaces";
pub const MESHCONFIGS: &str = "meshconfigs";

impl Server {
    pub fn start() -> Self {
        let mut server = Self::down();
        server.come_up();
        server
    }

    /// A server that has an address, and does not run yet.
    pub fn down() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            address: free.local_addr().unwrap(),
            state: Arc::default(),
            runtime: None,
        }
    }

    pub fn come_up(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        runtime.spawn(connection::accept(listener, Arc::clone(&self.state)));
        self.runtime = Some(runtime);
    }

    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.state().watches.clear();
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kubeconfig-{}-{count}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "me", "user": {"token": "t0ken"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // After a failed assertion there is still an end to be made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates or changes an object, and tells those who watch.
    pub fn put(&self, collection: &str, object: Value) {
        let mut state = self.state();
        let line = state.put(collection, object);
        state.say(collection, &line);
    }

    /// The same, and those who watch are not told: a connection may be dead.
    pub fn put_unheard(&self, collection: &str, object: Value) {
        self.state().put(collection, object);
    }

    pub fn delete(&self, collection: &str, name: &str) {
        let mut state = self.state();
        let line = state.delete(collection, name);
        state.say(collection, &line);
    }

    pub fn delete_unheard(&self, collection: &str, name: &str) {
        self.state().delete(collection, name);
    }

    /// Says something in all watches of a collection.
    pub fn say(&self, collection: &str, line: &str) {
        self.state().say(collection, line);
    }

    /// Breaks off all watches of a collection, after some last bytes.
    pub fn cut(&self, collection: &str, last: &str) {
        let mut state = self.state();
        for (_, watch) in state.watches.iter().filter(|(of, _)| of == collection) {
            let _ = watch.send(Say::Bytes(last.to_owned()));
            let _ = watch.send(Say::Cut);
        }
        state.watches.retain(|(of, _)| of != collection);
    }

    /// Forgets all that happened so far.
    pub fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.compacted = state.version;
        state.history.clear();
    }

    /// The version as of now, after one more that nobody saw.
    pub fn next_version(&self) -> u64 {
        let mut state = self.state();
        state.version += 1;
        state.version
    }

    /// Does something else at the next request whose method and target contain a text.
    pub fn instead(&self, request: &str, what: Instead) {
        self.state().instead.push_back((request.to_owned(), what));
    }

    /// Waits until a request was made whose method and target contain all of these; returns
    /// its body.
    pub fn wait_for_request(&self, parts: &[&str]) -> String {
        self.wait(&format!("a request with {parts:?}"), |state| {
            let is_it = |(method, target, _): &&(String, String, String)| {
                let line = format!("{method} {target}");
                parts.iter().all(|part| line.contains(part))
            };
            state.requests.iter().find(is_it).map(|r| r.2.clone())
        })
    }

    /// How many requests were made whose method and target contain a text.
    pub fn count_requests(&self, part: &str) -> usize {
        let state = self.state();
        let is_it = |(method, target, _): &&(String, String, String)| {
            format!("{method} {target}").contains(part)
        };
        state.requests.iter().filter(is_it).count()
    }

    /// Waits until a collection is being watched.
    pub fn wait_for_watch(&self, collection: &str) {
        self.wait(&format!("a watch of {collection}"), |state| {
            let is_open = |(of, watch): &(String, UnboundedSender<Say>)| {
                of == collection && !watch.is_closed()
            };
            state.watches.iter().any(is_open).then_some(())
        });
    }

    fn wait<T>(&self, what: &str, find: impl Fn(&State) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find(&self.state()) {
                return found;
            }
            let requests = self.state().requests.clone();
            assert!(start.elapsed() < LIMIT, "no {what}; {requests:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

impl State {
    fn put(&mut self, collection: &str, mut object: Value) -> String {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (collection.to_owned(), name);
        let kind = match self.objects.insert(key, object.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        self.happened(collection, kind, &object)
    }

    fn delete(&mut self, collection: &str, name: &str) -> String {
        self.version += 1;
        let key = (collection.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.happened(collection, "DELETED", &object)
    }

    fn happened(&mut self, collection: &str, kind: &str, object: &Value) -> String {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        let entry = (self.version, collection.to_owned(), line.clone());
        self.history.push(entry);
        line
    }

    fn say(&mut self, collection: &str, line: &str) {
        for (_, watch) in self.watches.iter().filter(|(of, _)| of == collection) {
            let _ = watch.send(Say::Bytes(line.to_owned()));
        }
    }

    pub fn take_instead(&mut self, request: &str) -> Option<Instead> {
        let at = self
            .instead
            .iter()
            .position(|(part, _)| request.contains(part))?;
        self.instead.remove(at).map(|(_, instead)| instead)
    }

    pub fn list(&self, collection: &str) -> String {
        let of_collection = |((of, _), _): &(&(String, String), &Value)| of == collection;
        let items: Vec<_> = self.objects.iter().filter(of_collection).collect();
        let items: Vec<_> = items.into_iter().map(|(_, object)| object).collect();
        json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items})
            .to_string()
    }

    pub fn get(&self, collection: &str, name: &str) -> Option<String> {
        let key = (collection.to_owned(), name.to_owned());
        self.objects.get(&key).map(Value::to_string)
    }

    /// What happened after a version, if that is still known.
    pub fn since(&self, collection: &str, version: u64) -> Option<String> {
        if version < self.compacted {
            return None;
        }
        let after = self.history.iter();
        let after = after.filter(|(at, of, _)| *at > version && of == collection);
        Some(after.map(|(_, _, line)| line.as_str()).collect())
    }
}
