//! Archives that are the same, byte by byte, wherever and whenever they are made.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::quietly;

/// Takes out of an archive what differs between machines: order, owners, modes, times.
const EQUAL: [&str; 6] = [
    "--sort=name",
    "--format=gnu",
    "--owner=0",
    "--group=0",
    "--numeric-owner",
    "--mode=u=rwX,go=rX",
];

/// The file of the archive of a directory called so.
pub fn file_name(directory: &str) -> String {
    format!("{directory}.tar.gz")
}

/// Packs a directory beside itself, with all files from `epoch`.
///
/// # Errors
///
/// When tar fails.
pub fn pack(directory: &Path, epoch: &str) -> Result<PathBuf> {
    let name = directory.file_name().and_then(|name| name.to_str());
    let (parent, name) = directory
        .parent()
        .zip(name)
        .with_context(|| format!("{} has no name", directory.display()))?;
    let archive = parent.join(file_name(name));
    let mut tar = Command::new("tar");
    tar.args(EQUAL)
        .arg(format!("--mtime=@{epoch}"))
        // Neither name nor time in the compressed file's head.
        .arg("--use-compress-program=gzip -n9")
        .arg("--directory")
        .arg(parent)
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg(name);
    quietly(&mut tar)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A directory with the same files, made in this order, with these modes, at that time.
    fn tree(parent: &Path, order: [&str; 2], mode: u32, age: u64) -> PathBuf {
        let tree = parent.join("release");
        fs::create_dir_all(&tree).expect("a directory");
        for name in order {
            let path = tree.join(name);
            fs::write(&path, name).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = fs::File::options().append(true).open(&path);
            let file = file.expect("a file");
            file.set_modified(time).expect("its time");
        }
        symlink("one", tree.join("link")).expect("a link");
        tree
    }

    #[test]
    fn archives_of_the_same_files_are_the_same_and_of_others_not() {
        let home = std::env::temp_dir().join(format!("osm-xtask-archive-{}", std::process::id()));
        let pack_in = |place: &str, order, mode, age, epoch: &str| {
            let tree = tree(&home.join(place), order, mode, age);
            fs::read(pack(&tree, epoch).expect("an archive")).expect("its bytes")
        };
        let first = pack_in("a", ["one", "two"], 0o600, 0, "1700000000");
        let again = pack_in("b", ["two", "one"], 0o664, 86400, "1700000000");
        let later = pack_in("c", ["one", "two"], 0o600, 0, "1700000001");
        let program = pack_in("d", ["one", "two"], 0o700, 0, "1700000000");
        fs::remove_dir_all(&home).expect("it was made");
        assert!(first == again, "order, modes and times show");
        assert!(first != later && first != program, "nothing shows");
    }
}
