//! Log files line by line, and where in time a log ends.
//!
//! Owns: plain and gzip files, the bound on a line's length, and the shift of a whole log to now.
//! Does not own: what a line says (`log`), or what time it is (an argument).
//!
//! Invariant: however long a line is, no more than [`MAX_LINE_BYTES`] and one byte of it are held in memory.

use crate::log::{self, LineFault, LogFormat};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The longest line that is read, without its line feed: 64 KiB. Web servers cut requests off well below it.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Length of a bucket in milliseconds: the step by which logs are shifted, so that lines which shared a bucket
/// still do.
const BUCKET_MS: i64 = 300_000;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Read-ahead of a file, and of the text that is unpacked from one.
const BUFFER_BYTES: usize = 128 << 10;

/// Reads a log file, plain or gzip (also several gzip members in one file, as log rotation makes them).
pub struct LogReader {
    source: Source,
    total_bytes: u64,
    line: Vec<u8>,
}

impl LogReader {
    /// Opens a log. Whether it is gzip is told by its first bytes, not by its name.
    ///
    /// # Errors
    /// Where the file cannot be opened or its beginning cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let total_bytes = file.metadata()?.len();
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, Counted { file, bytes: 0 });
        let source = if plain.fill_buf()?.starts_with(&GZIP_MAGIC) {
            Source::Gzip(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(plain)))
        } else {
            Source::Plain(plain)
        };
        Ok(Self { source, total_bytes, line: Vec::new() })
    }

    /// The next line without its line feed, [`LineFault::LineTooLong`] in place of one that is longer than
    /// [`MAX_LINE_BYTES`], or `None` at the end. A last line without a line feed is a line.
    ///
    /// # Errors
    /// Where the file cannot be read, or is gzip and damaged or cut off. What came before has been handed out.
    pub fn next_line(&mut self) -> io::Result<Option<Result<&[u8], LineFault>>> {
        self.line.clear();
        let input = self.source.as_buf_read();
        let limit = MAX_LINE_BYTES as u64 + 1;
        if input.take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > MAX_LINE_BYTES {
            self.source.as_buf_read().skip_until(b'\n')?;
            return Ok(Some(Err(LineFault::LineTooLong)));
        }
        Ok(Some(Ok(&self.line)))
    }

    /// Bytes taken from the file so far, of a gzip file as it is on disk. Somewhat ahead of the lines handed out,
    /// since the file is read in larger pieces.
    pub fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Plain(plain) => plain.get_ref().bytes,
            Source::Gzip(text) => text.get_ref().get_ref().get_ref().bytes,
        }
    }

    /// Size of the file on disk when it was opened, in bytes; 0 for a pipe.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

enum Source {
    Plain(BufReader<Counted>),
    Gzip(BufReader<MultiGzDecoder<BufReader<Counted>>>),
}

impl Source {
    fn as_buf_read(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(plain) => plain,
            Self::Gzip(text) => text,
        }
    }
}

/// A file that knows how much of it was read.
struct Counted {
    file: File,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// The newest time of all events in a log, in milliseconds since the Unix epoch; `None` if it has no event.
///
/// Reads the whole file, because logs are not sorted by time: servers write a line when a request ends.
///
/// # Errors
/// As [`LogReader::open`] and [`LogReader::next_line`].
pub fn scan_newest_time(path: &Path, format: LogFormat) -> io::Result<Option<i64>> {
    let mut reader = LogReader::open(path)?;
    let mut newest = None;
    while let Some(line) = reader.next_line()? {
        let time_ms = line.ok().and_then(|line| log::line_time_ms(line, format));
        newest = newest.max(time_ms);
    }
    Ok(newest)
}

/// What to add to every time of a log, in milliseconds, so that it ends now.
///
/// A whole number of five-minute steps, the largest that leaves the newest event at or before `now_ms`: it lands in
/// the last five minutes, nothing lands in the future, and events of one bucket stay together.
pub fn shift(newest_ms: i64, now_ms: i64) -> i64 {
    now_ms.saturating_sub(newest_ms).div_euclid(BUCKET_MS).saturating_mul(BUCKET_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn file_of(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn lines_of(content: &[u8]) -> Vec<Result<Vec<u8>, LineFault>> {
        let file = file_of(content);
        let mut reader = LogReader::open(file.path()).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            lines.push(line.map(<[u8]>::to_vec));
        }
        assert_eq!(reader.bytes_read(), reader.total_bytes());
        assert_eq!(reader.total_bytes(), content.len() as u64);
        lines
    }

    #[test]
    fn lines_are_the_same_from_a_plain_and_a_gzip_file() {
        let text = b"one\n\ntwo\r\nlast";
        let expected = [&b"one"[..], b"", b"two\r", b"last"].map(|line| Ok(line.to_vec()));
        assert_eq!(lines_of(text), expected);
        assert_eq!(lines_of(&gzip(text)), expected);
    }

    #[test]
    fn a_gzip_file_may_have_several_members_and_a_line_may_cross_them() {
        let members = [gzip(b"a\nb"), gzip(b"c\n"), gzip(b"d\n")].concat();
        assert_eq!(lines_of(&members), [&b"a"[..], b"bc", b"d"].map(|line| Ok(line.to_vec())));
    }

    #[test]
    fn an_empty_file_has_no_lines() {
        assert_eq!(lines_of(b""), []);
        assert_eq!(lines_of(&gzip(b"")), []);
    }

    #[test]
    fn a_line_of_the_greatest_length_is_read_and_a_longer_one_is_skipped() {
        let fits = vec![b'x'; MAX_LINE_BYTES];
        let too_long = vec![b'y'; 5 * MAX_LINE_BYTES];
        let one_too_long = vec![b'z'; MAX_LINE_BYTES + 1];
        let text = [&fits[..], &too_long, &one_too_long, b"next", &fits, &one_too_long].join(&b'\n');
        let too_long = Err(LineFault::LineTooLong);
        let expected =
            [Ok(fits.clone()), too_long.clone(), too_long.clone(), Ok(b"next".to_vec()), Ok(fits), too_long];
        assert_eq!(lines_of(&text), expected);
        assert_eq!(lines_of(&gzip(&text)), expected);
    }

    #[test]
    fn a_gzip_file_that_was_cut_off_is_an_error_after_its_lines() {
        let mut packed = gzip(b"one\ntwo\n");
        packed.truncate(packed.len() - 4);
        let file = file_of(&packed);
        let mut reader = LogReader::open(file.path()).unwrap();
        let mut lines = 0;
        let error = loop {
            match reader.next_line() {
                Ok(Some(_)) => lines += 1,
                Ok(None) => panic!("the end of the member is missing"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(lines, 2);
    }

    #[test]
    fn the_newest_time_is_found_wherever_it_stands() {
        let line = |time: &str| format!("192.0.2.1 - - [{time} +0000] \"GET / HTTP/1.1\" 200 1\n");
        let text =
            ["12/Mar/2024:10:00:00", "12/Mar/2024:10:00:05", "12/Mar/2024:10:00:04"].map(line).concat();
        let file = file_of(format!("{text}12/Mar/2025 is no line\n\n").as_bytes());
        let newest = scan_newest_time(file.path(), LogFormat::Combined).unwrap();
        assert_eq!(newest, Some(1_710_237_605_000));
        assert_eq!(scan_newest_time(file.path(), LogFormat::Bitly).unwrap(), None);
    }

    #[test]
    fn a_log_that_ends_now_is_not_shifted() {
        assert_eq!(shift(1_000_000, 1_000_000), 0);
        assert_eq!(shift(1_000_000, 1_299_999), 0);
        assert_eq!(shift(1_000_000, 1_300_000), 300_000);
        assert_eq!(shift(1_000_001, 1_000_000), -300_000);
    }

    proptest! {
        #[test]
        fn a_shift_ends_the_log_within_the_last_five_minutes(
            newest in -(1_i64 << 50)..1 << 50,
            now in -(1_i64 << 50)..1 << 50,
        ) {
            let by = shift(newest, now);
            prop_assert_eq!(by % BUCKET_MS, 0);
            prop_assert!(newest + by <= now);
            prop_assert!(newest + by > now - BUCKET_MS);
        }

        #[test]
        fn no_time_is_too_far_away_to_shift(newest: i64, now: i64) {
            let _ = shift(newest, now);
        }
    }
}
