//! What the agent shows over HTTP, for probes, Prometheus and `osm-agent status`.
//!
//! | path | |
//! |---|---|
//! | `/healthz` | 200 while the loop makes progress |
//! | `/readyz` | 200 when every wanted pod was verified in the kernel; else what is missing |
//! | `/metrics` | for Prometheus |
//! | `/status` | [`Status`] as JSON |
//!
//! One request a connection, so that a connection is over when its time is.

use std::{collections::VecDeque, fmt::Write as _, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State as Extract,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, spawn_blocking},
    time,
};
use tracing::{debug, warn};

use super::Shown;
use crate::{
    daemon::{
        metrics,
        status::{State, Status},
    },
    error::{Error, Result},
};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may take altogether.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// The longest request, in bytes.
const MAX_REQUEST: usize = 8192;
/// How many pods `/readyz` names at most.
const MAX_REASONS: usize = 20;

/// Listens.
///
/// # Errors
/// Where the address is taken or not of this machine.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::System {
            tried: format!("listen on {address}"),
            source: error.into(),
            advice: "; choose another address with --listen, or --no-listen".into(),
        })
}

/// Answers, until it is dropped.
pub async fn serve(listener: TcpListener, shown: Shown) {
    let router = router(shown);
    let mut connections = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!("cannot accept an HTTP connection: {error}");
                // Out of descriptors or memory, most likely: others have to let go first.
                time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        make_room(&mut connections);
        let connection = time::timeout(CONNECTION_LIMIT, answer(stream, router.clone()));
        connections.push_back(tokio::spawn(async {
            if connection.await.is_err() {
                debug!("an HTTP client took too long");
            }
        }));
    }
}

/// The oldest connection goes first: who is slow keeps nobody out.
fn make_room(connections: &mut VecDeque<JoinHandle<()>>) {
    connections.retain(|connection| !connection.is_finished());
    if connections.len() == MAX_CONNECTIONS
        && let Some(oldest) = connections.pop_front()
    {
        debug!("too many HTTP connections: the oldest is closed");
        oldest.abort();
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!("an HTTP connection broke: {error}");
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .route("/status", get(status))
        .with_state(shown)
}

async fn health(Extract(shown): Extract<Shown>) -> Response {
    match shown.heartbeat.check() {
        Ok(()) => "ok\n".into_response(),
        Err(stuck) => unavailable(format!("{stuck}\n")),
    }
}

async fn ready(Extract(shown): Extract<Shown>) -> Response {
    // What a loop that is stuck said last is not what there is.
    if let Err(stuck) = shown.heartbeat.check() {
        return unavailable(format!("{stuck}\n"));
    }
    let status = shown.status.borrow();
    if status.is_ready() {
        return "ok\n".into_response();
    }
    unavailable(reasons(&status))
}

async fn numbers(Extract(shown): Extract<Shown>) -> Response {
    // It reads what is pinned, and the lists may be long: others are answered meanwhile.
    match spawn_blocking(move || shown.metrics.text()).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn status(Extract(shown): Extract<Shown>) -> Response {
    let json = serde_json::to_string(&*shown.status.borrow());
    match json {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn unavailable(why: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Why it is not ready: one line for a pod, and not endless.
fn reasons(status: &Status) -> String {
    let mut text = String::new();
    if !status.is_synced {
        text.push_str("the sources of pods and configuration have not all spoken yet\n");
    }
    if let Some(problem) = &status.survey_problem {
        let _ = writeln!(
            text,
            "pods can't be looked at: {}",
            problem.replace(['\n', '\r'], " ")
        );
    }
    let failed = status.pods.iter().filter_map(|pod| match &pod.state {
        State::Failed(why) => Some((&pod.name, why)),
        _ => None,
    });
    let room = MAX_REASONS - text.lines().count();
    let total = failed.clone().count();
    // The last line says how many are left out.
    let shown = if total > room { room - 1 } else { total };
    for (name, why) in failed.take(shown) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{}",
            format!("{name}: {why}").replace(['\n', '\r'], " ")
        );
    }
    if total > shown {
        let _ = writeln!(text, "and {} more; see /status", total - shown);
    }
    text
}
