//! The pages, and what is on them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::markdown::read;

/// One page of the documentation.
pub struct Page {
    /// As seen from the top of the repository.
    pub path: PathBuf,
    pub blocks: Vec<Block>,
    pub links: Vec<Link>,
    /// What a link behind a `#` may name.
    pub anchors: Vec<String>,
    /// The rows of every table, the heads first.
    pub tables: Vec<Vec<Vec<String>>>,
    /// Code amid the text.
    pub code: Vec<Code>,
}

/// A fenced block.
pub struct Block {
    /// `docs/page.md:12`
    pub place: String,
    pub language: String,
    pub text: String,
    pub mark: Mark,
}

/// What the comment above a block says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    None,
    /// It is run in that scene, and ends with that status.
    Run { scene: String, status: i32 },
    /// It is not, and why.
    NotRun(String),
    /// The block before prints it.
    Output,
    /// The agent's code has it.
    Message,
    /// Something that nobody knows.
    Unknown(String),
}

pub struct Code {
    pub place: String,
    pub text: String,
}

pub struct Link {
    pub place: String,
    pub text: String,
    pub target: String,
}

/// The top of the repository.
pub fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are a part of it")
}

/// The README, and all that is below `docs` and `deploy`.
pub fn all() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("README.md")];
    for directory in ["docs", "deploy"] {
        collect(Path::new(directory), &mut paths);
    }
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

fn collect(directory: &Path, pages: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(root().join(directory)).expect("a directory");
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let path = directory.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            collect(&path, pages);
        } else if path.extension().is_some_and(|it| it == "md") {
            pages.push(path);
        }
    }
}

impl Page {
    /// Reads one.
    pub fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(root().join(&path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        read(path, &text)
    }

    /// The table whose first head is called so.
    pub fn table(&self, head: &str) -> &[Vec<String>] {
        let mut tables = self.tables.iter();
        tables
            .find(|table| table[0].first().is_some_and(|it| it == head))
            .unwrap_or_else(|| panic!("{} has no table of {head}", self.path.display()))
    }
}

impl Block {
    pub fn is_commands(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "bash" | "shell" | "console")
    }
}

impl Mark {
    pub fn parse(comment: &str) -> Self {
        let comment = comment.trim();
        if comment.is_empty() {
            return Self::None;
        }
        let inner = comment.strip_prefix("<!--");
        let inner = inner.and_then(|it| it.strip_suffix("-->")).map(str::trim);
        match inner.map(|it| it.split_once(':').unwrap_or((it, ""))) {
            Some(("output", "")) => Self::Output,
            Some(("message", "")) => Self::Message,
            Some(("not run", why)) if !why.trim().is_empty() => Self::NotRun(why.trim().into()),
            Some(("run", scene)) => {
                let (scene, status) = scene.split_once(", exit ").unwrap_or((scene, "0"));
                match status.trim().parse() {
                    Ok(status) => Self::Run {
                        scene: scene.trim().into(),
                        status,
                    },
                    Err(_) => Self::Unknown(comment.into()),
                }
            }
            _ => Self::Unknown(comment.into()),
        }
    }
}
