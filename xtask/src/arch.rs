//! The machines that programs are built for, and all that is otherwise from one to the other.

use std::env::consts::ARCH;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// amd64
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// arm64
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

/// How qemu makes one.
pub struct Emulation {
    /// Debian's package of the emulator.
    pub package: &'static str,
    /// The emulator.
    pub program: &'static str,
    /// Its arguments for the board and the processor.
    pub board: &'static [&'static str],
    /// Where it finds firmware, below `usr`.
    pub firmware: &'static [&'static str],
    /// The first serial port, as the kernel calls it.
    pub console: &'static str,
    /// The second one.
    pub status: &'static str,
}

const X86_64: Emulation = Emulation {
    package: "qemu-system-x86",
    program: "qemu-system-x86_64",
    board: &["-M", "q35", "-cpu", "max"],
    firmware: &["share/qemu", "share/seabios"],
    console: "ttyS0",
    status: "ttyS1",
};

const AARCH64: Emulation = Emulation {
    package: "qemu-system-arm",
    program: "qemu-system-aarch64",
    // Pointers that are signed cost a cipher each, and a third more time.
    board: &["-M", "virt", "-cpu", "max,pauth=off"],
    firmware: &["share/qemu"],
    console: "ttyAMA0",
    status: "ttyAMA1",
};

impl Arch {
    /// The one that this program runs on.
    ///
    /// # Errors
    ///
    /// When it is none of those that there are.
    pub fn host() -> Result<Self> {
        let here = Self::value_variants().iter().find(|it| it.name() == ARCH);
        here.copied()
            .with_context(|| format!("nothing is known of machines such as this, {ARCH}"))
    }

    /// Whether this program runs on one.
    pub fn is_host(self) -> bool {
        self.name() == ARCH
    }

    /// As Rust and the kernel call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian and image builders call it.
    pub const fn platform(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Rust's name for it with a C library that can be linked in whole.
    pub fn musl(self) -> String {
        format!("{}-unknown-linux-musl", self.name())
    }

    /// Rust's name for it with the C library of Debian's bookworm.
    pub fn bookworm(self) -> String {
        format!("{}-unknown-linux-gnu.2.36", self.name())
    }

    /// What the names of its kernels for clouds end with.
    pub fn kernel_suffix(self) -> String {
        format!("-cloud-{}", self.platform())
    }

    /// How it is emulated.
    pub const fn emulation(self) -> &'static Emulation {
        match self {
            Self::X86_64 => &X86_64,
            Self::Aarch64 => &AARCH64,
        }
    }
}
