//! Memory that a guest frees goes back to the host within seconds.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::conversation::Conversation;
use super::{Report, Verdict};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
/// Linux reports pages two seconds after they became free, 32 blocks at a time.
const SECONDS: Duration = Duration::from_secs(15);
/// What the host may hold beyond what the guest uses: pages that are free in blocks below 2 MiB.
const SLACK_MIB: u64 = 40;
const GUEST_MIB: u64 = 512;
const SCRIPT: &str = "free() { while read name kib rest; do \
                      [ $name = MemFree: ] && echo \"$1 $kib\"; done < /proc/meminfo; }; \
                      dd if=/dev/urandom of=/tmp/some bs=1M count=4 2>/dev/null; \
                      sum=$(cksum < /tmp/some); \
                      dd if=/dev/zero of=/tmp/much bs=1M count=300 2>/dev/null; \
                      free full; read go; rm /tmp/much; free freed; read go; free idle; read go; \
                      for n in 1 2 3; do dd if=/dev/zero of=/tmp/much bs=1M count=300 2>/dev/null; \
                      [ $(tr -d '\\0' < /tmp/much | wc -c) = 0 ] || exit 5; \
                      rm /tmp/much; sleep 3; done; \
                      [ \"$sum\" = \"$(cksum < /tmp/some)\" ] && exit 3";

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    for cpus in ["1", "2"] {
        report.case(&format!("freed_memory_goes_back_to_the_host_with_{cpus}_cpus"), || {
            goes_back(roof, kernel, cpus)
        });
    }
}

fn goes_back(roof: &Path, kernel: &Path, cpus: &str) -> Result<Verdict> {
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft", "-m", &GUEST_MIB.to_string(), "-c", cpus]);
    let mut guest = Conversation::start(line.arg(kernel).args(["--", "sh", "-c", SCRIPT]), LIMIT)?;
    let pid = guest.pid();
    let used = used_mib(&guest.hear("full")?)?;
    let full = held_mib(pid)?;
    if full < 250 || full + SLACK_MIB < used {
        return Ok(Verdict::Failed(format!("{full} MiB are held while the guest uses {used}")));
    }
    guest.say("go")?;
    let used = used_mib(&guest.hear("freed")?)?;
    let (after, seconds) = settled(pid, used + SLACK_MIB)?;
    guest.say("go")?;
    let used = used_mib(&guest.hear("idle")?)?;
    println!("  {full} MiB held, {after} after {seconds:.1} s; the guest uses {used}");
    if after > used + SLACK_MIB {
        let why = format!("{after} MiB are still held while the guest uses {used}");
        return Ok(Verdict::Failed(why));
    }
    guest.say("go")?;
    Ok(match guest.finish()? {
        Some(3) => Verdict::Passed,
        other => Verdict::Failed(format!("memory that came back was not as left: {other:?}")),
    })
}

/// From a line `word KiB` of free memory.
fn used_mib(line: &str) -> Result<u64> {
    let free = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let free = free.with_context(|| format!("no number in {line:?}"))?;
    Ok(GUEST_MIB.saturating_sub(free / 1024))
}

/// Waits until no more than this is held, or for some seconds.
fn settled(pid: u32, most_mib: u64) -> Result<(u64, f64)> {
    let started = Instant::now();
    loop {
        let held = held_mib(pid)?;
        if held <= most_mib || started.elapsed() > SECONDS {
            return Ok((held, started.elapsed().as_secs_f64()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// MiB that the host holds for a process' guest RAM.
fn held_mib(pid: u32) -> Result<u64> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let is_ram = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().contains("oneroof-ram"));
        if is_ram {
            return Ok(std::fs::metadata(entry.path())?.blocks() * 512 >> 20);
        }
    }
    anyhow::bail!("the process has no guest RAM")
}
