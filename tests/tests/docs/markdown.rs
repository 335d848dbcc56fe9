//! Reads a page.

use std::{ops::Range, path::PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::page::{Block, Code, Link, Mark, Page};

/// Reads the text of the page that is at `path`.
pub fn read(path: PathBuf, text: &str) -> Page {
    let mut reader = Reader {
        text,
        comment: String::new(),
        comment_end: 0,
        words: String::new(),
        page: Page {
            path,
            blocks: Vec::new(),
            links: Vec::new(),
            anchors: Vec::new(),
            tables: Vec::new(),
            code: Vec::new(),
        },
    };
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        reader.take(event, &range);
    }
    reader.page
}

struct Reader<'a> {
    text: &'a str,
    /// The last comment.
    comment: String,
    comment_end: usize,
    /// The text since the last block, heading, paragraph or cell began.
    words: String,
    page: Page,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, range: &Range<usize>) {
        match event {
            Event::Start(tag) => self.start(tag, range),
            Event::End(tag) => self.end(tag),
            Event::Html(html) => {
                self.comment.push_str(&html);
                self.comment_end = range.end;
            }
            Event::Text(piece) => self.words.push_str(&piece),
            Event::Code(piece) => {
                self.words.push_str(&piece);
                self.page.code.push(Code {
                    place: self.place(range),
                    text: piece.to_string(),
                });
            }
            Event::SoftBreak => self.words.push(' '),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>, range: &Range<usize>) {
        match tag {
            Tag::HtmlBlock => self.comment.clear(),
            Tag::Paragraph | Tag::Heading { .. } | Tag::TableCell => self.words.clear(),
            Tag::CodeBlock(kind) => {
                self.words.clear();
                let is_right_above = !self.text[self.comment_end..range.start].contains('\n');
                let comment = if is_right_above { &self.comment } else { "" };
                self.page.blocks.push(Block {
                    place: self.place(range),
                    language: match kind {
                        CodeBlockKind::Fenced(language) => language.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    },
                    text: String::new(),
                    mark: Mark::parse(comment),
                });
            }
            // What it says is known at its end, and begins here.
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.page.links.push(Link {
                    place: self.place(range),
                    text: self.words.clone(),
                    target: dest_url.to_string(),
                });
            }
            Tag::Table(_) => self.page.tables.push(Vec::new()),
            Tag::TableHead | Tag::TableRow => {
                let table = self.page.tables.last_mut();
                table.expect("a row is in a table").push(Vec::new());
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::CodeBlock => {
                let block = self.page.blocks.last_mut().expect("it has begun");
                block.text = std::mem::take(&mut self.words);
            }
            TagEnd::Link | TagEnd::Image => {
                let link = self.page.links.last_mut().expect("it has begun");
                link.text = self.words.split_off(link.text.len());
                self.words.push_str(&link.text);
            }
            TagEnd::Heading(_) => self.page.anchors.push(anchor(&self.words)),
            TagEnd::TableCell => {
                let row = self.page.tables.last_mut().and_then(|it| it.last_mut());
                row.expect("a cell is in a row").push(self.words.clone());
            }
            _ => {}
        }
    }

    fn place(&self, range: &Range<usize>) -> String {
        let line = 1 + self.text[..range.start].matches('\n').count();
        format!("{}:{line}", self.page.path.display())
    }
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let words = heading.trim().to_lowercase();
    let kept: String = words.chars().filter(kept).collect();
    kept.replace(' ', "-")
}

#[test]
fn what_is_on_a_page_is_found() {
    let text = "# A `b`: c!\n\n<!-- run: pod, exit 1 -->\n```sh\nx | y\n```\n\n\
                <!-- not run:  -->\n```sh\n```\nSee [`t` u](v.rs#w).\n\n<!-- not run: z -->\n\n\
                ```text\n```\n\n|a|b|\n|-|-|\n|`c`|[d](e)|\n";
    let page = read("p.md".into(), text);
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
