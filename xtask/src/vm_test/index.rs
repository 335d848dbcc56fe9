//! The names of kernels in the index of Debian's packages: they change with every update.

use crate::arch::Arch;

/// A package, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The names of what it depends on; of alternatives, the first.
    pub depends: Vec<String>,
}

/// What every kernel's package is called before its version.
const IMAGE: &str = "linux-image-";

/// What later kernels are split into.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

impl Package {
    /// The version in the name of a kernel, such as `6.18.15+deb13`.
    fn kernel(&self, suffix: &str) -> Option<&str> {
        let version = self.name.strip_prefix(IMAGE)?.strip_suffix(suffix)?;
        // Others stand for whichever version is the newest.
        version.matches('.').nth(1).map(|_| version)
    }

    /// The packages that hold this kernel and its modules.
    pub fn parts(&self) -> Vec<&str> {
        let parts = self.depends.iter().map(String::as_str);
        let parts = parts.filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
        std::iter::once(self.name.as_str()).chain(parts).collect()
    }
}

/// The kernels of a kind of machine.
pub struct Kernels {
    packages: Vec<Package>,
    suffix: String,
}

impl Kernels {
    /// Those in an index, in the format of deb822(5).
    pub fn read(index: &str, arch: Arch) -> Self {
        let suffix = arch.kernel_suffix();
        let packages = index.split("\n\n").map(package);
        let packages = packages.filter(|it| it.kernel(&suffix).is_some()).collect();
        Self { packages, suffix }
    }

    /// The newest one of a series, such as `6.18`.
    pub fn newest(&self, series: &str) -> Option<&Package> {
        let wanted = numbers(series);
        let of_series = self.packages.iter().filter_map(|package| {
            let version = numbers(package.kernel(&self.suffix)?);
            version.starts_with(&wanted).then_some((version, package))
        });
        of_series
            .max_by(|one, other| one.0.cmp(&other.0))
            .map(|(_, package)| package)
    }
}

fn package(stanza: &str) -> Package {
    let mut package = Package::default();
    for line in stanza.lines() {
        match line.split_once(": ") {
            Some(("Package", name)) => name.clone_into(&mut package.name),
            Some(("Depends", all)) => package.depends = all.split(", ").filter_map(first).collect(),
            _ => {}
        }
    }
    package
}

/// The name of a dependency, without its version and what would do as well.
fn first(dependency: &str) -> Option<String> {
    dependency.split_whitespace().next().map(str::to_owned)
}

/// The numbers in a version: enough of an order within one series.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.27-1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool

Package: linux-image-6.1.0-50-cloud-amd64
Depends: kmod

Package: linux-image-6.1.0-0.deb11.52-cloud-amd64

Package: linux-image-6.1-cloud-amd64
Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)

Package: linux-image-6.12.90+deb12.1-cloud-amd64

Package: linux-image-6.12.9+bpo-cloud-amd64

Package: linux-image-6.12.95-rt-amd64

Package: linux-image-6.1.0-51-cloud-arm64

Package: linux-image-7.3.4+deb13-cloud-amd64
Depends: dracut | linux-initramfs-tool, linux-base-7.3.4+deb13-cloud-amd64 (= 7.3.4-1), linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1), linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1)

Package: linux-modules-7.3.4+deb13-cloud-amd64
";

    #[test]
    fn newest_kernel_of_a_series_is_found() {
        let all = Kernels::read(INDEX, Arch::X86_64);
        let cases = [
            ("6.1", Some("linux-image-6.1.0-50-cloud-amd64")),
            ("6.12", Some("linux-image-6.12.90+deb12.1-cloud-amd64")),
            ("7.3", Some("linux-image-7.3.4+deb13-cloud-amd64")),
            ("6.18", None),
            ("7", Some("linux-image-7.3.4+deb13-cloud-amd64")),
        ];
        for (series, expected) in cases {
            let found = all.newest(series).map(|package| package.name.as_str());
            assert_eq!(found, expected, "{series}");
        }
        assert_eq!(all.packages.len(), 6, "{:?}", all.packages);
        let all = Kernels::read(INDEX, Arch::Aarch64);
        let found = all.newest("6.1").map(|package| package.name.as_str());
        assert_eq!(found, Some("linux-image-6.1.0-51-cloud-arm64"));
    }

    #[test]
    fn parts_of_a_kernel_are_those_that_hold_it() {
        let all = Kernels::read(INDEX, Arch::X86_64);
        let parts = |series| all.newest(series).map(Package::parts);
        let whole = ["linux-image-6.1.0-50-cloud-amd64"];
        assert_eq!(parts("6.1").as_deref(), Some(&whole[..]));
        let split = ["image", "binary", "modules"]
            .map(|part| format!("linux-{part}-7.3.4+deb13-cloud-amd64"));
        assert_eq!(
            parts("7.3"),
            Some(split.iter().map(String::as_str).collect())
        );
    }
}
