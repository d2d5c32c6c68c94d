//! What of a Markdown file is looked at: its headings, links and blocks of code.
//!
//! Owns: finding these. Does not own: whether links lead anywhere, and what blocks do.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::collections::BTreeMap;

/// A Markdown file.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// What its headings are called in links, as GitHub makes these names.
    pub(crate) anchors: Vec<String>,
    /// Where its links and pictures lead.
    pub(crate) links: Vec<Link>,
    /// Code within its text.
    pub(crate) spans: Vec<Span>,
    /// Its fenced blocks.
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) line: usize,
    pub(crate) to: String,
}

#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) text: String,
    pub(crate) directive: Option<Directive>,
}

/// What a comment right before a block says of it.
#[derive(Debug)]
pub(crate) enum Directive {
    /// It is not run, for this reason.
    NotRun(String),
    /// These commands are run first.
    Before(String),
}

impl Block {
    /// Whether it is to be run.
    pub(crate) fn is_commands(&self) -> bool {
        matches!(&*self.language, "sh" | "console")
    }

    /// Its commands, one per line: of a `console`, what stands behind the prompts.
    pub(crate) fn commands(&self) -> String {
        let joined = self.text.replace("\\\n", " ");
        match &*self.language {
            "console" => {
                joined.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>().join("\n")
            }
            _ => joined,
        }
    }
}

impl Page {
    pub(crate) fn of(text: &str) -> Self {
        let (mut page, mut reader) = (Self::default(), Reader::default());
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_FOOTNOTES;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            reader.take(&mut page, event, line);
        }
        page
    }
}

#[derive(Default)]
struct Reader {
    heading: Option<String>,
    used: BTreeMap<String, usize>,
    block: Option<Block>,
    directive: Option<Directive>,
}

impl Reader {
    fn take(&mut self, page: &mut Page, event: Event<'_>, line: usize) {
        match event {
            Event::Start(Tag::Heading { .. }) => self.heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let name = anchor(&self.heading.take().unwrap_or_default());
                let before = self.used.entry(name.clone()).or_default();
                page.anchors.push(if *before == 0 { name } else { format!("{name}-{before}") });
                *before += 1;
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(Link { line, to: dest_url.into_string() });
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let CodeBlockKind::Fenced(language) = kind else { return };
                let (language, directive) = (language.into_string(), self.directive.take());
                self.block = Some(Block { line, language, text: String::new(), directive });
            }
            Event::End(TagEnd::CodeBlock) => page.blocks.extend(self.block.take()),
            Event::Text(_) | Event::Code(_) => {
                let (Event::Text(text) | Event::Code(text)) = &event else { return };
                if matches!(event, Event::Code(_)) {
                    page.spans.push(Span { line, text: text.to_string() });
                }
                if let Some(heading) = &mut self.heading {
                    heading.push_str(text);
                }
                if let Some(block) = &mut self.block {
                    block.text.push_str(text);
                }
            }
            Event::Html(html) | Event::InlineHtml(html) => {
                self.directive = directive(&html).or(self.directive.take());
                page.links.extend(attributes(&html, &["src", "href", "srcset"]).map(|to| Link { line, to }));
                page.anchors.extend(attributes(&html, &["id", "name"]));
            }
            Event::Start(Tag::Paragraph | Tag::List(_) | Tag::Table(_) | Tag::BlockQuote(_)) => {
                self.directive = None
            }
            _ => {}
        }
    }
}

fn directive(html: &str) -> Option<Directive> {
    let comment = html.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    let (kind, rest) = comment.trim().split_once(": ")?;
    match kind {
        "not run" => Some(Directive::NotRun(rest.to_owned())),
        "before" => Some(Directive::Before(rest.replace("; ", "\n"))),
        _ => None,
    }
}

/// The values of these attributes in a piece of HTML.
fn attributes<'a>(html: &'a str, names: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    let html = if html.trim_start().starts_with("<!--") { "" } else { html };
    names.iter().flat_map(move |name| {
        let parts = html.split(&format!(" {name}=\"")).skip(1).map(str::to_owned).collect::<Vec<_>>();
        parts.into_iter().filter_map(|part| Some(part.split_once('"')?.0.to_owned()))
    })
}

/// What a heading is called in links: in lower case, without what is no letter, digit, `-` or `_`, and `-` for each space.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}
