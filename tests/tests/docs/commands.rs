//! The commands in blocks: each is marked, and those of ours have the flags that they use.

use clap::{Parser as _, error::ErrorKind};
use osm_agent::cli::Cli;

use crate::page::{self, Block, Code, Mark};

/// What stands between commands.
const OPERATORS: [&str; 5] = ["|", "||", "&&", ";", "&"];

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    let mut problems = Vec::new();
    for page in page::all() {
        for block in &page.blocks {
            let is_right = match (&block.mark, block.is_commands()) {
                (Mark::Run { .. } | Mark::NotRun(_), true) | (Mark::None, false) => true,
                (Mark::Output | Mark::Message, false) => block.language == "text",
                _ => false,
            };
            // What is in no language can't be told from commands.
            if !is_right || block.language.is_empty() {
                let Block {
                    place,
                    language,
                    mark,
                    ..
                } = block;
                problems.push(format!("{place}: {language} with the mark {mark:?}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_call_of_the_agent_has_flags_that_exist() {
    let mut problems = Vec::new();
    let mut count = 0;
    for page in page::all() {
        let commands = page.blocks.iter().filter(|block| block.is_commands());
        let in_blocks = commands.flat_map(|block| {
            let place = &block.place;
            calls(&block.text)
                .into_iter()
                .map(move |call| (place, call, true))
        });
        // Amid the text, a command may be named without what it needs, or with all its variants.
        let is_one = |code: &&Code| !code.text.contains(['|', '…']);
        let named = page.code.iter().filter(is_one).flat_map(|code| {
            let calls = calls(&code.text).into_iter();
            calls.map(|call| (&code.place, call, false))
        });
        for (place, call, is_whole) in in_blocks.chain(named) {
            count += 1;
            if let Err(problem) = parse(&call, is_whole) {
                problems.push(format!("{place}: {}: {problem}", call.join(" ")));
            }
        }
    }
    assert!(count > 20, "only {count} calls are found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn parse(call: &[String], is_whole: bool) -> Result<(), String> {
    match Cli::try_parse_from(call) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            ErrorKind::MissingRequiredArgument
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                if !is_whole =>
            {
                Ok(())
            }
            _ => Err(error.to_string()),
        },
    }
}

/// The calls of `osm-agent` in a block, each as its words.
pub fn calls(block: &str) -> Vec<Vec<String>> {
    let joined = block.replace("\\\n", " ");
    let mut calls = Vec::new();
    for line in joined.lines() {
        let line = line.strip_prefix("$ ").unwrap_or(line);
        // Quotes that do not end are no command.
        let words = shlex::split(line).unwrap_or_default();
        let commands = words.split(|word| OPERATORS.contains(&word.as_str()));
        calls.extend(commands.filter_map(call));
    }
    calls
}

/// The part of a command that `osm-agent` is called with, if it is.
fn call(command: &[String]) -> Option<Vec<String>> {
    let at = command.iter().position(|word| word == "osm-agent")?;
    let is_called = match command[..at].last() {
        None => true,
        Some(before) => before == "--" || before == "sudo" || before.contains('='),
    };
    let is_word = |word: &&String| !word.starts_with(['>', '<']) && !word.starts_with("2>");
    let words = command[at..].iter().take_while(is_word);
    is_called.then(|| words.cloned().collect())
}

#[test]
fn calls_are_found_wherever_they_stand() {
    let block = "osm-agent a --b \\\n    c # d\nsystemctl stop osm-agent\n$ sudo osm-agent e | jq .f\n\
                 kubectl exec x -- osm-agent g 'h i' >j && X=1 osm-agent k\n";
    let found: Vec<_> = calls(block).iter().map(|call| call.join("_")).collect();
    let expected = [
        "osm-agent_a_--b_c",
        "osm-agent_e",
        "osm-agent_g_h i",
        "osm-agent_k",
    ];
    assert_eq!(found, expected);
    for (call, is_whole, is_right) in [
        ("osm-agent check --no-such-flag", false, false),
        ("osm-agent check --help", true, true),
        ("osm-agent detach", true, false),
        ("osm-agent detach", false, true),
    ] {
        assert_eq!(parse(&calls(call)[0], is_whole).is_ok(), is_right, "{call}");
    }
}
