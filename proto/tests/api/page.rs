//! The page that is made of the `.proto` files.
//!
//! Owns: its order and its words. What clients need comes first: the services that are not between members, and every message that
//! can be reached from them.
//! Does not own: what the declarations say (the `.proto` files).

use crate::comments::{Comments, ENUM, FIELD, MESSAGE, SERVICE};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const PACKAGE: &str = ".tidemark.v1.";
/// The service that clients have nothing to do with.
const MEMBERS_ONLY: &str = "Cluster";
const INTRODUCTION: &str = "\
# API

<!-- Made from the comments in proto/proto/tidemark/v1 by `TIDEMARK_WRITE=1 cargo test -p tidemark-proto --test api`. Do not edit. -->

Every call and every message of gRPC package `tidemark.v1`, as the [`.proto` files](../proto/proto/tidemark/v1) say. Nodes serve
`Ingest` and `Admin`, coordinators `Analytics`, also as gRPC-Web and beside the JSON of the same port
([README](../README.md#interfaces)). Both have server reflection and the standard health service.

* How to send, with what to do about each reply: [deploy/examples](../deploy/examples/README.md), [events.md](events.md).
* How to follow an answer: [live.md](live.md). How to make blocks: [blocks.md](blocks.md).
* New calls, fields and values may come: ignore those that you do not know.
";

enum Declared<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

/// A message or enum of one of the files.
struct Item<'a> {
    file: usize,
    path: Vec<i32>,
    declared: Declared<'a>,
}

struct Service<'a> {
    file: usize,
    index: i32,
    service: &'a ServiceDescriptorProto,
}

struct Page<'a> {
    files: Vec<(&'a FileDescriptorProto, Comments)>,
    /// By name, without the package.
    items: BTreeMap<&'a str, Item<'a>>,
    services: Vec<Service<'a>>,
    /// Names of what can be reached from the services for clients.
    reached: BTreeSet<&'a str>,
}

/// The page.
pub(crate) fn of(descriptors: &FileDescriptorSet) -> String {
    let page = Page::of(descriptors);
    let mut text = INTRODUCTION.to_owned();
    let (members, clients): (Vec<_>, Vec<_>) =
        page.services.iter().partition(|of| of.service.name() == MEMBERS_ONLY);
    text.push_str("\n## Services\n");
    clients.iter().for_each(|service| page.service(&mut text, service));
    page.files_of(&mut text, "Messages of these services", true);
    text.push_str("\n## Between members\n");
    members.iter().for_each(|service| page.service(&mut text, service));
    page.files_of(&mut text, "Messages between members, and in the store", false);
    text
}

/// What clients can see, and no comment says anything about.
pub(crate) fn silent(descriptors: &FileDescriptorSet) -> Vec<String> {
    let page = Page::of(descriptors);
    let mut silent = Vec::new();
    for Service { file, index, service } in &page.services {
        for (method, path) in methods(*index, service) {
            if page.files[*file].1.at(&path).is_empty() {
                silent.push(format!("{}.{}", service.name(), method.name()));
            }
        }
    }
    let items = page.items.iter().filter(|(name, item)| {
        page.reached.contains(*name) && !is_empty(item) && page.files[item.file].1.at(&item.path).is_empty()
    });
    silent.extend(items.map(|(name, _)| (*name).to_owned()));
    silent
}

/// Text as the cell of a table shows it.
pub(crate) fn cell(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| {
        let part = part.replace('|', "\\|").replace('\n', " ");
        // Every second part is code, and stands as it is.
        if at % 2 == 1 { part } else { part.replace('*', "\\*").replace('<', "&lt;") }
    });
    parts.collect::<Vec<_>>().join("`")
}

fn is_empty(item: &Item<'_>) -> bool {
    matches!(item.declared, Declared::Message(message) if message.field.is_empty())
}

fn methods(
    index: i32,
    service: &ServiceDescriptorProto,
) -> impl Iterator<Item = (&MethodDescriptorProto, Vec<i32>)> {
    service.method.iter().zip(0..).map(move |(method, at)| (method, vec![SERVICE, index, FIELD, at]))
}

fn short(name: &str) -> &str {
    name.strip_prefix(PACKAGE).unwrap_or(name)
}

impl<'a> Page<'a> {
    fn of(descriptors: &'a FileDescriptorSet) -> Self {
        let files: Vec<_> = descriptors.file.iter().map(|file| (file, Comments::of(file))).collect();
        let (mut items, mut services) = (BTreeMap::new(), Vec::new());
        for (number, (file, _)) in files.iter().enumerate() {
            for (message, index) in file.message_type.iter().zip(0..) {
                let declared = Declared::Message(message);
                items.insert(message.name(), Item { file: number, path: vec![MESSAGE, index], declared });
            }
            for (of, index) in file.enum_type.iter().zip(0..) {
                items.insert(
                    of.name(),
                    Item { file: number, path: vec![ENUM, index], declared: Declared::Enum(of) },
                );
            }
            let found = file.service.iter().zip(0..);
            services.extend(found.map(|(service, index)| Service { file: number, index, service }));
        }
        let mut page = Self { files, items, services, reached: BTreeSet::new() };
        page.reach();
        page
    }

    fn reach(&mut self) {
        let mut next: Vec<&'a str> = Vec::new();
        for of in self.services.iter().filter(|of| of.service.name() != MEMBERS_ONLY) {
            next.extend(
                of.service.method.iter().flat_map(|of| [short(of.input_type()), short(of.output_type())]),
            );
        }
        // What is told of without being sent as such: the columns of a block are an encoded message.
        next.push("Columns");
        while let Some(name) = next.pop() {
            let Some(item) = self.items.get(name) else { continue };
            if self.reached.insert(name)
                && let Declared::Message(message) = item.declared
            {
                next.extend(
                    message.field.iter().filter_map(|field| Some(short(field.type_name.as_deref()?))),
                );
            }
        }
    }

    fn service(&self, text: &mut String, Service { file, index, service }: &Service<'_>) {
        let comments = &self.files[*file].1;
        let about = comments.at(&[SERVICE, *index]);
        _ = write!(
            text,
            "\n### {}\n\n{about}\n\n| call | takes | gives | |\n| --- | --- | --- | --- |\n",
            service.name()
        );
        for (method, path) in methods(*index, service) {
            let [takes, gives] = [
                (method.input_type(), method.client_streaming()),
                (method.output_type(), method.server_streaming()),
            ]
            .map(|(name, streams)| format!("{}{}", if streams { "stream of " } else { "" }, self.link(name)));
            _ = writeln!(text, "| `{}` | {takes} | {gives} | {} |", method.name(), cell(comments.at(&path)));
        }
    }

    /// The messages and enums that clients can reach, or the others, file by file.
    fn files_of(&self, text: &mut String, title: &str, reached: bool) {
        _ = write!(text, "\n## {title}\n");
        for (number, (file, comments)) in self.files.iter().enumerate() {
            let of_file = |item: &&Item<'_>| item.file == number;
            let mut items: Vec<(&str, &Item<'_>)> = self
                .items
                .iter()
                .filter(|(name, item)| {
                    of_file(item) && self.reached.contains(*name) == reached && !is_empty(item)
                })
                .map(|(name, item)| (*name, item))
                .collect();
            // As they stand in the file: messages, then enums.
            items.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
            let name = file.name().rsplit('/').next().unwrap_or_default();
            if !items.is_empty() {
                _ = write!(text, "\n`{name}`: {}\n", comments.file());
            }
            for (name, item) in items {
                _ = write!(text, "\n### {name}\n\n");
                let about = comments.at(&item.path);
                if !about.is_empty() {
                    _ = write!(text, "{about}\n\n");
                }
                match item.declared {
                    Declared::Message(message) => self.message(text, message, item, comments),
                    Declared::Enum(of) => values(text, of, item, comments),
                }
            }
        }
    }

    fn message(&self, text: &mut String, message: &DescriptorProto, item: &Item<'_>, comments: &Comments) {
        text.push_str("| | field | type | |\n| ---: | --- | --- | --- |\n");
        for (field, at) in message.field.iter().zip(0..) {
            let about = cell(comments.at(&[&item.path[..], &[FIELD, at]].concat()));
            let one_of = field.oneof_index.filter(|_| !field.proto3_optional());
            let one_of = one_of.and_then(|index| message.oneof_decl.get(index as usize));
            let one_of = one_of.map(|of| format!("(one of `{}`) ", of.name())).unwrap_or_default();
            let kind = self.kind(message, field);
            _ = writeln!(text, "| {} | `{}` | {kind} | {one_of}{about} |", field.number(), field.name());
        }
    }

    fn kind(&self, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let plain = |field: &FieldDescriptorProto| match field.r#type() {
            Type::Message | Type::Enum => self.link(field.type_name()),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        let entry = message.nested_type.iter().find(|nested| {
            field.type_name().ends_with(&format!(".{}", nested.name()))
                && nested.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
        });
        match entry.map(|entry| &entry.field[..]) {
            Some([key, value]) => format!("map of {} to {}", plain(key), plain(value)),
            _ if field.label() == Label::Repeated => format!("repeated {}", plain(field)),
            _ if field.proto3_optional() => format!("optional {}", plain(field)),
            _ => plain(field),
        }
    }

    fn link(&self, name: &str) -> String {
        let name = short(name);
        match self.items.get(name) {
            Some(item) if !is_empty(item) => format!("[{name}](#{})", name.to_lowercase()),
            Some(_) => format!("{name} (empty)"),
            None => name.to_owned(),
        }
    }
}

fn values(text: &mut String, of: &EnumDescriptorProto, item: &Item<'_>, comments: &Comments) {
    text.push_str("| | name | |\n| ---: | --- | --- |\n");
    for (value, at) in of.value.iter().zip(0..) {
        let about = cell(comments.at(&[&item.path[..], &[FIELD, at]].concat()));
        _ = writeln!(text, "| {} | `{}` | {about} |", value.number(), value.name());
    }
}
