//! Completions and manual pages, made from the definition of the commands.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use clap::CommandFactory as _;
use osm_agent::cli::Cli;

fn agent(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_osm-agent"))
        .args(args)
        .output();
    output.expect("it starts")
}

fn completions(shell: &str) -> String {
    let output = agent(&["completions", shell]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What bash says to a script.
fn bash(script: &str) -> String {
    let output = Command::new("bash").args(["--norc", "-c", script]).output();
    let output = output.expect("bash is there");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("osm-agent-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("nobody else has it");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The pages that there have to be for a command and those below it.
fn pages(command: &clap::Command, above: &str) -> Vec<String> {
    let name = format!("{above}{}", command.get_name());
    let below = command.get_subcommands().filter(|it| !it.is_hide_set());
    let below = below.flat_map(|it| pages(it, &format!("{name}-")));
    let mut all: Vec<_> = below.collect();
    all.push(format!("{name}.1"));
    all
}

#[test]
fn every_command_has_a_manual_page_that_says_its_flags() {
    let directory = Directory::new("man");
    let path = directory.0.to_str().expect("text");
    let output = agent(&["man", path]);
    assert!(output.status.success(), "{output:?}");
    let mut found: Vec<String> = fs::read_dir(path)
        .expect("the pages")
        .map(|entry| {
            entry
                .expect("a page")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    let mut expected = pages(&Cli::command().name("osm-agent"), "");
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(
        found.contains(&"osm-agent-iptables-render.1".to_owned()),
        "{found:?}"
    );
    for (page, words) in [
        ("osm-agent-run.1", ["\\-\\-node\\-name", "OSM_NODE_NAME"]),
        ("osm-agent-attach.1", ["\\-\\-cgroup", "\\-\\-state\\-dir"]),
        ("osm-agent.1", ["osm\\-agent\\-run(1)", "Exit status"]),
    ] {
        let text = fs::read_to_string(directory.0.join(page)).expect("a page");
        for word in words {
            assert!(text.contains(word), "{word} in {page}: {text}");
        }
    }
}

#[test]
fn manual_pages_without_a_directory_fail_in_words() {
    let output = agent(&["man", "/nonexistent/directory"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("write the manual pages to /nonexistent/directory"),
        "{said}"
    );
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let script = completions("bash");
    for (words, expected) in [
        ("st", "status"),
        ("run --node-n", "--node-name"),
        ("attach --mode e", "ebpf"),
        ("iptables rend", "render"),
        ("completions z", "zsh"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let line = words.join(" ");
        let (current, last) = (words.len(), words[words.len() - 1]);
        let before = if current > 1 {
            words[current - 2]
        } else {
            "osm-agent"
        };
        let asked = format!(
            "{script}\nCOMP_WORDS=(osm-agent {line}); COMP_CWORD={current}\n\
             set -- $(complete -p osm-agent | grep -o -e '-F [^ ]*')\n\
             $2 osm-agent '{last}' '{before}'; echo \"${{COMPREPLY[*]}}\""
        );
        assert_eq!(bash(&asked).trim_end(), expected, "{line}");
    }
}

#[test]
fn completions_are_there_for_other_shells_too() {
    for (shell, sign) in [
        ("zsh", "#compdef osm-agent"),
        ("fish", "complete -c osm-agent"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = completions(shell);
        assert!(script.contains(sign), "{script}");
    }
    assert_eq!(agent(&["completions", "tcsh"]).status.code(), Some(2));
}
