//! The files of the agent's sockets.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use osm_agent::daemon::request::{Limits, Place, Server, Socket};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("osm-requests-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    metadata.permissions().mode() & 0o7777
}

#[track_caller]
fn refused(place: &Place) -> String {
    Socket::listen(place).expect_err("a refusal").to_string()
}

#[test]
fn socket_and_directory_have_their_modes_and_the_socket_goes() {
    let directory = Directory::new();
    let below = directory.0.join("run/osm");
    for (place, modes) in [
        (Place::for_pods(below.join("agent.sock")), (0o666, 0o755)),
        (
            Place::for_root(directory.0.join("cni/agent.sock")),
            (0o600, 0o700),
        ),
    ] {
        let socket = Socket::listen(&place).expect("a socket");
        let parent = place.path.parent().expect("a directory");
        assert_eq!((mode(&place.path), mode(parent)), modes);
        assert_eq!(fs::read_dir(parent).map(Iterator::count).ok(), Some(1));
        drop(socket);
        assert!(!place.path.exists());
    }
}

#[test]
fn socket_that_nobody_listens_on_is_replaced() {
    let directory = Directory::new();
    drop(UnixListener::bind(directory.socket()).expect("a socket"));
    assert!(directory.socket().exists());
    let _socket = Socket::listen(&Place::for_pods(directory.socket())).expect("a socket");
    assert!(UnixStream::connect(directory.socket()).is_ok());
}

#[test]
fn socket_of_a_running_agent_is_left_alone() {
    let directory = Directory::new();
    let place = Place::for_pods(directory.socket());
    let running = Socket::listen(&place).expect("a socket");
    let text = refused(&place);
    assert!(
        text.contains("an agent listens there already; stop it first"),
        "{text}"
    );
    assert!(UnixStream::connect(running.path()).is_ok());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    fs::write(directory.socket(), "precious").expect("our own directory");
    let text = refused(&Place::for_pods(directory.socket()));
    assert!(text.contains("is no socket; remove it"), "{text}");
    assert_eq!(
        fs::read_to_string(directory.socket()).ok().as_deref(),
        Some("precious")
    );
}

#[test]
fn socket_of_the_next_agent_is_not_removed() {
    let directory = Directory::new();
    let place = Place::for_pods(directory.socket());
    let former = Socket::listen(&place).expect("a socket");
    fs::remove_file(directory.socket()).expect("our own directory");
    let _next = Socket::listen(&place).expect("a socket");
    drop(former);
    let metadata = fs::symlink_metadata(directory.socket());
    assert!(metadata.is_ok_and(|it| it.file_type().is_socket()));
    assert!(UnixStream::connect(directory.socket()).is_ok());
}

#[test]
fn directory_in_which_others_may_write_is_refused() {
    let directory = Directory::new();
    for (mode, is_refused) in [
        (0o777, true),
        (0o775, true),
        (0o1777, false),
        (0o755, false),
    ] {
        fs::set_permissions(&directory.0, Permissions::from_mode(mode)).expect("our own");
        let result = Socket::listen(&Place::for_pods(directory.socket()));
        assert_eq!(result.is_err(), is_refused, "{mode:o}");
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.contains("others can replace the socket"), "{text}");
        }
    }
}

#[test]
fn relative_paths_are_refused() {
    let text = refused(&Place::for_pods("agent.sock"));
    assert!(text.contains("give an absolute path"), "{text}");
}

#[test]
fn server_that_is_stopped_takes_its_socket_along() {
    let directory = Directory::new();
    let socket = Socket::listen(&Place::for_pods(directory.socket())).expect("a socket");
    let server = Server::enrol(socket, Limits::ENROL, mpsc::channel().0, Arc::new(|_| ()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(server.run(std::future::ready(())))
        .expect("it serves");
    assert!(!directory.socket().exists());
}
