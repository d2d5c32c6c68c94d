//! Makes Rust from the `.proto` files, without `protoc`.
//!
//! The published descriptor says `string` and `map` for an event's fields, as users expect. The Rust
//! types made here say `bytes` and repeated pairs for the same fields, which is the same on the wire: one
//! event with invalid UTF-8 is then a rejected event instead of a rejected batch, and decoding a row
//! builds no hash map. Servers get batches whose events are still encoded.

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::path::Path;
use std::{env, fs, io};

const CODEC: &str = "crate::codec::FastCodec";
/// Where the servers are written, in the build's folder.
const SERVERS: &str = "servers";
const QUERY_TYPES: [&str; 2] = ["Query", "Filter"];
const FILES: [&str; 7] = [
    "events.proto",
    "query.proto",
    "partial.proto",
    "history.proto",
    "live.proto",
    "flow.proto",
    "services.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = FILES.map(|name| format!("proto/tidemark/v1/{name}"));
    let mut descriptors = protox::compile(files, ["proto"])?;
    let out_dir = env::var("OUT_DIR")?;
    fs::write(Path::new(&out_dir).join("descriptors.bin"), descriptors.encode_to_vec())?;

    borrow_event_texts(&mut descriptors).ok_or("no message Event")?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let mut config =
        tonic_prost_build::configure().bytes(".").build_client(grpc).build_server(false).codec_path(CODEC);
    for name in QUERY_TYPES {
        let path = format!("tidemark.v1.{name}");
        config = config
            .type_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .type_attribute(&path, "#[serde(rename_all = \"camelCase\", default, deny_unknown_fields)]");
    }
    // protobuf's JSON mapping takes a field's own name too.
    for (path, name) in
        [("Query.group_by", "group_by"), ("Query.order_by", "order_by"), ("Filter.not_in", "not_in")]
    {
        config =
            config.field_attribute(format!("tidemark.v1.{path}"), format!("#[serde(alias = \"{name}\")]"));
    }
    config.compile_fds(descriptors.clone())?;
    if grpc {
        compile_servers(descriptors, &Path::new(&out_dir).join(SERVERS))?;
    }
    Ok(())
}

/// Servers on their own, since what they read of `SendRows` is not what clients write.
fn compile_servers(descriptors: FileDescriptorSet, out_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(out_dir)?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path(CODEC)
        .extern_path(".tidemark.v1", "crate::v1")
        .extern_path(".tidemark.v1.EventBatch", "crate::encoded::EncodedBatch")
        .out_dir(out_dir)
        .compile_fds(descriptors)
}

/// Turns the texts of `Event` into bytes and its maps into repeated pairs.
fn borrow_event_texts(descriptors: &mut FileDescriptorSet) -> Option<()> {
    let is_event = |message: &DescriptorProto| message.name() == "Event";
    let file = descriptors.file.iter_mut().find(|file| file.message_type.iter().any(is_event))?;
    let event_index = file.message_type.iter().position(is_event)?;
    let event = &mut file.message_type[event_index];
    let mut new_paths = Vec::new();
    texts_to_bytes(event);
    for (entry_index, entry) in event.nested_type.iter_mut().enumerate() {
        if let Some(options) = &mut entry.options {
            options.map_entry = None;
        }
        texts_to_bytes(entry);
        let path = [4, event_index, 3, entry_index].map(|number| number as i32);
        new_paths.extend((0..entry.field.len()).map(|field| [&path[..], &[2, field as i32]].concat()));
        new_paths.push(path.to_vec());
    }
    // The generator looks up the comments of every message it writes, by binary search; pairs have none.
    let comments = file.source_code_info.get_or_insert_default();
    comments.location.extend(new_paths.into_iter().map(|path| Location { path, ..Location::default() }));
    comments.location.sort_by(|a, b| a.path.cmp(&b.path));
    Some(())
}

fn texts_to_bytes(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if field.r#type() == Type::String {
            field.set_type(Type::Bytes);
        }
    }
}
