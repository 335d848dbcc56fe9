//! Blocks of commands do what the pages say.

use std::collections::BTreeMap;

use osm_tests::Outcome;

use crate::{
    page::{self, Block, Mark, Page},
    scene::{self, Scene},
};

#[test]
fn blocks_run_as_they_stand() {
    let mut problems = Vec::new();
    let mut count = 0;
    for page in page::all() {
        match run(&page, &mut problems) {
            Some(ran) => count += ran,
            // What is missing is said.
            None => return,
        }
    }
    assert!(count > 10, "only {count} blocks ran");
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// How many blocks of a page ran; none where the test has to be skipped.
fn run(page: &Page, problems: &mut Vec<String>) -> Option<usize> {
    let mut scenes: BTreeMap<&str, Scene> = BTreeMap::new();
    let mut count = 0;
    let mut last = String::new();
    for block in &page.blocks {
        match &block.mark {
            Mark::Run { scene, status } => {
                if !scenes.contains_key(scene.as_str()) {
                    scenes.insert(scene, Scene::set(scene)?);
                }
                let outcome = scenes[scene.as_str()].run(&block.text);
                if outcome.status.code() != Some(*status) {
                    problems.push(format!("{}: {outcome}", block.place));
                }
                last = both(&outcome);
                count += 1;
            }
            Mark::Output => problems.extend(unsaid(block, &last)),
            _ => {}
        }
    }
    Some(count)
}

fn both(outcome: &Outcome) -> String {
    format!("{}\n{}", outcome.stdout, outcome.stderr)
}

/// The problem, where a line of a block is not in an output.
fn unsaid(block: &Block, output: &str) -> Option<String> {
    let is_said = |line: &&str| output.lines().any(|it| is_like(it, line));
    let missing = block.text.lines().find(|line| !is_said(line))?;
    let place = &block.place;
    Some(format!("{place}: {missing:?} is not in\n{output}"))
}

/// Whether a line is like a pattern, in which `…` stands for anything and spaces for each other.
fn is_like(line: &str, pattern: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, pattern) = (plain(line), plain(pattern));
    let Some((first, others)) = pattern.split_once('…') else {
        return line == pattern;
    };
    let (middle, last) = others.rsplit_once('…').unwrap_or(("", others));
    let inner = line.strip_prefix(first.trim_end());
    let Some(mut inner) = inner.and_then(|it| it.strip_suffix(last.trim_start())) else {
        return false;
    };
    middle.split('…').map(str::trim).all(|piece| {
        let at = inner.find(piece);
        inner = at.map_or("", |at| &inner[at + piece.len()..]);
        at.is_some()
    })
}

#[test]
fn line_is_like_its_pattern_and_no_other() {
    let cases = [
        ("a  b", "a b", true),
        ("a b c", "a b", false),
        ("a b c", "a …", true),
        ("a b c", "… c", true),
        ("a b c", "a … c", true),
        ("a b d", "a … c", false),
        ("a b", "b", false),
    ];
    for (line, pattern, expected) in cases {
        assert_eq!(is_like(line, pattern), expected, "{line:?} {pattern:?}");
    }
}

#[test]
fn scenes_that_are_named_exist() {
    for page in page::all() {
        for block in &page.blocks {
            if let Mark::Run { scene, .. } = &block.mark {
                assert!(scene::exists(scene), "{}: {scene}", block.place);
            }
        }
    }
}
