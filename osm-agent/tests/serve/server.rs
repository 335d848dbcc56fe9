//! An HTTP server of the agent's, on a port of its own, and a client that is not.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use osm_agent::daemon::{
    metrics::Metrics,
    serve::{Shown, heartbeat::Heartbeat, http},
    status::{Means, PodStatus, State, Status},
};
use tokio::sync::{oneshot, watch};

/// A client waits that long for a server that hangs.
pub const HANG: Duration = Duration::from_secs(30);

/// A running server; it ends with this.
pub struct Server {
    pub address: SocketAddr,
    pub status: watch::Sender<Status>,
    pub heartbeat: Arc<Heartbeat>,
    pub metrics: Arc<Metrics>,
    end: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// One whose loop may be silent for an hour.
    pub fn start(status: Status) -> Self {
        Self::start_with(status, Heartbeat::with_limit(Duration::from_hours(1)))
    }

    pub fn start_with(status: Status, heartbeat: Heartbeat) -> Self {
        let (status, seen) = watch::channel(status);
        let (heartbeat, metrics) = (Arc::new(heartbeat), Arc::new(Metrics::new()));
        let shown = Shown {
            status: seen,
            heartbeat: Arc::clone(&heartbeat),
            metrics: Arc::clone(&metrics),
        };
        let (end, ended) = oneshot::channel();
        let (address, learnt) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let listener = http::listen(any).await.expect("a port");
                let own = listener.local_addr().expect("an address");
                address.send(own).expect("the test waits");
                tokio::select! {
                    () = http::serve(listener, shown) => panic!("the server ended"),
                    _ = ended => {}
                }
            });
        });
        let address = learnt.recv_timeout(HANG).expect("the server starts");
        Self {
            address,
            status,
            heartbeat,
            metrics,
            end: Some((end, thread)),
        }
    }

    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(HANG)).expect("a time limit");
        stream
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n"))
    }

    /// Sends this, and reads all that comes back.
    #[track_caller]
    pub fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it is taken");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        Answer::parse(&text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.end.take() {
            let _ = end.send(());
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "the server panicked");
        }
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            code: code.expect("a status code"),
            head: head.to_lowercase(),
            body: body.into(),
        }
    }
}

/// All sources have spoken, and these are the pods.
pub fn synced(pods: Vec<PodStatus>) -> Status {
    Status {
        is_synced: true,
        mesh_problem: None,
        survey_problem: None,
        pods,
    }
}

pub fn pod(name: &str, state: State) -> PodStatus {
    PodStatus {
        name: name.into(),
        state,
        lists_problem: None,
    }
}

pub fn intercepted(name: &str) -> PodStatus {
    pod(name, State::Intercepted(Means::Ebpf))
}

pub fn failed(name: &str, why: &str) -> PodStatus {
    pod(name, State::Failed(why.into()))
}
