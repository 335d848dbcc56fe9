//! What the verifier has to do for each program, held against what it had to do before: a program that
//! grows is noticed before some kernel refuses it.
//!
//! `tests/verifier-budget.json` has the numbers by kernel. `cargo xtask vm-test --suite budget --record` writes them
//! anew, with what this test prints; `OSM_VERIFIER_BUDGET=record` has it print only.

mod mesh;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aya::programs::ProgramInfo;
use mesh::{Lists, Mesh};
use osm_tests::{Need, missing};
use serde::Deserialize;

/// Of what is written down, a program may take this much, in percent.
const MAY_BE: u64 = 120;

/// The kernel's own limit of stack, in bytes.
const STACK: u64 = 512;

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
struct Work {
    instructions: u64,
    stack: u64,
}

type Budget = BTreeMap<String, BTreeMap<String, Work>>;

#[test]
fn verifier_has_no_more_to_do_than_before() {
    if missing(&[Need::Program("bpftool")]) {
        return;
    }
    let Some(mesh) = Mesh::attached(&Lists::default()) else {
        return;
    };
    let series = series();
    let records = std::env::var_os("OSM_VERIFIER_BUDGET").is_some_and(|it| it == "record");
    let written = budget().remove(&series).filter(|_| !records);
    let mut problems = Vec::new();
    let mut count = 0;
    for pin in programs(&mesh) {
        let name = pin.file_name().expect("a name").to_string_lossy();
        let stack = stack(&dump(&pin));
        assert!(stack <= STACK, "{name}: {stack} bytes of stack");
        let info = ProgramInfo::from_pin(&pin).expect("a program is pinned there");
        let instructions = info.verified_instruction_count().map(u64::from);
        let shown = instructions.map_or_else(|| "-".to_owned(), |number| number.to_string());
        println!("budget: {name} {shown} instructions, {stack} bytes of stack");
        count += 1;
        let (Some(written), Some(instructions)) = (&written, instructions) else {
            continue;
        };
        let found = Work {
            instructions,
            stack,
        };
        problems.extend(compare(&name, written.get(&*name), found));
    }
    // Eight for cgroups, two for namespaces; the shortcut's is not on every kernel.
    assert!(count >= 10, "only {count} programs are found");
    assert!(
        problems.is_empty(),
        "Linux {series}:\n{}\nif it has to be: cargo xtask vm-test --suite budget --record",
        problems.join("\n")
    );
}

fn compare(name: &str, written: Option<&Work>, found: Work) -> Option<String> {
    let Some(written) = written else {
        return Some(format!("{name} is not written down"));
    };
    let grew = |found: u64, written: u64| found * 100 > written * MAY_BE;
    let is_more =
        grew(found.instructions, written.instructions) || grew(found.stack, written.stack);
    is_more.then(|| {
        format!(
            "{name} took {} instructions and {} bytes of stack, now {} and {}",
            written.instructions, written.stack, found.instructions, found.stack
        )
    })
}

#[test]
fn program_that_grew_by_more_than_a_fifth_is_told() {
    let work = |instructions, stack| Work {
        instructions,
        stack,
    };
    for (written, found, expected) in [
        (work(1000, 100), work(1200, 120), false),
        (work(1000, 100), work(1201, 100), true),
        (work(1000, 100), work(1000, 128), true),
        (work(1000, 100), work(10, 10), false),
        (work(0, 0), work(0, 0), false),
    ] {
        let told = compare("x", Some(&written), found).is_some();
        assert_eq!(told, expected, "{written:?} {found:?}");
    }
    assert!(compare("x", None, work(1, 1)).is_some());
}

/// The kernel's version, without what changes with every correction.
fn series() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel has a version");
    let mut numbers = release.split('.');
    let mut number = || numbers.next().unwrap_or_default().trim().to_owned();
    format!("{}.{}", number(), number())
}

fn budget() -> Budget {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("verifier-budget.json");
    let text = fs::read_to_string(&path).expect("the file is there");
    serde_json::from_str(&text).expect("the file is JSON")
}

/// The pins of programs: of one version, in small letters.
fn programs(mesh: &Mesh) -> Vec<PathBuf> {
    let state = mesh.agent.state();
    let mut pins = state.pins();
    pins.retain(|pin| {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        pin.starts_with("versions") && name.starts_with(|c: char| c.is_ascii_lowercase())
    });
    pins.iter().map(|pin| state.path().join(pin)).collect()
}

/// A program as the verifier left it, as text.
fn dump(pin: &Path) -> String {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["prog", "dump", "xlated", "pinned"]).arg(pin);
    let output = bpftool.output().expect("bpftool runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How much stack a program uses: `(r10 -96)` is an access of it, `r2 = r10` and `r2 += -96` make an address.
fn stack(text: &str) -> u64 {
    let mut most = 0;
    let mut copies: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("(r10 -") {
            most = most.max(number(rest));
        }
        let instruction = line.rsplit_once(") ").map_or(line, |(_, rest)| rest);
        if let Some(register) = instruction.strip_suffix(" = r10") {
            copies.push(register);
        } else if let Some((register, rest)) = instruction.split_once(" += -")
            && copies.contains(&register)
        {
            most = most.max(number(rest));
            copies.retain(|copy| *copy != register);
        }
    }
    most.next_multiple_of(8)
}

fn number(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().unwrap_or(0)
}

#[test]
fn stack_is_read_from_a_dump() {
    let text = "   0: (bf) r6 = r1\n   1: (7b) *(u64 *)(r10 -40) = r0\n   2: (bf) r2 = r10\n   \
                3: (07) r2 += -93\n   4: (07) r6 += -400\n   5: (79) r1 = *(u64 *)(r10 -8)\n";
    assert_eq!(stack(text), 96);
    assert_eq!(stack("   0: (b7) r0 = 1\n   1: (95) exit\n"), 0);
}
