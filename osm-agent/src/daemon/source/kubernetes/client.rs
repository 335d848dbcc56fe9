//! The way to the API server.

use std::{path::Path, time::Duration};

use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder};

use super::{KubernetesOptions, Pace, outage::Failure};
use crate::error::{Error, Result};

const CONNECT: Duration = Duration::from_secs(10);
/// A peer that does not answer for so long is dead, whatever is going on.
const DEAD: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);

/// kube's own client logs every try that fails and knows no limits for a connection on which
/// nothing is said: hence this one, from the same parts.
pub(super) async fn connect(options: &KubernetesOptions) -> Result<Client> {
    let config = match &options.kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(|error| {
            Error::input(
                "the service account",
                error.to_string(),
                "run in a pod with a service account, or give a kubeconfig",
            )
        })?,
    };
    let unusable = |error: kube::Error| {
        let origin = options.kubeconfig.as_deref();
        let origin = origin.map_or("the service account".into(), Path::to_string_lossy);
        Error::input(
            origin,
            error.to_string(),
            "correct its certificates and credentials",
        )
    };

    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(PROBE));
    http.set_keepalive_interval(Some(PROBE));
    http.set_tcp_user_timeout(Some(DEAD));
    let connector = config
        .rustls_https_connector_with_connector(http)
        .map_err(unusable)?;
    let connections = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(Client::new(service, config.default_namespace))
}

/// Waits for an answer, as long as one may take.
pub(super) async fn answered<T>(
    pace: Pace,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(pace.answer, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::new(format!(
            "no answer of the API server within {:?}",
            pace.answer
        ))),
    }
}

async fn from_file(path: &Path) -> Result<Config> {
    let unusable = |error: kube::config::KubeconfigError| {
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text = format!("{text}: {cause}");
        }
        Error::input(path.display(), text, "give the path of a valid kubeconfig")
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unusable)
}
