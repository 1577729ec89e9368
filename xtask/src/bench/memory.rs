//! Resident memory of a process beyond its guest's RAM, from /proc/PID/smaps.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Often enough to see what is held for milliseconds while a kernel is loaded.
const INTERVAL: Duration = Duration::from_millis(1);
/// Reading thousands of mappings holds the process up, so it is let run for so many times as long.
const PAUSES: u32 = 4;

/// Runs a program without input or output; whether it succeeded, and the most it had resident
/// beyond guest RAM since its start, in MiB.
pub(crate) fn peak_beyond_ram_mib(command: &mut Command) -> Result<(bool, f64)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut most = 0;
    loop {
        let begun = Instant::now();
        most = most.max(beyond_ram_kib(child.id()).unwrap_or(0));
        let pause = INTERVAL.max(begun.elapsed() * PAUSES);
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), most as f64 / 1024.0));
        }
        std::thread::sleep(pause);
    }
}

/// KiB resident outside the mappings of guest RAM (memfds named oneroof-ram).
fn beyond_ram_kib(pid: u32) -> Option<u64> {
    Some(sum(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?))
}

fn sum(smaps: &str) -> u64 {
    let mut total = 0;
    let mut counts = true;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let kib = size.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            if counts {
                total += kib.unwrap_or(0);
            }
        } else if is_header(line) {
            counts = !line.contains("oneroof-ram");
        }
    }
    total
}

/// A mapping's first line begins with its address range.
fn is_header(line: &str) -> bool {
    line.split('-')
        .next()
        .is_some_and(|start| start.len() >= 8 && start.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "55d0aa000000-55d0aa001000 r--p 0 00:00 0 /bin/x\nRss:  12 kB\n\
                     7f0000000000-7f0020000000 rw-s 0 00:01 5 /memfd:oneroof-ram (deleted)\n\
                     Rss: 99999 kB\n7ffe00000000-7ffe00001000 rw-p 0 [stack]\nRss: 8 kB\n";
        assert_eq!(super::sum(smaps), 20);
    }
}
