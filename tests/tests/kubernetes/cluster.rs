//! etcd and an API server, with what the manifests install, and no kubelet: pods are objects only.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, Config, Resource as _};
use osm_tests::TempDir;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::manifests;
use crate::server::{Server, free_port};

/// How long anything of the servers may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long one try may take while they start.
const TRY: Duration = Duration::from_secs(5);

/// The user that a pod of the agent's service account is.
pub const AGENT: &str = "system:serviceaccount:osm-system:osm-agent";
/// The groups of that user.
pub const AGENT_GROUPS: &str =
    "system:serviceaccounts,system:serviceaccounts:osm-system,system:authenticated";

/// What a request brought: the object, or why it was refused.
pub type Answer = Result<Value, kube::Error>;

/// A running control plane, seen by its administrator.
pub struct Cluster {
    // The API server goes before etcd, and both before their files.
    api: Option<Server>,
    etcd: Server,
    client: Client,
    runtime: Runtime,
    port: u16,
    etcd_port: u16,
    agent_token: String,
    files: TempDir,
}

impl Cluster {
    /// Starts it and installs `deploy/manifests`; none where the test has to be skipped.
    #[track_caller]
    pub fn new() -> Option<Self> {
        let etcd = program("OSM_ETCD")?;
        program("OSM_KUBE_APISERVER")?;
        let files = TempDir::new();
        let (port, etcd_port) = (free_port(), free_port());
        let (admin_token, agent_token) = (random(), random());
        let tokens = format!(
            "{admin_token},admin,admin,system:masters\n{agent_token},{AGENT},agent,\"{AGENT_GROUPS}\"\n"
        );
        let _ = files.file("tokens", &tokens);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let etcd = start_etcd(&etcd, etcd_port, files.path());
        let api = start_api_server(port, etcd_port, files.path());
        wait_for_file(&files.path().join("certificates/apiserver.crt"));
        let mut cluster = Self {
            client: client(&runtime, port, files.path(), admin_token),
            api: Some(api),
            etcd,
            runtime,
            port,
            etcd_port,
            agent_token,
            files,
        };
        cluster.wait_until_ready();
        cluster.install();
        Some(cluster)
    }

    /// A kubeconfig for the agent, as its service account.
    pub fn kubeconfig(&self) -> PathBuf {
        let (port, token) = (self.port, &self.agent_token);
        let authority = certificate(self.files.path());
        let authority = authority.display();
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
clusters: [{{name: it, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: '{authority}'}}}}]
users: [{{name: it, user: {{token: {token}}}}}]
"
        );
        self.files.file("kubeconfig", &text)
    }

    /// Kills the API server, without a chance for it to say goodbye.
    pub fn kill_api_server(&mut self) {
        self.api = None;
    }

    /// Starts the API server again, with what etcd kept.
    #[track_caller]
    pub fn restart_api_server(&mut self) {
        assert!(self.api.is_none(), "the API server is running");
        let api = start_api_server(self.port, self.etcd_port, self.files.path());
        self.api = Some(api);
        self.wait_until_ready();
    }

    /// Reads an object.
    pub fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "", None)
    }

    /// Creates an object in this collection.
    pub fn create(&self, path: &str, object: &Value) -> Answer {
        self.request(Method::POST, path, "application/json", Some(object))
    }

    /// Changes an object: null removes a field.
    pub fn patch(&self, path: &str, change: &Value) -> Answer {
        self.request(
            Method::PATCH,
            path,
            "application/merge-patch+json",
            Some(change),
        )
    }

    /// Deletes an object at once, as the kubelet does when all containers are gone.
    pub fn delete(&self, path: &str) -> Answer {
        let path = format!("{path}?gracePeriodSeconds=0");
        self.request(Method::DELETE, &path, "", None)
    }

    fn request(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !kind.is_empty() {
            request = request.header("Content-Type", kind);
        }
        let body = body.map(|body| body.to_string().into_bytes());
        let request = request
            .body(body.unwrap_or_default())
            .expect("a valid request");
        let answer = self.client.request(request);
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, answer).await })
            .unwrap_or_else(|_| panic!("no answer from {path} in {PATIENCE:?}"))
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        self.wait_for("/readyz");
        // Its own roles come a moment after, and an agent without them must not be let in.
        self.wait_for("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin");
    }

    #[track_caller]
    fn wait_for(&mut self, path: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.etcd.assert_running();
            if let Some(api) = &mut self.api {
                api.assert_running();
            }
            let request = Request::get(path).body(Vec::new()).expect("a request");
            let answer = self.client.request_text(request);
            // A server that only begins may listen and not answer.
            let answer = async { tokio::time::timeout(TRY, answer).await };
            match self.runtime.block_on(answer) {
                Ok(Ok(_)) => return,
                other if Instant::now() > deadline => panic!("{path}: {other:?}"),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    #[track_caller]
    fn install(&mut self) {
        for object in manifests::all() {
            if let Err(error) = self.apply(&object, false) {
                panic!("applying {}: {error}", manifests::name(&object));
            }
        }
        // The server takes a moment to serve a new kind.
        self.wait_for("/apis/config.openservicemesh.io/v1alpha2/meshconfigs");
    }

    /// Applies an object, for real or only as far as the server judges it. A field that the server
    /// does not know is an error.
    pub fn apply(&self, object: &DynamicObject, dry_run: bool) -> Answer {
        let types = object.types.as_ref().expect("an object has a kind");
        let kind = GroupVersionKind::try_from(types).expect("an object has a kind");
        let resource = ApiResource::from_gvk(&kind);
        let collection = DynamicObject::url_path(&resource, object.metadata.namespace.as_deref());
        let name = manifests::name(object);
        // Unknown to 1.20, which takes no unknown fields in what is applied.
        let strict = "fieldManager=tests&force=true&fieldValidation=Strict";
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{collection}/{name}?{strict}{dry_run}");
        let body = serde_json::to_value(object).expect("an object is JSON");
        let kind = "application/apply-patch+yaml";
        self.request(Method::PATCH, &path, kind, Some(&body))
    }
}

/// The program that this variable names. Whoever asks for these tests has to name them.
#[track_caller]
fn program(variable: &str) -> Option<OsString> {
    let path = std::env::var_os(variable);
    if path.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(
            !in_ci,
            "this test needs {variable}: cargo xtask e2e-kubernetes"
        );
        println!("skipped: needs {variable}; run cargo xtask e2e-kubernetes");
    }
    path
}

fn start_etcd(program: &OsString, port: u16, files: &Path) -> Server {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(files.join("etcd"))
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    Server::start("etcd", command, files)
}

fn start_api_server(port: u16, etcd_port: u16, files: &Path) -> Server {
    let program = std::env::var_os("OSM_KUBE_APISERVER").expect("looked for before");
    // The key that it makes for TLS signs tokens too; none are used.
    let key = files.join("certificates/apiserver.key");
    let mut command = Command::new(program);
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"])
        .arg(format!("--secure-port={port}"))
        .arg("--cert-dir")
        .arg(files.join("certificates"))
        .arg("--service-account-key-file")
        .arg(&key)
        .arg("--service-account-signing-key-file")
        .arg(&key)
        .arg("--service-account-issuer=https://tests.invalid")
        .arg("--token-auth-file")
        .arg(files.join("tokens"))
        .arg("--service-cluster-ip-range=192.0.2.0/24")
        .arg("--disable-admission-plugins=ServiceAccount")
        // Nobody reaches it but by loopback, which it must not announce.
        .args([
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
        ]);
    Server::start("kube-apiserver", command, files)
}

fn certificate(files: &Path) -> PathBuf {
    files.join("certificates/apiserver.crt")
}

fn client(runtime: &Runtime, port: u16, files: &Path, token: String) -> Client {
    let address = format!("https://127.0.0.1:{port}");
    let mut config = Config::new(address.parse().expect("an address"));
    config.root_cert_file = Some(certificate(files));
    config.auth_info.token = Some(token.into());
    let _inside = runtime.enter();
    Client::try_from(config).expect("a client")
}

#[track_caller]
fn wait_for_file(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(path).map_or(0, |about| about.len()) == 0 {
        assert!(
            Instant::now() < deadline,
            "{} does not come",
            path.display()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// A word that nobody guesses.
fn random() -> String {
    let word = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel has some");
    word.trim().to_owned()
}
