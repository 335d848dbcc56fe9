//! The node agent as a service manager sees it: the real program, with files as its source.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use osm_tests::{Agent, TempDir, agent::binary, process, process::Process};

const HANG: Duration = Duration::from_secs(30);

#[test]
fn agent_that_is_told_to_end_says_so_and_succeeds() {
    let Some(mut service) = Service::start(&[], &[]) else {
        return;
    };
    assert_eq!(service.get("/healthz").0, 200);
    service.process.signal(Signal::SIGTERM);
    let status = service.process.wait(HANG).expect("it ends");
    let (stdout, stderr) = service.process.output();
    assert!(status.success(), "{status}: {stderr}");
    assert!(
        stderr.contains("SIGTERM: stopping; pods stay intercepted"),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("stopped; pods stay intercepted\n"),
        "{stderr}"
    );
    assert_eq!(stdout, "");
}

#[test]
fn agent_whose_sources_have_spoken_is_ready_and_has_made_passes() {
    let Some(service) = Service::start(&[], &[]) else {
        return;
    };
    let since = Instant::now();
    while service.get("/readyz").0 != 200 {
        assert!(since.elapsed() < HANG, "{:?}", service.get("/readyz"));
        thread::sleep(Duration::from_millis(5));
    }
    let metrics = service.get("/metrics").1;
    let passes = metrics
        .lines()
        .find_map(|line| line.strip_prefix("osm_passes_total "));
    assert!(passes.is_some_and(|it| it != "0"), "{metrics}");
}

#[test]
fn second_agent_for_the_same_state_is_told_of_the_first() {
    let Some(service) = Service::start(&[], &[]) else {
        return;
    };
    let files = TempDir::new();
    let second = command(&service.agent, files.path(), &[], &[]);
    let mut second = Process::start("second osm-agent run", second);
    let status = second.wait(HANG).expect("it ends");
    let (_, stderr) = second.output();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let state = service.agent.state().path().display().to_string();
    assert!(stderr.contains(&state), "{stderr}");
    assert_eq!(service.get("/healthz").0, 200);
}

#[test]
fn service_manager_is_told_of_start_life_and_end() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(HANG)).expect("a time limit");
    let path = path.to_str().expect("a path");
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "100000")];
    let Some(mut service) = Service::start(&[], &variables) else {
        return;
    };
    let mut said = Vec::new();
    let mut until = |what: &str| {
        while !said.iter().any(|line: &String| line.starts_with(what)) {
            let mut datagram = [0; 4096];
            let length = manager.recv(&mut datagram);
            let length = length.unwrap_or_else(|error| panic!("no {what} in {said:?}: {error}"));
            let text = String::from_utf8_lossy(&datagram[..length]);
            said.extend(text.lines().map(String::from));
        }
        said.clear();
    };
    until("READY=1");
    until("STATUS=0 intercepted");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    service.process.signal(Signal::SIGTERM);
    until("STOPPING=1");
    assert!(service.process.wait(HANG).expect("it ends").success());
}

#[test]
fn log_for_programs_is_an_object_a_line() {
    let Some(mut service) = Service::start(&["--log-format", "json"], &[]) else {
        return;
    };
    service.process.signal(Signal::SIGINT);
    assert!(service.process.wait(HANG).expect("it ends").success());
    let (_, stderr) = service.process.output();
    let mut messages = Vec::new();
    for line in stderr.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(
            record["timestamp"]
                .as_str()
                .is_some_and(|it| it.ends_with('Z')),
            "{line}"
        );
        assert!(record["level"].is_string(), "{line}");
        messages.push(record["message"].as_str().expect(line).to_owned());
    }
    assert!(
        messages.iter().any(|it| it.starts_with("SIGINT: stopping")),
        "{messages:?}"
    );
}

#[test]
fn log_for_people_has_time_and_level_and_no_colours() {
    let Some(mut service) = Service::start(&[], &[]) else {
        return;
    };
    service.process.signal(Signal::SIGTERM);
    assert!(service.process.wait(HANG).expect("it ends").success());
    let (_, stderr) = service.process.output();
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    for line in stderr.lines() {
        let mut words = line.split_whitespace();
        let (time, level) = (words.next().expect(line), words.next().expect(line));
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
    }
}

#[test]
fn agent_whose_log_nobody_reads_goes_on() {
    let Some(agent) = Agent::new() else { return };
    let files = TempDir::new();
    let mut command = command(&agent, files.path(), &[], &[]);
    command.stderr(Stdio::piped());
    let mut child = process::spawn(command).expect("it starts");
    let stderr = child.stderr.as_mut().expect("a pipe");
    let address = address_in(|| {
        let mut part = [0; 4096];
        let length = stderr.read(&mut part).expect("its log");
        String::from_utf8_lossy(&part[..length]).into_owned()
    });
    // The log's only reader.
    child.stderr = None;
    assert_eq!(get(&address, "/healthz").0, 200);
    let pid = i32::try_from(child.id()).expect("a pid fits");
    // It is a child of ours that nobody has waited for.
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if since.elapsed() > HANG {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn limit_of_open_files_is_raised_as_far_as_it_goes() {
    let Some(service) = Service::start(&[], &[]) else {
        return;
    };
    let limits = fs::read_to_string(format!("/proc/{}/limits", service.process.pid()));
    let limits = limits.expect("its limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line.expect("a limit").split_whitespace().collect();
    assert_eq!(words[3], words[4], "{limits}");
}

#[test]
fn status_command_shows_what_the_agent_says() {
    let Some(service) = Service::start(&[], &[]) else {
        return;
    };
    let url = format!("http://{}", service.address);
    let outcome = service.agent.run(&["status", "--agent-url", &url]);
    let text = outcome.succeeded().stdout;
    assert!(
        text.starts_with(&format!("The node agent runs: {url}\n")),
        "{text}"
    );
    assert!(text.ends_with("\n0 pods.\n"), "{text}");
    let outcome = service
        .agent
        .run(&["status", "--agent-url", &url, "-o", "json"]);
    let text = outcome.succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["pods"], serde_json::json!([]));
}

/// A running agent with no pods.
struct Service {
    process: Process,
    address: String,
    agent: Agent,
    _files: TempDir,
}

impl Service {
    /// Returns when it answers HTTP; none where the test has to be skipped.
    #[track_caller]
    fn start(args: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        let agent = Agent::new()?;
        let files = TempDir::new();
        let command = command(&agent, files.path(), args, variables);
        let mut process = Process::start("osm-agent run", command);
        let address = address_in(|| {
            if let Some(status) = process.wait(Duration::from_millis(10)) {
                panic!("it ended: {status}: {}", process.stderr());
            }
            process.stderr()
        });
        Some(Self {
            process,
            address,
            agent,
            _files: files,
        })
    }

    #[track_caller]
    fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path)
    }
}

fn command(agent: &Agent, files: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let pods = files.join("pods");
    fs::create_dir(&pods).expect("a directory");
    let mut command = Command::new(binary().expect("it is built"));
    command.arg("run").args(args).env_clear();
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .envs(variables.iter().copied())
        .env("OSM_PODS", pods)
        .env("OSM_STATE_DIR", agent.state().path())
        .env("OSM_AGENT_SOCKET", files.join("agent.sock"))
        .env("OSM_CNI_SOCKET", files.join("cni.sock"))
        .env("OSM_LISTEN", "127.0.0.1:0");
    command
}

/// Where it listens, as its log says.
#[track_caller]
fn address_in(mut more: impl FnMut() -> String) -> String {
    let (since, mut log) = (Instant::now(), String::new());
    loop {
        log.push_str(&more());
        let found = log.split_once("HTTP on ").and_then(|(_, rest)| {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)))?;
            Some(rest[..end].to_owned())
        });
        if let Some(address) = found {
            return address;
        }
        assert!(
            since.elapsed() < HANG,
            "it does not say where it listens: {log}"
        );
    }
}

#[track_caller]
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(HANG)).expect("a time limit");
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status code"), body.into())
}
