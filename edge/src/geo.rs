//! Countries of addresses.
//!
//! Owns: what a file in MaxMind's format says of an address.
//! Does not own: whose address it is, and keeping it (nobody does).

use maxminddb::{PathElement, Reader};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read as a file of MaxMind's format (.mmdb): {source}", file.display())]
pub struct GeoError {
    file: PathBuf,
    source: maxminddb::MaxMindDbError,
}

/// A file of countries, in memory.
pub struct Geo(Reader<Vec<u8>>);

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Geo").field("type", &self.0.metadata().database_type).finish_non_exhaustive()
    }
}

/// Where the files of several makers have the code of a country.
const PLACES: [&[PathElement<'_>]; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
    &[PathElement::Key("country")],
];

impl Geo {
    /// Reads a file. Takes as much memory as it has bytes. Blocks the thread.
    ///
    /// # Errors
    /// Where it cannot be read, or is of another format.
    pub fn open(file: &Path) -> Result<Self, GeoError> {
        let reader = Reader::open_readfile(file);
        reader.map(Self).map_err(|source| GeoError { file: file.to_owned(), source })
    }

    /// The country of an address, in two capital letters; `None` where the file does not say.
    pub fn country(&self, address: IpAddr) -> Option<String> {
        let found = self.0.lookup(address).ok()?;
        let code = PLACES.iter().find_map(|place| found.decode_path::<&str>(place).ok().flatten())?;
        let is_code = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
        is_code.then(|| code.to_ascii_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    #[test]
    fn addresses_have_the_country_that_the_file_says_in_whichever_form_it_says_it() {
        let geo = Geo::open(&data("countries.mmdb")).unwrap();
        let of = |text: &str| geo.country(text.parse().unwrap());
        assert_eq!(of("203.0.113.7").as_deref(), Some("DE"));
        assert_eq!(of("2001:db8:1::7").as_deref(), Some("FR"));
        assert_eq!(of("198.51.100.1").as_deref(), Some("JP"), "country_code");
        assert_eq!(of("198.51.100.200").as_deref(), Some("BR"), "country");
        assert_eq!(of("192.0.2.1"), None, "a record without a country");
        assert_eq!(of("10.0.0.1"), None, "no record");
    }

    #[test]
    fn a_file_of_another_format_is_an_error_that_names_it() {
        let error = Geo::open(&data("countries.py")).unwrap_err().to_string();
        assert!(error.contains("countries.py") && error.contains(".mmdb"), "{error}");
        assert!(Geo::open(&data("absent")).is_err());
    }
}
