//! Block devices of the host as disks: a loop device over a file shows what reached it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Output, Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
const SIZE: u64 = 16 << 20;

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    report.case("a_block_device_is_only_read_unless_rw_is_said", || {
        with_loop(|device, file| {
            let script = "printf changed | dd of=/dev/vda conv=fsync 2>/dev/null; \
                          dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | head -c 7; \
                          echo; cat /sys/block/vda/size";
            let seen = guest(roof, kernel, device, script)?;
            let wanted = format!("changed\n{}\n", SIZE / 512);
            let kept = std::fs::read(file)?.iter().all(|byte| *byte == 0);
            seen.expect(
                seen.stdout == wanted && kept,
                "the guest's own copy, and the device as it was",
            )
        })
    });
    report.case("a_block_device_s_room_on_the_host_is_all_of_it", || {
        with_loop(|device, _| {
            let seen = run(Command::new(roof).args(["disk", "info", device]), "", LIMIT)?;
            let size = |line: &str| line.ends_with(&format!("({SIZE} bytes)"));
            let found = seen.stdout.lines().filter(|line| size(line)).count();
            seen.expect(found == 2, "its size, and as much on the host")
        })
    });
    report.case("a_block_device_takes_writes_discards_and_zeros_with_rw", || {
        with_loop(|device, file| {
            let script = "tr '\\0' x < /dev/zero | dd of=/dev/vda bs=1M count=8 iflag=fullblock \
                          oflag=direct 2>/dev/null && blkdiscard -o 2M -l 2M /dev/vda && \
                          blkdiscard -z -o 6M -l 1M /dev/vda && sync && echo done";
            let seen = guest(roof, kernel, &format!("{device},rw"), script)?;
            let bytes = std::fs::read(file)?;
            let is = |mib: std::ops::Range<usize>, byte: u8| {
                bytes[mib.start << 20..mib.end << 20].iter().all(|one| *one == byte)
            };
            let holds =
                is(0..2, b'x') && is(2..4, 0) && is(4..6, b'x') && is(6..7, 0) && is(7..8, b'x');
            seen.expect(seen.stdout == "done\n" && holds, "what was written but for two holes")
        })
    });
    report.case("a_block_device_that_the_host_has_mounted_is_refused_with_rw", || {
        if let Err(why) = setup::need(&["mkfs.ext4", "mount"], &["e2fsprogs", "mount"]) {
            return Ok(Verdict::Skipped(why));
        }
        with_loop(|device, _| mounted(roof, kernel, device))
    });
}

fn guest(roof: &Path, kernel: &Path, disk: &str, script: &str) -> Result<Output> {
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q", "--net", "none", "-d", disk]).arg(kernel);
    run(line.args(["--", "sh", "-c", script]), "", LIMIT)
}

fn mounted(roof: &Path, kernel: &Path, device: &str) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let made = Command::new("mkfs.ext4").args(["-q", device]).status()?;
    ensure!(made.success(), "mkfs.ext4 {device}");
    let mut mount = Command::new("mount");
    if !mount.arg(device).arg(folder.path()).status()?.success() {
        return Ok(Verdict::Skipped("nothing can be mounted here".into()));
    }
    let (writing, reading) = (
        guest(roof, kernel, &format!("{device},rw"), "true"),
        guest(roof, kernel, device, "head -c 1082 /dev/vda | tail -c 2 | od -An -tx1"),
    );
    let gone = Command::new("umount").arg(folder.path()).status()?;
    ensure!(gone.success(), "umount");
    let (writing, reading) = (writing?, reading?);
    if writing.status != Some(125) || !writing.stderr.contains("the host uses /dev/loop") {
        return writing.expect(false, "status 125, and that the host uses it");
    }
    // The magic of ext4.
    reading.expect(reading.stdout.trim() == "53 ef", "what is on it, copy on write")
}

/// A loop device over a file of zeros, and that file.
fn with_loop(body: impl FnOnce(&str, &Path) -> Result<Verdict>) -> Result<Verdict> {
    if let Err(why) = setup::need(&["losetup"], &["mount"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("blocks");
    std::fs::File::create(&file)?.set_len(SIZE)?;
    let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        return Ok(Verdict::Skipped(format!("no loop device can be made here: {why}")));
    }
    let device = String::from_utf8(made.stdout).context("a device's name")?;
    let verdict = body(device.trim(), &file);
    Command::new("losetup").args(["--detach", device.trim()]).status()?;
    verdict
}
