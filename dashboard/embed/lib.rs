//! The dashboard, as files to serve.
//!
//! Owns: the files that the build made of the TypeScript beside this, plain and compressed; or why there are none.
//! Does not own: serving them (`tidemark-coordinator`), what they show (`src`).
#![forbid(unsafe_code)]

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Where it is, below `/`: `index.html`, `assets/index-1a2b3c.js`. Names in `assets` change with their content.
    pub path: &'static str,
    /// Its bytes.
    pub plain: &'static [u8],
    /// The same, compressed with gzip.
    pub gzip: &'static [u8],
}

impl Asset {
    /// What is in it, as HTTP says it.
    pub fn content_type(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            _ => "application/octet-stream",
        }
    }

    /// Whether another content would have another path, so that it can be kept for ever.
    pub fn is_immutable(&self) -> bool {
        self.path.starts_with("assets/")
    }
}

/// All files; none where the program was built without npm.
pub const ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Why there are none; "" where there are.
pub const ABSENT: &str = include!(concat!(env!("OUT_DIR"), "/absent.rs"));

/// The file at this path below `/`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn all_scripts_together_are_small_and_nothing_points_elsewhere() {
        let Some(index) = asset("index.html") else {
            assert!(!ABSENT.is_empty());
            eprintln!("SKIPPED: there is no dashboard: {ABSENT}");
            return;
        };
        let html = std::str::from_utf8(index.plain).unwrap();
        // The name of SVG is an address that nobody asks.
        let html = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
        let scripts = ASSETS.iter().filter(|asset| asset.path.ends_with(".js"));
        let bytes: usize = scripts.map(|asset| asset.gzip.len()).sum();
        assert!((1..150 << 10).contains(&bytes), "{bytes} bytes of compressed scripts");
        eprintln!("{bytes} bytes of compressed scripts");
    }

    #[test]
    fn what_is_compressed_is_the_same() {
        for asset in ASSETS {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(asset.gzip).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, asset.plain, "{}", asset.path);
        }
    }
}
