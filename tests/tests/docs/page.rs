//! The pages, and what is on them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

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
        Self::parse(path, &text)
    }

    pub fn parse(path: PathBuf, text: &str) -> Self {
        let mut page = Self {
            path,
            blocks: Vec::new(),
            links: Vec::new(),
            anchors: Vec::new(),
            tables: Vec::new(),
            code: Vec::new(),
        };
        // The last comment, and where it ends.
        let (mut comment, mut end) = (String::new(), 0);
        // What text goes to: the innermost of a block, a link, a heading, a cell.
        let mut words = String::new();
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = || 1 + text[..range.start].matches('\n').count();
            let place = || format!("{}:{}", page.path.display(), line());
            match event {
                Event::Start(Tag::HtmlBlock) => comment.clear(),
                Event::Html(html) => {
                    comment.push_str(&html);
                    end = range.end;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    let comment = std::mem::take(&mut comment);
                    let is_right_above = !text[end..range.start].contains('\n');
                    page.blocks.push(Block {
                        place: place(),
                        language: language.to_string(),
                        text: String::new(),
                        mark: Mark::parse(if is_right_above { &comment } else { "" }),
                    });
                    words.clear();
                }
                Event::End(TagEnd::CodeBlock) => {
                    if let Some(block) = page.blocks.last_mut() {
                        block.text = std::mem::take(&mut words);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link {
                        place: place(),
                        text: words.clone(),
                        target: dest_url.to_string(),
                    });
                }
                Event::End(TagEnd::Link | TagEnd::Image) => {
                    if let Some(link) = page.links.last_mut() {
                        link.text = words[link.text.len()..].to_owned();
                    }
                }
                Event::End(TagEnd::Heading(_)) => page.anchors.push(anchor(&words)),
                Event::Start(Tag::Table(_)) => page.tables.push(Vec::new()),
                Event::Start(Tag::TableHead | Tag::TableRow) => {
                    if let Some(table) = page.tables.last_mut() {
                        table.push(Vec::new());
                    }
                }
                Event::End(TagEnd::TableCell) => {
                    let row = page.tables.last_mut().and_then(|table| table.last_mut());
                    row.expect("a cell is in a row").push(words.clone());
                }
                Event::Text(piece) => words.push_str(&piece),
                Event::Code(piece) => {
                    words.push_str(&piece);
                    page.code.push(Code {
                        place: place(),
                        text: piece.to_string(),
                    });
                }
                Event::SoftBreak => words.push(' '),
                Event::Start(Tag::Paragraph | Tag::Heading { .. } | Tag::TableCell) => {
                    words.clear()
                }
                _ => {}
            }
        }
        page
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
    fn parse(comment: &str) -> Self {
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

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let words = heading.trim().to_lowercase();
    words
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn what_is_on_a_page_is_found() {
    let text = "# A `b`: c!\n\n<!-- run: pod, exit 1 -->\n```sh\nx | y\n```\n\n\
                <!-- not run:  -->\n```sh\n```\nSee [`t` u](v.rs#w).\n\n<!-- not run: z -->\n\n\
                ```text\n```\n\n|a|b|\n|-|-|\n|`c`|[d](e)|\n";
    let page = Page::parse("p.md".into(), text);
    assert_eq!(page.anchors, ["a-b-c"]);
    let marks: Vec<_> = page.blocks.iter().map(|block| block.mark.clone()).collect();
    let run = Mark::Run {
        scene: "pod".into(),
        status: 1,
    };
    let empty = Mark::Unknown("<!-- not run:  -->".into());
    assert_eq!(marks, [run, empty, Mark::None]);
    assert_eq!(page.blocks[0].text, "x | y\n");
    assert_eq!(page.blocks[0].place, "p.md:4");
    let links: Vec<_> = page
        .links
        .iter()
        .map(|it| (&*it.text, &*it.target))
        .collect();
    assert_eq!(links, [("t u", "v.rs#w"), ("d", "e")]);
    assert_eq!(page.table("a")[1], ["c", "d"]);
    let code: Vec<_> = page.code.iter().map(|it| (&*it.place, &*it.text)).collect();
    assert_eq!(code, [("p.md:1", "b"), ("p.md:11", "t"), ("p.md:20", "c")]);
}
