//! Signals: one thread waits for them, so nothing happens in a handler.
//!
//! SIGINT goes to the guest's command (a second one ends the VM), SIGTERM, SIGHUP and SIGQUIT end
//! the VM, SIGWINCH resizes the guest's terminal. SIGXFSZ is only blocked: a file that may not grow
//! is an error of its write. Invariant: the terminal is restored before the
//! process goes, even if the VM does not stop in time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use control::vm::Controls;

use crate::sys::signals;
use crate::terminal;

/// A VM that has not stopped by then is left to the kernel.
const PATIENCE: Duration = Duration::from_secs(3);

/// Knows whom to steer.
pub(crate) struct Signals {
    controls: Arc<Mutex<Option<Controls>>>,
}

impl Signals {
    /// Starts to watch. To be called before any other thread exists.
    pub(crate) fn watch() -> Result<Self> {
        let set = signals::Set::block(&[
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGWINCH,
            libc::SIGXFSZ,
        ])
        .context("cannot block signals")?;
        let controls = Arc::new(Mutex::new(None));
        let shared = controls.clone();
        let wait = move || {
            while let Some(signal) = set.wait() {
                let controls: Option<Controls> =
                    shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                act(signal, controls);
            }
        };
        threads::spawn("signals", wait).context("cannot watch for signals")?;
        Ok(Self { controls })
    }

    /// From now on signals steer this VM; before, they end the process.
    pub(crate) fn steer(&self, controls: Controls) {
        *self.controls.lock().unwrap_or_else(PoisonError::into_inner) = Some(controls);
    }
}

fn act(signal: i32, controls: Option<Controls>) {
    let number = signal as u8; // they are all below 32
    match (signal, controls) {
        (libc::SIGWINCH, Some(controls)) => {
            if let Some(size) = terminal::size() {
                controls.resize(size);
            }
        }
        (libc::SIGWINCH, None) | (libc::SIGXFSZ, _) => {}
        (_, None) => leave(number),
        (libc::SIGINT, Some(controls)) => controls.signal(number),
        (_, Some(controls)) => {
            controls.quit(number);
            let late = move || {
                std::thread::sleep(PATIENCE);
                leave(number);
            };
            if threads::spawn("patience", late).is_err() {
                leave(number);
            }
        }
    }
}

fn leave(signal: u8) {
    terminal::restore();
    std::process::exit(128 + i32::from(signal));
}
