//! No source file is longer than a person reads in one go.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Outcome;
use crate::workspace::Workspace;

/// The most lines a source file may have.
const LIMIT: usize = 400;

/// A file with this in one of its first lines was not written by a person.
const GENERATED: &str = "@generated";

/// How many lines the marker is looked for in.
const HEADER_LINES: usize = 5;

/// Looks at every Rust file of the workspace.
///
/// # Errors
///
/// When a file is too long, or a directory can't be read.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let mut files = Vec::new();
    collect(workspace.root(), &mut files)?;
    let mut long = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        if let Some(lines) = too_long(&text) {
            long.push(format!(
                "{}: {lines} lines",
                workspace.relative(&file).display()
            ));
        }
    }
    if long.is_empty() {
        return Ok(Outcome::Passed);
    }
    long.sort();
    bail!(
        "files over {LIMIT} lines; split them:\n  {}",
        long.join("\n  ")
    )
}

/// The number of lines, if there are too many.
fn too_long(text: &str) -> Option<usize> {
    let lines = text.lines().count();
    let generated = text
        .lines()
        .take(HEADER_LINES)
        .any(|line| line.contains(GENERATED));
    (lines > LIMIT && !generated).then_some(lines)
}

/// Adds the Rust files below `directory`, except in hidden and build directories.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("listing {}", directory.display());
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let path = entry.path();
        let name = entry.file_name();
        let kind = entry.file_type().with_context(unreadable)?;
        if kind.is_dir() {
            let skipped = name == "target" || name.as_encoded_bytes().starts_with(b".");
            if !skipped {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_over_the_limit_is_found_unless_generated() {
        let cases = [
            (String::new(), None),
            ("//\n".repeat(LIMIT), None),
            ("//\n".repeat(LIMIT + 1), Some(LIMIT + 1)),
            (format!("// @generated\n{}", "//\n".repeat(LIMIT)), None),
            (
                format!("{}// @generated\n", "//\n".repeat(LIMIT)),
                Some(LIMIT + 1),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(too_long(&text), expected, "{} bytes", text.len());
        }
    }
}
