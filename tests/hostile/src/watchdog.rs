//! A thread that kicks a vCPU which runs or waits for too long.
//!
//! Invariant: one thread for the process; while a [`Guard`] lives its vCPU is kicked again and
//! again once the time is over.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::Kick;

const TICK: Duration = Duration::from_millis(2);

type Watched = Vec<(u64, Instant, Arc<dyn Kick>)>;

static WATCHED: Mutex<Watched> = Mutex::new(Vec::new());
static THREAD: OnceLock<()> = OnceLock::new();

/// Ends the watch when it goes.
pub(crate) struct Guard(u64);

/// Kicks from `limit` on.
pub(crate) fn watch(kick: Arc<dyn Kick>, limit: Duration) -> Guard {
    THREAD.get_or_init(|| {
        std::thread::spawn(run);
    });
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let number = watched.iter().map(|one| one.0 + 1).max().unwrap_or(0);
    watched.push((number, Instant::now() + limit, kick));
    Guard(number)
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|one| one.0 != self.0);
    }
}

fn run() {
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, at, kick) in watched.iter() {
            if *at <= now {
                kick.kick();
            }
        }
    }
}
