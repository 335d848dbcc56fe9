//! The machine that was measured.

use std::fs;
use std::thread::available_parallelism;

use nix::sys::utsname::uname;

/// What a reader has to know of it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor, as it calls itself.
    pub cpu: String,
    /// How many cores the benchmark may use.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// Whether it is virtual: the hypervisor's kind, as far as the processor tells.
    pub is_virtual: bool,
    /// How many processes wanted a core in the minute before the run.
    pub load: f64,
    /// When the run began, in UTC.
    pub date: String,
}

impl Machine {
    /// This one, now. What it does not tell is empty, or 0.
    #[must_use]
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kibibytes =
            field(&meminfo, "MemTotal").and_then(|it| it.split(' ').next()?.parse().ok());
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        Self {
            kernel: uname().map_or_else(
                |_| String::new(),
                |it| it.release().to_string_lossy().into_owned(),
            ),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cores: available_parallelism().map_or(0, usize::from),
            memory: kibibytes.unwrap_or(0) * 1024,
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor"),
            load: loadavg
                .split(' ')
                .next()
                .and_then(|it| it.parse().ok())
                .unwrap_or(0.0),
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
        }
    }
}

/// The first value of that name in a file of `name: value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_is_the_first_of_its_name() {
        let text = "processor\t: 0\nmodel name\t: A CPU\nmodel\t: 167\nmodel name\t: B\n";
        assert_eq!(field(text, "model name"), Some("A CPU"));
        assert_eq!(field(text, "model"), Some("167"));
        assert_eq!(field(text, "name"), None);
    }
}
