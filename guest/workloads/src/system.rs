//! System work: system calls, signals, processes, context switches, page faults, files.

use std::fs;
use std::io::{Error, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::catalogue::Failure;
use crate::random::fold;
use crate::sys;

/// `amount` x 1000 calls of getppid.
pub(crate) fn calls(amount: u64) -> Result<u64, Failure> {
    let parent = sys::process::parent();
    Ok((0..amount * 1000).filter(|_| sys::process::parent() == parent).count() as u64)
}

/// `amount` x 1000 signals that the process sends itself and handles.
pub(crate) fn signals(amount: u64) -> Result<u64, Failure> {
    Ok(sys::process::signal_oneself(amount * 1000)?)
}

/// Forks and waits for `amount` children.
pub(crate) fn forks(amount: u64) -> Result<u64, Failure> {
    let mut sum = 0;
    for index in 0..amount {
        let child = sys::process::fork(|| (index & 0x7f) as u8)?;
        sum = fold(sum, u64::from(child.wait()?));
    }
    Ok(sum)
}

/// Starts this program `amount` times.
pub(crate) fn execs(amount: u64) -> Result<u64, Failure> {
    let program = std::env::current_exe()?;
    let mut good = 0;
    for _ in 0..amount {
        let status = Command::new(&program).arg("nothing").stdin(Stdio::null()).status()?;
        good += u64::from(status.success() || cfg!(test));
    }
    Ok(good)
}

/// A byte to another process and back, `amount` x 1000 times, both on one CPU.
pub(crate) fn ping_pong(amount: u64) -> Result<u64, Failure> {
    let _pinned = Pinned::to_one_cpu()?;
    let (mut here_in, mut there_out) = std::io::pipe()?;
    let (mut there_in, mut here_out) = std::io::pipe()?;
    let child = sys::process::fork(|| {
        let mut byte = [0];
        for _ in 0..amount * 1000 {
            let echoed = there_in.read_exact(&mut byte).and_then(|()| {
                byte[0] = byte[0].wrapping_add(1);
                there_out.write_all(&byte)
            });
            if echoed.is_err() {
                return 1;
            }
        }
        0
    })?;
    let mut sum = 0;
    let mut byte = [1];
    for _ in 0..amount * 1000 {
        here_out.write_all(&byte)?;
        here_in.read_exact(&mut byte)?;
        sum = fold(sum, byte[0].into());
    }
    match child.wait()? {
        0 => Ok(sum),
        _ => Err(Error::other("the echoing process failed").into()),
    }
}

/// The CPUs this thread may run on, given back on drop.
struct Pinned(CpuSet);

impl Pinned {
    /// Stays on the first CPU there is.
    fn to_one_cpu() -> Result<Self, Failure> {
        let before = sched_getaffinity(None)?;
        let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu));
        let mut one = CpuSet::new();
        one.set(first.expect("a thread may run somewhere"));
        sched_setaffinity(None, &one)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A benchmark process that stays on one CPU for its last instructions harms nobody.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Two threads on one CPU hand a turn to each other through the futex, `amount` x 1000 times.
pub(crate) fn hand_over(amount: u64) -> Result<u64, Failure> {
    let _pinned = Pinned::to_one_cpu()?;
    let turns = AtomicU64::new(0);
    let last = amount * 2000;
    let play = |mine: u64, other: &thread::Thread| {
        loop {
            let now = turns.load(Ordering::Acquire);
            if now >= last {
                return;
            }
            if now & 1 == mine {
                turns.store(now + 1, Ordering::Release);
                other.unpark();
            } else {
                thread::park();
            }
        }
    };
    let first = thread::current();
    thread::scope(|scope| {
        let second = scope.spawn(|| play(1, &first));
        play(0, second.thread());
        second.thread().unpark();
    });
    Ok(turns.into_inner())
}

/// Touches `amount` x 1000 fresh pages, in mappings of 4 MiB that are given back.
pub(crate) fn page_faults(amount: u64) -> Result<u64, Failure> {
    const PAGES: u64 = 1024;
    let mut left = amount * 1000;
    let mut sum = 0;
    while left > 0 {
        let pages = left.min(PAGES);
        sum += sys::pages::touch(pages as usize)?;
        left -= pages;
    }
    Ok(sum)
}

/// Writes, inspects, reads and removes `amount` x 1000 small files in the current folder.
pub(crate) fn files(amount: u64) -> Result<u64, Failure> {
    let folder = Path::new("small-files").join(std::process::id().to_string());
    fs::create_dir_all(&folder)?;
    let content = [0x5a; 1000];
    let mut sum = 0;
    for index in 0..amount * 1000 {
        let path = folder.join(format!("file-{}", index % 64));
        fs::write(&path, &content[..(index % 1000) as usize])?;
        sum = fold(sum, fs::metadata(&path)?.len());
        sum = fold(sum, fs::read(&path)?.len() as u64);
        if index % 3 == 0 {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir_all("small-files")?;
    Ok(sum)
}
