//! The process of the node agent: who runs in it, and how it ends.
//!
//! The main thread runs everything that waits (sources, sockets, HTTP) on one runtime. The
//! control loop has a thread of its own, as it blocks: it loads programs and runs iptables.

use std::{
    any::Any,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use tokio::{
    runtime,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot, watch,
    },
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    confine::confine,
    control::{self, Control, Outlets},
    locate::Locator,
    metrics::{Answered, Asked, Metrics, SourceKind},
    request::{self, Limits, Server, Socket},
    serve::{Shown, heartbeat::Heartbeat, http, notify, signals::Signals},
    source::{self, Event, Notice, files::FileOptions},
    status::Status,
};
use crate::{
    error::{Error, Result, Tried as _},
    pod::cgroup_root,
};

pub use super::options::{
    AgentSocket, DEFAULT_CNI_SOCKET, DEFAULT_LISTEN, Kubernetes, Options, Source,
};

/// What connects the control loop with the rest of the process.
#[derive(Debug)]
pub struct Wires {
    /// What the loop is told.
    pub events: Receiver<Event>,
    /// For who else has something to tell it.
    pub tell: Sender<Event>,
    /// What it shows after every pass: the first one makes the service ready.
    pub status: watch::Sender<Status>,
    /// What it tells the people whose pods they are.
    pub notices: UnboundedSender<Notice>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What it touches at every pass.
    pub heartbeat: Arc<Heartbeat>,
}

/// Runs the node agent until it is told to end. Interception stays in force.
///
/// # Errors
/// Where it can't start, or can't go on.
pub fn run(options: &Options) -> Result<()> {
    run_with(options, control)
}

/// [`run`] with this control loop. `open` is called first of all, on this thread: what it
/// returns is the loop, which is over when it was told [`Event::Stop`].
///
/// # Errors
/// Likewise; and the loop's own.
pub fn run_with<L>(options: &Options, open: impl FnOnce(&Options, Wires) -> Result<L>) -> Result<()>
where
    L: FnOnce() -> Result<()> + Send + 'static,
{
    raise_file_limit();
    // Before anything else runs: what a thread has given up, those that it starts have not.
    confine(match &options.agent_socket {
        Some(socket) if socket.owner.is_some() => CapabilitySet::CHOWN,
        _ => CapabilitySet::empty(),
    })?;
    // Before anything is made: a directory that is not there is a mistake in a flag.
    if let Source::Files { pods, .. } = &options.source {
        source::files::check(pods)?;
    }
    let (tell, events) = channel();
    let (status, shown) = watch::channel(Status::default());
    let (notices, words) = unbounded_channel();
    let metrics = Arc::new(Metrics::of_node(&options.state_dir));
    let heartbeat = Arc::new(Heartbeat::of_resync(options.resync));
    let shown = Shown {
        status: shown,
        heartbeat: Arc::clone(&heartbeat),
        metrics: Arc::clone(&metrics),
    };
    // Before any socket: a second agent is to be told of the first, and not of a port.
    let control = open(
        options,
        Wires {
            events,
            tell: tell.clone(),
            status,
            notices,
            metrics,
            heartbeat,
        },
    )?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "start the runtime")?;
    let outcome = runtime.block_on(async {
        let signals = Signals::new()?;
        let mut tasks = JoinSet::new();
        serve(options, &shown, &mut tasks).await?;
        sources(options, &tell, words, &shown, &mut tasks).await?;
        let control = start(control)?;
        supervise(control, tasks, signals, &tell).await
    });
    // Whatever still waits is of no use any more.
    runtime.shutdown_background();
    outcome
}

/// How long the loop may take to end, when something ends that ends with it.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Tasks = JoinSet<Result<()>>;
type End = oneshot::Receiver<thread::Result<Result<()>>>;

/// Starts what shows the agent to the outside.
async fn serve(options: &Options, shown: &Shown, tasks: &mut Tasks) -> Result<()> {
    if let Some(address) = options.listen {
        let listener = http::listen(address).await?;
        let address = listener.local_addr().tried(|| "read my own address")?;
        info!("HTTP on {address}");
        let shown = shown.clone();
        tasks.spawn(async {
            http::serve(listener, shown).await;
            Ok(())
        });
    }
    let shown = shown.clone();
    tasks.spawn(async {
        notify::run(shown).await;
        Ok(())
    });
    Ok(())
}

/// Starts who tells the loop what is wanted.
async fn sources(
    options: &Options,
    tell: &Sender<Event>,
    noticed: UnboundedReceiver<Notice>,
    shown: &Shown,
    tasks: &mut Tasks,
) -> Result<()> {
    let metrics = Arc::clone(&shown.metrics);
    let (pods, mesh_config) = match &options.source {
        Source::Requests { config } => (None, config),
        Source::Files { pods, config } => (Some(pods.clone()), config),
        Source::Kubernetes(kubernetes) => {
            let source = source::kubernetes::Kubernetes::connect(kubernetes.options()).await?;
            let events = tell.clone();
            tasks.spawn(async move {
                let failed = || metrics.source_error(SourceKind::Kubernetes);
                source.run(events, noticed, failed).await;
                Ok(())
            });
            return sockets(options, tell, shown, tasks);
        }
    };
    let files = FileOptions {
        mesh_config: mesh_config.clone(),
        pods,
        resync: options.resync,
    };
    let failed = move || metrics.source_error(SourceKind::Files);
    tasks.spawn(source::files::run(files, tell.clone(), failed));
    tasks.spawn(drain(noticed));
    sockets(options, tell, shown, tasks)
}

/// Starts to listen to init containers and to the CNI plugin.
fn sockets(
    options: &Options,
    tell: &Sender<Event>,
    shown: &Shown,
    tasks: &mut Tasks,
) -> Result<()> {
    let report = |asked| -> request::Report {
        let metrics = Arc::clone(&shown.metrics);
        Arc::new(move |outcome| {
            debug!(?asked, outcome = outcome.name(), "request");
            if let Some(answered) = Answered::of(outcome) {
                metrics.request(asked, answered);
            }
        })
    };
    if let Some(socket) = &options.agent_socket {
        let place = request::Place {
            mode: socket.mode,
            owner: match socket.owner {
                Some((user, group)) => (Some(user), Some(group)),
                None => (None, None),
            },
            ..request::Place::for_pods(&socket.path)
        };
        let socket = Socket::listen(&place)?;
        info!("init containers may ask on {}", place.path.display());
        let report = report(Asked::Init);
        let server = Server::enrol(socket, Limits::ENROL, tell.clone(), report);
        tasks.spawn(server.run(std::future::pending()));
    }
    if let Some(path) = &options.cni_socket {
        let socket = Socket::listen(&request::Place::for_root(path))?;
        info!("the CNI plugin may ask on {}", path.display());
        let report = report(Asked::Cni);
        let server = Server::cni(socket, Limits::CNI, tell.clone(), report);
        tasks.spawn(server.run(std::future::pending()));
    }
    Ok(())
}

/// Makes the control loop, which adopts what is in force.
fn control(options: &Options, wires: Wires) -> Result<impl FnOnce() -> Result<()> + Send + use<>> {
    let root = match &options.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup_root()?,
    };
    let control = Control::new(
        control::Options {
            state_dir: options.state_dir.clone(),
            locator: Locator::new(root).with_shared_cgroup(options.shared_cgroup.clone()),
            iptables: options.iptables.clone(),
            dual_stack: options.dual_stack,
            resync: options.resync,
            has_source: !matches!(options.source, Source::Requests { .. }),
        },
        Outlets::new(wires.status, wires.notices, wires.metrics, wires.heartbeat),
        wires.tell,
    )?;
    let events = wires.events;
    Ok(move || {
        control.run(&events);
        Ok(())
    })
}

/// Where nobody else takes what people are to be told, the loop's log has it already.
async fn drain(mut notices: UnboundedReceiver<Notice>) -> Result<()> {
    while notices.recv().await.is_some() {}
    std::future::pending().await
}

/// Starts the loop's thread.
fn start(control: impl FnOnce() -> Result<()> + Send + 'static) -> Result<End> {
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("osm-control".into())
        .spawn(move || {
            let control = std::panic::AssertUnwindSafe(control);
            // Nothing of the loop is used after a panic.
            let _ = ended.send(std::panic::catch_unwind(control));
        })
        .tried(|| "start the control loop's thread")?;
    Ok(end)
}

/// Waits for the end, wherever it comes from.
async fn supervise(
    mut control: End,
    mut tasks: Tasks,
    mut signals: Signals,
    tell: &Sender<Event>,
) -> Result<()> {
    tokio::select! {
        ended = &mut control => {
            outcome(ended)?;
            return Err(broken("the control loop ended by itself"));
        }
        Some(task) = tasks.join_next() => {
            task.map_err(|error| broken(format!("a task broke: {error}")))??;
            // Who tells the loop something ends with it: what the loop says of its end is better.
            if let Ok(ended) = timeout(LAST_WORDS, &mut control).await {
                outcome(ended)?;
            }
            return Err(broken("a task ended by itself"));
        }
        signal = signals.next() => info!("{signal}: stopping; pods stay intercepted"),
    }
    notify::stopping();
    // Where the loop is over already, there is nobody to tell.
    let _ = tell.send(Event::Stop);
    tokio::select! {
        ended = control => outcome(ended)?,
        signal = signals.next() => {
            return Err(broken(format!("{signal} came while it was stopping")));
        }
    }
    info!("stopped; pods stay intercepted");
    Ok(())
}

fn outcome(ended: Result<thread::Result<Result<()>>, oneshot::error::RecvError>) -> Result<()> {
    match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(broken(format!(
            "the control loop panicked: {}",
            words(panic.as_ref())
        ))),
        Err(_) => Err(broken("the control loop is gone")),
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

fn broken(why: impl Into<String>) -> Error {
    Error::System {
        tried: "keep the node agent running".into(),
        source: why.into().into(),
        advice: "; pods that are intercepted stay so; start it again".into(),
    }
}

/// A pod takes descriptors, of links and of its namespace.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}
