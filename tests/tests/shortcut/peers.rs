//! Real servers and proxies at either end of the shortcut: nginx, HAProxy and Envoy.
//!
//! The server under test stands in a pod at 127.0.0.1:8080, and passes what it gets on. For requests from
//! outside, to a server on the same pod, so that the shortcut is between the sidecar and it; for requests
//! of the application, to a remote server, so that the shortcut is between it and the sidecar.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use osm_tests::process::Process;
use osm_tests::traffic::Broker;
use osm_tests::{APP_UID, Actor, Agent, Need, SIDECAR_UID, TempDir, World, actor, missing};

use crate::compare::{is_on, limit, spec};
use crate::http::{put, serve};

const LARGE: usize = 20 << 20;
const SMALL: usize = 300;
const REQUESTS: u64 = 150;
const CONNECTIONS: u64 = 6;

/// Where the server under test passes requests on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    /// From outside, through the sidecar and the server under test, to 127.0.0.1:8090.
    App,
    /// From the application, through the server under test and the sidecar, to a remote server.
    Remote,
}

#[derive(Clone, Copy, Debug)]
enum Server {
    Nginx,
    Haproxy { splices: bool },
}

#[derive(Clone, Copy, Debug)]
enum Sidecar {
    Builtin,
    Envoy,
}

#[test]
fn nginx_passes_large_and_many_bodies() {
    for towards in [Towards::App, Towards::Remote] {
        check(Server::Nginx, Sidecar::Builtin, towards);
    }
}

#[test]
fn haproxy_passes_large_and_many_bodies() {
    for towards in [Towards::App, Towards::Remote] {
        check(
            Server::Haproxy { splices: false },
            Sidecar::Builtin,
            towards,
        );
    }
}

/// A known difference: bytes that were handed over can't be spliced from the socket.
#[test]
fn haproxy_that_splices_does_not_get_large_bodies() {
    let server = Server::Haproxy { splices: true };
    if let Some(passed) = play(server, Sidecar::Builtin, Towards::App) {
        assert_eq!(passed.large.is_ok(), !is_on(), "{passed:?}");
    }
}

#[test]
fn envoy_as_sidecar_passes_large_and_many_bodies() {
    for towards in [Towards::App, Towards::Remote] {
        check(Server::Nginx, Sidecar::Envoy, towards);
    }
}

/// Panics unless all bodies came back as they were sent, by the shortcut.
#[track_caller]
fn check(server: Server, sidecar: Sidecar, towards: Towards) {
    let Some(passed) = play(server, sidecar, towards) else {
        return;
    };
    let what = format!("{server:?}, {sidecar:?}, {towards:?}");
    println!("{what}: {passed:?}");
    assert_eq!(passed.large, Ok(()), "{what}");
    assert_eq!(passed.small, Ok(()), "{what}");
    let large = LARGE as u64;
    if is_on() {
        assert!(
            passed.by_tcp < large / 2,
            "{what}: {} by TCP",
            passed.by_tcp
        );
    } else {
        println!("{what}: {} of {large} bytes by TCP", passed.by_tcp);
    }
}

/// What became of the bodies.
#[derive(Debug)]
struct Passed {
    large: Result<(), String>,
    small: Result<(), String>,
    /// Bytes that TCP sent between the server under test and the sidecar.
    by_tcp: u64,
}

/// Twenty megabytes in one request, and many small ones over connections that are kept; none where that
/// has to be skipped.
fn play(server: Server, sidecar: Sidecar, towards: Towards) -> Option<Passed> {
    let program = match server {
        Server::Nginx => "nginx",
        Server::Haproxy { .. } => "haproxy",
    };
    if missing(&[Need::Program(program), Need::Program("ss")]) {
        return None;
    }
    let scene = Scene::new(server, sidecar, towards)?;
    let mut from = match towards {
        Towards::App => Broker::start("outside", &scene.world.outside.place()),
        Towards::Remote => Broker::start("app", &scene.world.pod.place(APP_UID)),
    };
    let to = match towards {
        Towards::App => SocketAddr::new(scene.world.pod.ip4(), 8080),
        Towards::Remote => "127.0.0.1:8080".parse().expect("an address"),
    };
    let mut connect = || {
        let socket = from.connect(to, false).expect("a connection");
        limit(&socket);
        socket
    };
    // An application is given the shortcut once it was seen not to wait.
    let first = put(&connect(), 0, SMALL);
    assert_eq!(first, Ok(()), "the first request");
    let large = connect();
    let small: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let (large, small) = thread::scope(|scope| {
        let large = scope.spawn(|| put(&large, 1, LARGE));
        let small: Vec<_> = small
            .iter()
            .zip(2..)
            .map(|(socket, connection): (_, u64)| {
                let mut requests = (0..REQUESTS).map(move |it| connection << 32 | it);
                scope.spawn(move || requests.try_for_each(|key| put(socket, key, SMALL)))
            })
            .collect();
        let small = small.into_iter().try_for_each(joined);
        (joined(large), small)
    });
    Some(Passed {
        large,
        small,
        by_tcp: scene.bytes_by_tcp(),
    })
}

fn joined(thread: thread::ScopedJoinHandle<'_, Result<(), String>>) -> Result<(), String> {
    let end = thread.join();
    end.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
}

struct Scene {
    towards: Towards,
    _server: Process,
    _sidecar: RunningSidecar,
    _brokers: [Broker; 2],
    _files: TempDir,
    _agent: Agent,
    world: World,
}

#[expect(dead_code, reason = "they only have to live")]
enum RunningSidecar {
    Builtin(Actor),
    Envoy(Process),
}

impl Scene {
    fn new(server: Server, sidecar: Sidecar, towards: Towards) -> Option<Self> {
        let (world, agent) = (World::new()?, Agent::new()?);
        let text = format!(
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nspec: {}\n",
            spec()
        );
        let attach = agent.attach(&world.pod).option("--mode", "ebpf");
        let _ = attach.config(&text).run().succeeded();
        let pod = &world.pod;
        let sidecar = match sidecar {
            Sidecar::Builtin => RunningSidecar::Builtin(pod.sidecar_with(&["--quiet"])),
            Sidecar::Envoy => RunningSidecar::Envoy(envoy(&world)?),
        };
        let mut near = Broker::start("echo", &pod.place(APP_UID));
        let mut far = Broker::start("remote", &world.outside.place());
        for (broker, at) in [
            (&mut near, "127.0.0.1:8090"),
            (&mut far, "198.51.100.10:80"),
        ] {
            let listener = broker.listen(at.parse().expect("an address"), 64);
            serve(listener.expect("a listener"));
        }
        let files = TempDir::new();
        let upstream = match towards {
            Towards::App => "127.0.0.1:8090",
            Towards::Remote => "198.51.100.10:80",
        };
        let process = start(server, &world, files.path(), upstream);
        wait_for_listener(&world, &process, 8080);
        Some(Self {
            towards,
            _server: process,
            _sidecar: sidecar,
            _brokers: [near, far],
            _files: files,
            _agent: agent,
            world,
        })
    }

    /// What TCP has carried on the connections between the server and the sidecar that are still open.
    fn bytes_by_tcp(&self) -> u64 {
        let filter = match self.towards {
            Towards::App => "src 127.0.0.1 and ( sport = :8080 or dport = :8080 )",
            Towards::Remote => "( sport = :15001 or dport = :15001 )",
        };
        let output = self.world.pod.netns.command("ss", &["-tinOH", filter]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.split_whitespace();
        let counts = words.filter_map(|word| word.strip_prefix("bytes_sent:")?.parse::<u64>().ok());
        counts.sum()
    }
}

fn start(server: Server, world: &World, dir: &Path, upstream: &str) -> Process {
    let text = match server {
        Server::Nginx => nginx(dir, upstream),
        Server::Haproxy { splices } => haproxy(splices, upstream),
    };
    let config = dir.join("server.conf");
    std::fs::write(&config, text).expect("our own file");
    let user = nix::unistd::Uid::from_raw(APP_UID);
    nix::unistd::chown(dir, Some(user), None).expect("our own directory");
    let config = config.display().to_string();
    let prefix = dir.display().to_string();
    let command: &[&str] = match server {
        Server::Nginx => &["nginx", "-e", "stderr", "-p", &prefix, "-c", &config],
        Server::Haproxy { .. } => &["haproxy", "-db", "-f", &config],
    };
    actor::program("server", &world.pod.place(APP_UID), command)
}

fn nginx(dir: &Path, upstream: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr warn;
        events {{ worker_connections 256; }}
        http {{
            access_log off; client_max_body_size 64m; keepalive_requests 100000;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
            upstream next {{ server {upstream}; keepalive 16; }}
            server {{
                listen 127.0.0.1:8080;
                location / {{
                    proxy_pass http://next; proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                }}
            }}
        }}\n"
    )
}

fn haproxy(splices: bool, upstream: &str) -> String {
    let splice = if splices {
        "option splice-request\n  option splice-response\n  option splice-auto"
    } else {
        "no option splice-auto"
    };
    format!(
        "global\n  maxconn 500\n  nbthread 2\n\
        defaults\n  mode http\n  {splice}\n  \
        timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
        frontend in\n  bind 127.0.0.1:8080\n  default_backend next\n\
        backend next\n  server next {upstream}\n"
    )
}

/// Envoy, where `OSM_ENVOY` says that one is.
fn envoy(world: &World) -> Option<Process> {
    const CONFIG: &str = include_str!("../../src/bin/demo/envoy.yaml");
    let Some(binary) = std::env::var_os("OSM_ENVOY").map(PathBuf::from) else {
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(
            !in_ci,
            "OSM_ENVOY does not say where Envoy is, and CI must not skip this"
        );
        println!("skipped: OSM_ENVOY does not say where Envoy is");
        return None;
    };
    let binary = binary.display().to_string();
    let command = [
        &binary,
        "--config-yaml",
        CONFIG,
        "--disable-hot-restart",
        "--concurrency",
        "2",
        "--log-level",
        "warning",
    ];
    let envoy = actor::program("envoy", &world.pod.place(SIDECAR_UID), &command);
    for port in [15001, 15003] {
        wait_for_listener(world, &envoy, port);
    }
    Some(envoy)
}

#[track_caller]
fn wait_for_listener(world: &World, process: &Process, port: u16) {
    let filter = format!("sport = :{port}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = world.pod.netns.command("ss", &["-tlnH", &filter]);
        if !output.stdout.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} does not listen on {port}: {}",
            process.name(),
            process.stderr()
        );
        thread::sleep(Duration::from_millis(10));
    }
}
