//! The wired machine under scripted processors.

mod boot;
mod devices;
mod interrupts;
mod lifecycle;
mod robustness;
mod serial;

use std::time::{Duration, Instant};

/// Long enough for any loaded host; tests end earlier.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until something holds.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
