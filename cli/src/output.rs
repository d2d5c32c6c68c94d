//! Text on its way to the terminal.
//!
//! Owns: writing to standard output, and how much room a terminal has.
//! Does not own: what is written.

use console::Term;
use std::io::{self, Write as _};

/// Writes to standard output. Whoever reads it may stop reading (`| head`), which is no error.
///
/// # Errors
/// Where it cannot be written for another reason.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_more(text).map(|_| ())
}

/// The same for who has more to write: whether anybody still reads it.
///
/// # Errors
/// As there.
pub(crate) fn print_more(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a line to standard error, which may be gone.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Columns of the terminal that standard output is; `None` where it is something else.
pub(crate) fn terminal_width() -> Option<usize> {
    terminal_size().map(|(_, columns)| columns)
}

/// Lines and columns of the terminal that standard output is; `None` where it is something else.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let terminal = Term::stdout();
    if !terminal.is_term() {
        return None;
    }
    let (lines, columns) = terminal.size_checked().unwrap_or((24, 80));
    // Some terminals say that they have no size.
    Some(if lines == 0 || columns == 0 { (24, 80) } else { (lines.into(), columns.into()) })
}
