//! The file that peers connect to.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Type};

use crate::error::{Error, Result, Tried as _};

/// Where a socket is to be, and whose.
#[derive(Clone, Debug)]
pub struct Place {
    /// The socket. Its directory is made where it is missing.
    pub path: PathBuf,
    /// The socket's mode; who may write may ask.
    pub mode: u32,
    /// The mode of the directory where it is made.
    pub directory_mode: u32,
    /// User and group; the process's own where none are given.
    pub owner: (Option<u32>, Option<u32>),
}

impl Place {
    /// For init containers, which may be of any user.
    #[must_use]
    pub fn for_pods(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o666,
            directory_mode: 0o755,
            owner: (None, None),
        }
    }

    /// For root alone.
    #[must_use]
    pub fn for_root(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o600,
            directory_mode: 0o700,
            owner: (None, None),
        }
    }
}

/// A socket that is listened on. Its file goes when this is dropped, unless another agent has
/// taken its place by then.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: Published,
}

/// The file, which goes with this.
#[derive(Debug)]
pub(super) struct Published {
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Listens. The file takes the place of one that nobody listens on any more, at once and
    /// with its mode and owner.
    ///
    /// # Errors
    /// Where an agent listens there already, something else is in the way, or others may write
    /// to the directory.
    pub fn listen(place: &Place) -> Result<Self> {
        let path = &place.path;
        let directory = match path.parent() {
            Some(directory) if path.is_absolute() => directory,
            _ => {
                let advice = "give an absolute path, such as /run/osm/agent.sock";
                return Err(Error::input(path.display(), "is no socket's path", advice));
            }
        };
        make(directory, place.directory_mode)?;
        check_free(path)?;
        let (listener, identity) =
            publish(place, directory).tried(|| format!("listen on {}", path.display()))?;
        let path = path.clone();
        Ok(Self {
            listener,
            file: Published { path, identity },
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// For a runtime to wait on. Takes no file more than there are.
    pub(super) fn into_parts(self) -> io::Result<(tokio::net::UnixListener, Published)> {
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        Ok((listener, self.file))
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Makes the directory, or sees to it that nobody else can put another socket there.
fn make(directory: &Path, mode: u32) -> Result<()> {
    if !directory.exists() {
        let result = DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(directory);
        // The process's umask may have taken some of it.
        return result
            .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(mode)))
            .tried(|| format!("make the directory {}", directory.display()));
    }
    let found = fs::metadata(directory)
        .tried(|| format!("read the mode of the directory {}", directory.display()))?;
    let is_others = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
    if is_others {
        return Err(Error::input(
            directory.display(),
            format!(
                "has mode {:o}: others can replace the socket",
                found.mode() & 0o7777
            ),
            "make it writable by its owner alone, or give a path in another directory",
        ));
    }
    Ok(())
}

fn check_free(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        let advice = "remove it, or give another path";
        return Err(Error::input(path.display(), "is no socket", advice));
    }
    let answers = || {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match answers() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::input(
            path.display(),
            "an agent listens there already",
            "stop it first, or give another path: one agent serves a node",
        )),
    }
}

/// Prepares the socket beside its place, so that it is never there with another mode.
fn publish(place: &Place, directory: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let draft = directory.join(format!(".osm-{}.sock", std::process::id()));
    let _ = fs::remove_file(&draft);
    let prepare = || {
        let listener = UnixListener::bind(&draft)?;
        listener.set_nonblocking(true)?;
        let (user, group) = place.owner;
        chown(&draft, user, group)?;
        fs::set_permissions(&draft, Permissions::from_mode(place.mode))?;
        let metadata = fs::symlink_metadata(&draft)?;
        fs::rename(&draft, &place.path)?;
        Ok((listener, identity(&metadata)))
    };
    prepare().inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}
