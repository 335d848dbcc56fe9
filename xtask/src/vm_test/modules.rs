//! The modules that a machine needs, in the order in which the kernel takes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::fetch::entries;
use crate::workspace::Workspace;

/// What the machine itself needs, and what pods and iptables rules are made of. What a kernel has built
/// in, or does not have under this name, is passed over; tests tell when it was needed.
const WANTED: [&str; 36] = [
    "virtio_pci",
    "virtio_blk",
    "veth",
    "dummy",
    "iptable_nat",
    "ip6table_nat",
    "iptable_filter",
    "ip6table_filter",
    "iptable_mangle",
    "ip6table_mangle",
    "iptable_raw",
    "ip6table_raw",
    "xt_owner",
    "xt_REDIRECT",
    "xt_nat",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_comment",
    "xt_conntrack",
    "xt_tcpudp",
    "xt_mark",
    "xt_addrtype",
    "ipt_REJECT",
    "ip6t_REJECT",
    "nft_compat",
    "nf_tables",
    "nft_chain_nat",
    "nft_counter",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_reject_inet",
    "tcp_diag",
    "unix_diag",
    "udp_diag",
];

/// A module, ready to be loaded.
pub struct Module {
    /// Its name.
    pub name: String,
    /// What the kernel is given.
    pub content: Vec<u8>,
}

/// Those that are wanted and what they depend on, each after its dependencies.
///
/// # Errors
///
/// When one can't be read.
pub fn in_order(workspace: &Workspace, directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(directory, &mut files)?;
    let mut order = Vec::new();
    for name in WANTED {
        add(workspace, &files, name, &mut order)?;
    }
    Ok(order)
}

fn add(
    workspace: &Workspace,
    files: &BTreeMap<String, PathBuf>,
    name: &str,
    order: &mut Vec<Module>,
) -> Result<()> {
    let Some(file) = files.get(name) else {
        return Ok(());
    };
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let content = read(workspace, file)?;
    for dependency in dependencies(&content) {
        add(workspace, files, &dependency, order)?;
    }
    let name = name.to_owned();
    order.push(Module { name, content });
    Ok(())
}

fn read(workspace: &Workspace, file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|it| it == "ko") {
        return fs::read(file).with_context(|| format!("reading {}", file.display()));
    }
    // Old kernels can't decompress, and the small machine has better things to do.
    let mut xz = workspace.command("xz");
    let output = xz.args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.context("starting xz (package xz-utils)")?;
    if !output.status.success() {
        bail!("xz can't decompress {}", file.display());
    }
    Ok(output.stdout)
}

/// The modules below a directory, by name.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file
        .strip_suffix(".xz")
        .unwrap_or(file)
        .strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// What a module says it depends on: `depends=a,b` among the strings of its section `.modinfo`.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let mut strings = content.split(|byte| *byte == 0);
    let found = strings.find_map(|string| string.strip_prefix(KEY));
    let names = String::from_utf8_lossy(found.unwrap_or_default()).into_owned();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_a_module() {
        let cases: [(&[u8], &[&str]); 3] = [
            (
                b"\x7fELF\0license=GPL\0depends=x_tables,nf-nat\0name=a\0",
                &["x_tables", "nf_nat"],
            ),
            (b"\0depends=\0", &[]),
            (b"no module", &[]),
        ];
        for (content, expected) in cases {
            assert_eq!(dependencies(content), expected);
        }
    }

    #[test]
    fn files_of_modules_are_told_from_others() {
        let cases = [
            ("a/virtio-rng.ko.xz", Some("virtio_rng")),
            ("xt_REDIRECT.ko", Some("xt_REDIRECT")),
            ("modules.order", None),
        ];
        for (path, expected) in cases {
            assert_eq!(module_name(Path::new(path)).as_deref(), expected, "{path}");
        }
    }
}
