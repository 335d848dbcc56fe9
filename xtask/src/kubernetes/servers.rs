//! etcd and the API server: Debian's etcd, and an API server built from Debian's source package.
//!
//! Nothing is installed: packages are unpacked below the target directory, so that Debian's etcd
//! does not begin to run as a service. The first time takes minutes, after that nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::{Apt, BOOKWORM_SOURCES};
use crate::arch::Arch;
use crate::logged;
use crate::progress::Progress;
use crate::setup::{self, Need};
use crate::workspace::Workspace;

/// What the build uses: the compiler that this Kubernetes can still be built with, and what its
/// build copies its results with, with the one library that not every machine has.
const PACKAGES: [&str; 6] = [
    "etcd-server",
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-modern-go-reflect2-dev",
    "rsync",
    "libpopt0",
];

/// A library that the source brings in a version too old for this Go: the API server would crash
/// on the first object that is a map. The package above has a newer one.
const TOO_OLD: &str = "github.com/modern-go/reflect2";

/// The source package, and the version that its programs are told to be.
const SOURCE: &str = "kubernetes";
const VERSION: &str = "v1.20.2";

/// The two programs.
pub struct Servers {
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Its store.
    pub etcd: PathBuf,
}

impl Servers {
    /// Programs from elsewhere.
    ///
    /// # Errors
    ///
    /// When one of them does not run.
    pub fn given(kube_apiserver: &Path, etcd: &Path) -> Result<Self> {
        Ok(Self {
            kube_apiserver: verify(kube_apiserver)?,
            etcd: verify(etcd)?,
        })
    }

    fn below(home: &Path) -> Self {
        Self {
            kube_apiserver: home.join("kube-apiserver"),
            etcd: home.join("etcd"),
        }
    }

    fn exist(&self) -> bool {
        self.kube_apiserver.exists() && self.etcd.exists()
    }
}

/// Finds those made before in the target directory, or makes them.
///
/// # Errors
///
/// When a download or the build fails, or what was built does not run.
pub fn provide(workspace: &Workspace) -> Result<Servers> {
    let home = workspace.target().join("kubernetes");
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let path = home.join("lock");
    let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("locking {}", path.display()))?;
    let servers = Servers::below(&home);
    if !servers.exist() {
        setup::ensure(workspace, &[Need::Make])?;
        let work = home.join("work");
        make(workspace, &work, &servers)?;
        // Gigabytes that nothing needs any more.
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    Servers::given(&servers.kube_apiserver, &servers.etcd)
}

/// Makes both in `work`, from nothing or from what an interrupted run left there.
fn make(workspace: &Workspace, work: &Path, servers: &Servers) -> Result<()> {
    let (downloads, tools) = (work.join("downloads"), work.join("tools"));
    let source = work.join("source");
    let done = work.join("unpacked");
    if !done.exists() {
        // Whatever is there is not whole.
        drop(fs::remove_dir_all(work));
        for directory in [&downloads, &tools, &source] {
            fs::create_dir_all(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        let apt = Apt::new(
            workspace,
            &work.join("apt"),
            Arch::host()?,
            &[BOOKWORM_SOURCES],
        )
        .context("servers of your own can be given with --kube-apiserver PATH --etcd PATH")?;
        apt.packages(&PACKAGES, &downloads)?;
        apt.source(SOURCE, &downloads)?;
        unpack(workspace, &downloads, &tools, &source)?;
        let newer = tools.join("usr/share/gocode/src").join(TOO_OLD);
        replace(&source.join("vendor").join(TOO_OLD), &newer)?;
        fs::write(&done, "").with_context(|| format!("creating {}", done.display()))?;
    }
    let mut build = compiler(workspace, work, &tools)?;
    build.current_dir(&source);
    let what = format!("Building kube-apiserver {VERSION} (minutes, only this once)");
    logged::run(&what, &mut build, &work.join("build.log"))?;
    let result = source.join("_output/local/go/bin/kube-apiserver");
    publish(&tools.join("usr/bin/etcd"), &servers.etcd)?;
    publish(&result, &servers.kube_apiserver)
}

/// Unpacks the packages into `tools` and the upstream source into `source`.
fn unpack(workspace: &Workspace, downloads: &Path, tools: &Path, source: &Path) -> Result<()> {
    let _progress = Progress::start("Unpacking");
    for file in entries(downloads)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let mut command = if name.ends_with(".deb") {
            let mut unpack = workspace.command("dpkg-deb");
            unpack.arg("--extract").arg(&file).arg(tools);
            unpack
        } else if name.contains(".orig.tar.") {
            let mut unpack = workspace.command("tar");
            unpack.arg("--extract").arg("--file").arg(&file);
            unpack.arg("--strip-components=1").arg("-C").arg(source);
            unpack
        } else {
            continue;
        };
        setup::quietly(&mut command).with_context(|| format!("unpacking {}", file.display()))?;
    }
    Ok(())
}

/// Puts the files of `newer` in place of those of a library.
fn replace(library: &Path, newer: &Path) -> Result<()> {
    let context = || format!("replacing {}", library.display());
    fs::remove_dir_all(library).with_context(context)?;
    fs::create_dir(library).with_context(context)?;
    for file in entries(newer)? {
        let place = library.join(file.file_name().unwrap_or_default());
        fs::copy(&file, place).with_context(context)?;
    }
    Ok(())
}

/// `make` with the unpacked tools. Only its own scripts can build a Kubernetes this old: it is
/// from before Go's modules, and much of it is generated.
fn compiler(workspace: &Workspace, work: &Path, tools: &Path) -> Result<Command> {
    let go = tools.join("usr/lib/go-1.19");
    let directories = [go.join("bin"), tools.join("usr/bin")];
    let inherited = workspace.search_path();
    let path = directories
        .into_iter()
        .chain(std::env::split_paths(&inherited));
    let path =
        std::env::join_paths(path).context("the target directory has a colon in its name")?;
    let library = entries(&tools.join("usr/lib"))?
        .find(|path| path.join("libpopt.so.0").exists())
        .context("libpopt0 holds no libpopt.so.0")?;
    let mut make = workspace.command("make");
    make.args(["WHAT=cmd/kube-apiserver", "GOLDFLAGS=-s -w"])
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", library)
        .env("GOROOT", go)
        .env("GOPATH", work.join("gopath"))
        .env("GOCACHE", work.join("cache"))
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0")
        .env("KUBE_GIT_VERSION", VERSION)
        .env("KUBE_GIT_TREE_STATE", "clean")
        .env("KUBE_GIT_COMMIT", "unknown");
    for variable in [
        "GOFLAGS",
        "GOOS",
        "GOARCH",
        "MAKEFLAGS",
        "KUBE_BUILD_PLATFORMS",
    ] {
        make.env_remove(variable);
    }
    Ok(make)
}

/// Copies a program to its place, which it takes whole or not at all.
fn publish(program: &Path, place: &Path) -> Result<()> {
    let staged = place.with_extension("new");
    fs::copy(program, &staged)
        .and_then(|_bytes| fs::rename(&staged, place))
        .with_context(|| format!("copying {} to {}", program.display(), place.display()))
}

/// Returns `program` if it runs on this machine.
fn verify(program: &Path) -> Result<PathBuf> {
    let mut command = Command::new(program);
    setup::quietly(command.arg("--version"))?;
    fs::canonicalize(program).with_context(|| format!("resolving {}", program.display()))
}

fn entries(directory: &Path) -> Result<impl Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("listing {}", directory.display()))?;
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()))
}
