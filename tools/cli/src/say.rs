//! Lines on standard error, right in a raw terminal too.
//!
//! Invariant: a line that cannot be written is dropped; there is no better place for it.

use std::io::Write;

/// One line, or several.
pub(crate) fn line(text: &str) {
    let mut text = format!("{text}\n");
    if crate::terminal::is_raw() {
        text = text.replace('\n', "\r\n");
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// An error and its sources in one sentence.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for source in error.chain().skip(1) {
        let source = source.to_string();
        if !text.ends_with(&source) {
            text = format!("{text}: {source}");
        }
    }
    text
}
