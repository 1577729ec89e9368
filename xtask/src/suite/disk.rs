//! Disks: what a guest writes to /dev/vda is in the host's file, and the other way round.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Report, Verdict, run, setup};
use crate::soak::kill;

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: usize = 1 << 20;
const SIZE: usize = 64 * MIB;

/// Numbered sectors: each is its number, eight bytes at a time, xored with a salt.
fn pattern(first_sector: u64, bytes: usize, salt: u64) -> Vec<u8> {
    let words = (0..bytes as u64 / 8).map(|word| (first_sector + word / 64).wrapping_mul(salt));
    words.flat_map(u64::to_le_bytes).collect()
}

const SALT: u64 = 0x9e37_79b9_7f4a_7c15;

/// The cases.
pub(crate) fn cases(report: &mut Report, root: &Path, roof: &Path, kernel: &Path) {
    for cpus in ["1", "2"] {
        report.case(&format!("a_pattern_goes_through_vda_both_ways_with_{cpus}_cpus"), || {
            both_ways(roof, kernel, &["-c", cpus])
        });
    }
    report.case("a_pattern_goes_through_vda_without_msi", || {
        both_ways(roof, kernel, &["-p", "pci=nomsi"])
    });
    report.case("a_read_only_disk_stays_as_it_is", || read_only(roof, kernel));
    report.case("a_disk_in_use_is_refused_until_its_vm_is_gone", || in_use(roof, kernel));
    report.case("a_qcow2_image_over_a_raw_one_takes_what_is_written", || layers(roof, kernel));
    report.case("copy_on_write_leaves_the_image_as_it_was", || copy_on_write(roof, kernel));
    report.case("a_full_host_is_told_once_and_harms_nothing", || full_host(roof, kernel));
    report.case("a_qcow2_image_on_a_full_host_stays_sound", || full_host_qcow2(roof, kernel));
    for format in ["qcow2", "raw"] {
        report.case(&format!("a_killed_roof_loses_no_flushed_record_on_{format}"), || {
            killed(root, roof, kernel, format)
        });
    }
    report.case("random_bytes_come_from_the_host", || {
        let script = "cat /sys/class/misc/hw_random/rng_current; \
                      dd if=/dev/hwrng bs=512 count=8 iflag=fullblock 2>/dev/null | cksum";
        let (one, two) = (command(roof, kernel, &[], script)?, command(roof, kernel, &[], script)?);
        let holds = one.stdout.starts_with("virtio_rng") && one.stdout.trim().ends_with(" 4096");
        one.expect(holds && one.stdout != two.stdout, "virtio_rng, 4096 bytes, others each time")
    });
    report.case("a_deterministic_run_with_a_disk_repeats", || repeats(roof, kernel));
}

fn command(roof: &Path, kernel: &Path, options: &[&str], script: &str) -> Result<super::Output> {
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q"]).args(options).arg(kernel);
    run(line.args(["--", "sh", "-c", script]), "", LIMIT)
}

/// The image, and its path as an argument.
fn image(folder: &Path) -> Result<(File, String)> {
    let path = folder.join("disk.img");
    let file = File::options().create(true).read(true).write(true).truncate(true).open(&path)?;
    file.set_len(SIZE as u64)?;
    Ok((file, path.to_str().context("a temporary directory has a plain name")?.to_owned()))
}

/// The guest copies the first 8 MiB, which the host wrote, to 32 MiB further, unordered and with a
/// sync; then the host compares every byte of the file.
fn both_ways(roof: &Path, kernel: &Path, options: &[&str]) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (file, path) = image(folder.path())?;
    let bytes = pattern(0, 8 * MIB, SALT);
    file.write_all_at(&bytes, 0)?;
    let script = "dd if=/dev/vda of=/tmp/a bs=1M count=8 2>/dev/null; \
                  for n in 7 2 5 0 3 6 1 4; do \
                  dd if=/tmp/a of=/dev/vda bs=1M count=1 skip=$n seek=$((32 + n)) 2>/dev/null || \
                  exit 1; done; sync; \
                  dd if=/tmp/a of=/dev/vda bs=4096 count=16 seek=16368 oflag=direct 2>/dev/null; \
                  cat /sys/block/vda/size";
    let seen = command(roof, kernel, &[&["-d", &path], options].concat(), script)?;
    let mut now = vec![0; SIZE];
    file.read_exact_at(&mut now, 0)?;
    let mut wanted = vec![0; SIZE];
    wanted[..8 * MIB].copy_from_slice(&bytes);
    wanted[32 * MIB..40 * MIB].copy_from_slice(&bytes);
    wanted[SIZE - 16 * 4096..].copy_from_slice(&bytes[..16 * 4096]);
    let wrong = now.iter().zip(&wanted).position(|(now, wanted)| now != wanted);
    if let Some(at) = wrong {
        return seen
            .expect(false, &format!("the file as the guest wrote it, also at byte {at:#x}"));
    }
    let size = seen.stdout.trim() == (SIZE / 512).to_string();
    seen.expect(seen.status == Some(0) && size, "status 0 and the size in sectors")
}

fn read_only(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (file, path) = image(folder.path())?;
    file.write_all_at(b"as it was", 0)?;
    let script = "head -c 9 /dev/vda; echo; cat /sys/block/vda/ro; \
                  dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null && echo wrote";
    let seen = command(roof, kernel, &["-d", &format!("{path},ro")], script)?;
    let mut now = [0; 9];
    file.read_exact_at(&mut now, 0)?;
    seen.expect(seen.stdout == "as it was\n1\n" && &now == b"as it was", "as it was, 1")
}

fn in_use(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (_file, path) = image(folder.path())?;
    let mut first = Command::new(roof);
    first.args(["run", "--engine", "soft", "-q", "-d", &path]).arg(kernel);
    first.args(["--", "sh", "-c", "echo up; sleep 1000"]);
    let mut first = first.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut up = [0; 3];
    let told = std::io::Read::read_exact(&mut first.stdout.take().context("piped")?, &mut up);
    let second = command(roof, kernel, &["-d", &path], "true");
    first.kill()?;
    first.wait()?;
    told.context("the first guest came up")?;
    let second = second?;
    let holder = format!("is in use by roof (process {})", first.id());
    if second.status != Some(125) || !second.stderr.contains(&holder) {
        return second.expect(false, "status 125 and who has the image");
    }
    let third = command(roof, kernel, &["-d", &path], "true")?;
    third.expect(third.status == Some(0), "status 0 once the first VM is gone")
}

/// What a guest writes to a qcow2 image lies there, its backing file shows through elsewhere and
/// stays as it was; what is discarded is gone from the file.
fn layers(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["qemu-img"], &["qemu-utils"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let (base, path) = image(folder.path())?;
    let bytes = pattern(0, 8 * MIB, SALT);
    base.write_all_at(&bytes, 0)?;
    let top = folder.path().join("top.qcow2");
    let top = top.to_str().context("a temporary directory has a plain name")?;
    let made =
        Command::new(roof).args(["disk", "create", top, "--backing", &path]).output()?.status;
    anyhow::ensure!(made.success(), "roof disk create failed");
    let script = "dd if=/dev/vda of=/tmp/a bs=1M count=8 2>/dev/null; cksum < /tmp/a; \
                  dd if=/tmp/a of=/dev/vda bs=4096 count=700 skip=11 seek=5003 conv=fsync \
                  2>/dev/null && dd if=/tmp/a of=/dev/vda bs=1M seek=40 conv=fsync 2>/dev/null && \
                  blkdiscard -z -o 1M -l 1M /dev/vda && blkdiscard -o 40M -l 8M /dev/vda";
    let seen = command(roof, kernel, &["-d", top], script)?;
    let mut wanted = vec![0; SIZE];
    wanted[..8 * MIB].copy_from_slice(&bytes);
    wanted[5003 * 4096..][..700 * 4096].copy_from_slice(&bytes[11 * 4096..][..700 * 4096]);
    wanted[MIB..2 * MIB].fill(0);
    let expected = folder.path().join("expected.img");
    std::fs::write(&expected, wanted)?;
    let image = |arguments: &[&str]| Command::new("qemu-img").args(arguments).output();
    let expected = expected.to_str().context("a plain name")?;
    let same = image(&["compare", "-f", "qcow2", "-F", "raw", top, expected])?.status.success();
    let sound = image(&["check", "-f", "qcow2", top])?.status.success();
    let kept = std::fs::read(&path)?[..8 * MIB] == bytes;
    let small = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(top)?) * 512;
    let holds = same && sound && kept && small < 6 * MIB as u64;
    seen.expect(
        seen.status == Some(0) && holds,
        &format!("the image as written ({same}), sound ({sound}), its base kept ({kept}), small ({small})"),
    )
}

fn copy_on_write(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (file, path) = image(folder.path())?;
    file.write_all_at(b"as it was", 0)?;
    let script = "printf changed | dd of=/dev/vda conv=fsync 2>/dev/null; \
                  dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | head -c 9";
    let seen = command(roof, kernel, &["-d", &format!("{path},cow")], script)?;
    let mut now = [0; 9];
    file.read_exact_at(&mut now, 0)?;
    seen.expect(seen.stdout == "changedas" && &now == b"as it was", "changedas, as it was")
}

/// A host file that may not grow past 160 MiB: writes beyond are I/O errors of the guest's, those
/// before it are kept, and the user hears of it once.
fn full_host(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["prlimit"], &["util-linux"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let (file, path) = image(folder.path())?;
    file.set_len(4 * SIZE as u64)?;
    let script = "seq 1 200000 | dd of=/tmp/a bs=1M count=1 iflag=fullblock 2>/dev/null; \
                  dd if=/tmp/a of=/dev/vda bs=4096 seek=2000 oflag=direct 2>/dev/null && echo fits; \
                  for at in 200 210 220; do \
                  dd if=/tmp/a of=/dev/vda bs=1M seek=$at oflag=direct 2>/dev/null || echo fails; \
                  done; dd if=/dev/vda bs=4096 skip=2000 count=256 iflag=direct 2>/dev/null | \
                  cmp - /tmp/a && echo same";
    let mut line = Command::new("prlimit");
    line.arg(format!("--fsize={}", 160 * MIB)).arg(roof);
    line.args(["run", "--engine", "soft", "-q", "-m", "128M", "-d", &path]).arg(kernel);
    let seen = run(line.args(["--", "sh", "-c", script]), "", LIMIT)?;
    let told: Vec<&str> =
        seen.stderr.lines().filter(|line| line.contains("no room to write")).collect();
    let [once] = told[..] else { return seen.expect(false, "one line about the host's disk") };
    let holds = seen.stdout == "fits\nfails\nfails\nfails\nsame\n" && once.contains("make space");
    seen.expect(holds, "fits, fails three times, the same; and what to do")
}

/// A qcow2 image that grows until it may not: it stays sound and keeps what was written.
fn full_host_qcow2(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["prlimit", "qemu-img"], &["util-linux", "qemu-utils"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("disk.qcow2");
    let made = Command::new(roof).args(["disk", "create"]).arg(&image).arg("1G").output()?.status;
    anyhow::ensure!(made.success(), "roof disk create failed");
    let script = "seq 1 2000000 | dd of=/tmp/a bs=1M count=8 iflag=fullblock 2>/dev/null; n=0; \
                  while [ $n -lt 20 ]; do \
                  dd if=/tmp/a of=/dev/vda bs=1M seek=$((n * 8)) oflag=direct 2>/dev/null && \
                  echo wrote || echo failed; n=$((n + 1)); done | uniq; \
                  dd if=/dev/vda bs=1M skip=8 count=8 iflag=direct 2>/dev/null | cmp - /tmp/a && \
                  echo same";
    let mut line = Command::new("prlimit");
    line.arg(format!("--fsize={}", 140 * MIB)).arg(roof);
    line.args(["run", "--engine", "soft", "-q", "-m", "128M", "-d"]).arg(&image).arg(kernel);
    let seen = run(line.args(["--", "sh", "-c", script]), "", LIMIT)?;
    let told = seen.stderr.lines().filter(|line| line.contains("no room to write")).count();
    let check = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&image).output()?;
    // Clusters that nothing uses may be left.
    let sound = matches!(check.status.code(), Some(0 | 3));
    let holds = seen.stdout == "wrote\nfailed\nsame\n" && told == 1 && sound;
    seen.expect(holds, &format!("wrote, failed, the same; one line ({told}), sound ({sound})"))
}

/// A few kills of those that `cargo xtask soak kill` makes.
fn killed(root: &Path, roof: &Path, kernel: &Path, format: &str) -> Result<Verdict> {
    const KILLS: u64 = 5;
    if let Err(why) = setup::need(&kill::PROGRAMS, &kill::PACKAGES) {
        return Ok(Verdict::Skipped(why));
    }
    let mut victim = kill::Victim::new(root, roof, kernel, format, 1)?;
    let told = (1..=KILLS).map(|seed| victim.kill(seed)).sum::<Result<u64>>()?;
    println!("  {told} records flushed, none lost");
    let what = format!("{told} records in {KILLS} lives are too few to tell");
    Ok(if told > 5 * KILLS { Verdict::Passed } else { Verdict::Failed(what) })
}

/// Doorbells do the work themselves in virtual time, so the disk's speed is no part of the run.
fn repeats(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["mkfs.ext4"], &["e2fsprogs"]) {
        return Ok(Verdict::Skipped(why));
    }
    let script = "mkdir /tmp/m && mount -t ext4 /dev/vda /tmp/m && seq 1 2000 > /tmp/m/numbers && \
                  umount /tmp/m && dd if=/dev/hwrng bs=16 count=1 2>/dev/null | od && \
                  cat /proc/interrupts && date +%s%N";
    let one = || {
        let folder = tempfile::tempdir()?;
        let (_file, path) = image(folder.path())?;
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-U", "01234567-89ab-cdef-0123-456789abcdef", "-E"])
            .args(["hash_seed=01234567-89ab-cdef-0123-456789abcdef", &path])
            .env("E2FSPROGS_FAKE_TIME", "1700000000")
            .status()?;
        anyhow::ensure!(made.success(), "mkfs.ext4 failed");
        let seen = command(roof, kernel, &["--deterministic", "-d", &path], script)?;
        Ok((seen, std::fs::read(&path)?))
    };
    let ((first, first_image), (second, second_image)) = (one()?, one()?);
    let same = first.stdout == second.stdout && first_image == second_image;
    first.expect(first.status == Some(0) && same, "the same output and the same image twice")
}
