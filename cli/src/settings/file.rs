//! Settings from a TOML file.
//!
//! Owns: keys and values of the file, checked by the parsers of the flags, as new defaults of the command's arguments.
//! Does not own: reading the file, flags and environment variables (`command_line`).
//!
//! Making file values defaults gives the order for free: whatever was given as a flag or in the environment goes before
//! them.

use clap::{Arg, ArgAction, Command};
use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use toml::{Table, Value};

/// Arguments that are no settings: a file cannot name a file.
const NO_KEYS: [&str; 3] = ["config", "help", "version"];

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileError {
    /// Correct the syntax.
    Syntax(String),
    /// Remove the key, or spell it like one of the valid ones.
    UnknownKey { key: String, valid: Vec<String> },
    /// Give another value.
    BadValue { key: String, value: String, message: String },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "{message}"),
            Self::UnknownKey { key, valid } => {
                write!(f, "{key} is no setting; these are: {}", valid.join(", "))
            }
            Self::BadValue { key, value, message } => write!(f, "{key} = {value}: {message}"),
        }
    }
}

/// The command with the file's values as defaults. Keys among `others` that the command does not have are passed over.
///
/// # Errors
/// The first key that is no setting of the command, or whose value cannot be.
pub(crate) fn with_defaults_from(
    mut command: Command,
    file: &str,
    others: &BTreeSet<String>,
) -> Result<Command, FileError> {
    let table: Table = file
        .parse()
        .map_err(|error: toml::de::Error| FileError::Syntax(error.to_string().trim_end().to_owned()))?;
    for (key, value) in &table {
        if setting(&command, key).is_none() && others.contains(key) {
            continue;
        }
        let arg = setting(&command, key).ok_or_else(|| FileError::UnknownKey {
            key: key.clone(),
            valid: settings(&command).map(|arg| arg.get_id().to_string()).collect(),
        })?;
        let texts = texts(arg, value).and_then(|texts| check(arg, &texts).map(|()| texts));
        let texts = texts.map_err(|message| FileError::BadValue {
            key: key.clone(),
            value: value.to_string(),
            message,
        })?;
        command = command.mut_arg(key, |arg| arg.default_values(texts));
    }
    Ok(command)
}

/// The arguments of a command that a file can set.
pub(crate) fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NO_KEYS.contains(&arg.get_id().as_str()))
}

fn setting<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    settings(command).find(|arg| arg.get_id() == key)
}

/// What the file has to hold for an argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Integer,
    Text,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        let value = arg.get_value_parser().type_id();
        let integers = [
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<NonZeroUsize>(),
            TypeId::of::<ShardCount>(),
            TypeId::of::<Replication>(),
        ];
        match value {
            value if value == TypeId::of::<bool>() => Self::Boolean,
            value if integers.iter().any(|integer| value == *integer) => Self::Integer,
            _ => Self::Text,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Integer => "a whole number, without quotes",
            Self::Text => "a text in quotes",
        }
    }
}

/// A value of the file as a flag's values.
fn texts(arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let kind = Kind::of(arg);
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    match (is_list, value) {
        (true, Value::Array(values)) => {
            let texts = values.iter().map(|value| text(kind, value));
            texts.collect::<Option<_>>().ok_or_else(|| format!("every element has to be {}", kind.name()))
        }
        (true, _) => Err("give an array, like [\"a\", \"b\"]".to_owned()),
        (false, value) => {
            let text =
                text(kind, value).ok_or_else(|| format!("give {}{}", kind.name(), example(arg, kind)))?;
            Ok(vec![text])
        }
    }
}

fn text(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::Boolean, Value::Boolean(value)) => Some(value.to_string()),
        (Kind::Integer, Value::Integer(value)) => Some(value.to_string()),
        (Kind::Text, Value::String(value)) => Some(value.clone()),
        _ => None,
    }
}

/// The default, in the file's form.
fn example(arg: &Arg, kind: Kind) -> String {
    match arg.get_default_values() {
        [default] if kind == Kind::Text => format!(", like {:?}", default.to_string_lossy()),
        [default] => format!(", like {}", default.to_string_lossy()),
        _ => String::new(),
    }
}

/// Lets the argument's own parser judge. Defaults are not checked before they are used, which would be too late to name
/// the key.
fn check(arg: &Arg, texts: &[String]) -> Result<(), String> {
    let Some(long) = arg.get_long() else { return Err("is no flag".to_owned()) };
    let flags = texts.iter().map(|text| format!("--{long}={text}"));
    let command = Command::new("file").no_binary_name(true).arg(arg.clone());
    let parsed = command.try_get_matches_from(flags);
    parsed.map(|_| ()).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    })
}
