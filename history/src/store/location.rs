//! Where a store is, as settings spell it.
//!
//! Owns: the spelling, and opening what it names.
//! Does not own: what is done with the store.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine, created if absent: `/var/lib/tidemark/history` or `file:///var/lib/tidemark/history`.
    /// Several members may share it where it is one file system with hard links.
    Folder(PathBuf),
    /// `memory:`. Each opening is a store of its own; clones of the [`Store`](super::Store) share it.
    Memory,
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket. It has to exist.
        bucket: String,
        /// Begins the path of every object; may be empty.
        prefix: String,
    },
}

/// A text that names no place for a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no store: give a folder, file:///folder, s3://bucket/prefix or memory:")]
pub struct LocationError(String);

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let error = || LocationError(text.to_owned());
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        match text.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_matches('/');
                let prefix = object_store::path::Path::parse(prefix).map_err(|_| error())?;
                let named = !bucket.is_empty() && bucket.bytes().all(|byte| byte.is_ascii_graphic());
                let location = Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_string() };
                named.then_some(location).ok_or_else(error)
            }
            Some(("file", _)) => {
                let url = url::Url::parse(text).map_err(|_| error())?;
                url.to_file_path().map(Self::Folder).map_err(|()| error())
            }
            Some(_) => Err(error()),
            None if text.trim().is_empty() => Err(error()),
            None => Ok(Self::Folder(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Memory => f.write_str("memory:"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Give a folder that this program may create and write.
    #[error("cannot use the folder {}: {source}: give one that may be created and written", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Correct the settings that it names.
    #[error("cannot open {location}: {source}: check the AWS_* environment variables")]
    Settings {
        /// The store.
        location: Location,
        /// What is wrong.
        source: Box<object_store::Error>,
    },
}

/// Opens what `location` names. `options` are settings of S3 as pairs like (`AWS_REGION`, `eu-central-1`).
pub(super) fn open(
    location: &Location,
    options: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    match location {
        Location::Folder(folder) => open_folder(folder)
            .map_err(|source| OpenError::Folder { folder: folder.clone(), source })
            .map(|store| Arc::new(store) as _),
        Location::Memory => Ok(Arc::new(InMemory::new())),
        Location::S3 { bucket, prefix } => open_s3(bucket, prefix, options)
            .map_err(|source| OpenError::Settings { location: location.clone(), source: Box::new(source) }),
    }
}

fn open_folder(folder: &Path) -> std::io::Result<LocalFileSystem> {
    std::fs::create_dir_all(folder)?;
    // A journal is trimmed because of what is here: it has to be on the disk.
    Ok(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true))
}

fn open_s3(
    bucket: &str,
    prefix: &str,
    options: impl IntoIterator<Item = (String, String)>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Process-global, unlike anything else here: reqwest takes rustls' provider from there and panics where there is
    // none. An error says that there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();

    // `Store` limits whole calls, by size; this notices a connection that is dead before that.
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(5))
        .with_read_timeout(Duration::from_secs(20));
    // Callers try again, with longer waits and a log line.
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(1),
        ..BackoffConfig::default()
    };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(10) };
    let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
    let store = options.into_iter().fold(builder, with_option).with_bucket_name(bucket).build()?;
    Ok(match prefix {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, object_store::path::Path::parse(prefix)?)),
    })
}

/// As `AmazonS3Builder::from_env` does it: what S3 does not know is not for S3.
fn with_option(builder: AmazonS3Builder, (key, value): (String, String)) -> AmazonS3Builder {
    let key = key.to_ascii_lowercase();
    match key.parse::<AmazonS3ConfigKey>() {
        Ok(parsed) if key.starts_with("aws_") => builder.with_config(parsed, value),
        _ => builder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_back_as_they_were_written() {
        for (text, location) in [
            ("memory:", Location::Memory),
            ("/var/lib/tidemark", Location::Folder("/var/lib/tidemark".into())),
            ("data/history", Location::Folder("data/history".into())),
            ("s3://bucket", Location::S3 { bucket: "bucket".into(), prefix: String::new() }),
            ("s3://bucket/a/b", Location::S3 { bucket: "bucket".into(), prefix: "a/b".into() }),
        ] {
            assert_eq!(text.parse(), Ok(location.clone()));
            assert_eq!(location.to_string(), text);
        }
        assert_eq!("s3://bucket/a/".parse::<Location>().unwrap().to_string(), "s3://bucket/a");
        assert_eq!("file:///a/b%20c".parse(), Ok(Location::Folder("/a/b c".into())));
    }

    #[test]
    fn what_names_no_store_is_an_error_that_says_what_would() {
        for text in [
            "",
            " ",
            "gs://bucket",
            "s3://",
            "s3:///a",
            "s3://b/a//c",
            "file://host/a",
            "http://x",
            "s3://b c",
        ] {
            let error = text.parse::<Location>().expect_err(text).to_string();
            assert!(error.contains("s3://bucket/prefix"), "{error}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let location = Location::Folder(file.path().join("below"));
        let error = open(&location, []).unwrap_err().to_string();
        assert!(error.contains("below"), "{error}");
    }
}
