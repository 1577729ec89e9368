//! The user's terminal: raw while the guest has it, restored on every way out.
//!
//! Invariant: the settings found are kept in one place for the whole process, so whoever ends it
//! (return, panic, signal) puts back the same.

pub(crate) mod input;

use std::sync::{Mutex, PoisonError};

use control::initramfs::WindowSize;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings found, while the terminal is raw.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

fn found() -> std::sync::MutexGuard<'static, Option<Termios>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether lines need a carriage return.
pub(crate) fn is_raw() -> bool {
    found().is_some()
}

/// Hands every key to the guest.
pub(crate) fn enter_raw() -> rustix::io::Result<()> {
    let mut found = found();
    let settings = tcgetattr(stdin())?;
    let mut raw = settings.clone();
    raw.make_raw();
    tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
    found.get_or_insert(settings);
    Ok(())
}

/// Puts the terminal back, if it was changed. May be called by any thread, any number of times.
pub(crate) fn restore() {
    if let Some(settings) = found().take() {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &settings);
    }
}

/// Ends what a program in the guest may have begun and could not end: bracketed paste, a hidden
/// cursor, mouse reports, colours, an unfinished line.
pub(crate) fn undo_modes() {
    use std::io::Write;
    let undo = b"\x1b[?2004l\x1b[?25h\x1b[?1000l\x1b[?1006l\x1b[0m\r\n";
    // A terminal that is gone has no modes.
    let _ = std::io::stdout().lock().write_all(undo);
}

/// Restores before a panic is reported, so that the report is readable.
pub(crate) fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

/// The terminal's size.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}
