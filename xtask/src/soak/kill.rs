//! `cargo xtask soak kill`: roof killed at random moments while its guest writes to an ext4 on a
//! disk image, and what must be there afterwards.
//!
//! After each kill: qemu-img finds no corruption (qcow2), e2fsck finds nothing once the journal was
//! replayed, and every record whose number the guest told is in the file whole (guest/workloads,
//! `records`). The next round goes on with the same image.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::suite::{kernels, setup};
use crate::{cargo, cpu};

const RECORD: usize = 512;
/// The last kill comes so long after the first record.
const LONGEST_MS: u64 = 1200;
const SIZE: &str = "192M";
/// A killed process' locks are gone by then.
const RELEASE: Duration = Duration::from_secs(60);
/// A guest that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often and on what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kills on an image of each format
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Formats of images
    #[arg(long, value_delimiter = ',', default_values = ["qcow2", "raw"])]
    formats: Vec<String>,
    /// The moments depend on this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// CPUs of the guest
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// This roof instead of building one
    #[arg(long)]
    roof: Option<PathBuf>,
}

/// Runs the soak.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    setup::need(&PROGRAMS, &PACKAGES).map_err(|why| anyhow::anyhow!("it needs: {why}"))?;
    let roof = options.roof.clone().map_or_else(|| cargo::build_roof(root), Ok)?;
    let kernel = kernels::fetch(&roof, kernels::KERNELS[0].1)?;
    for format in &options.formats {
        let started = Instant::now();
        let mut victim = Victim::new(root, &roof, &kernel, format, options.cpus)?;
        for kill in 1..=options.kills {
            let told = victim.kill(options.seed.wrapping_mul(1 << 32) + u64::from(kill))?;
            eprintln!("{format} {kill}/{}: {told} records told, all there", options.kills);
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{format}: {} kills, {} records flushed, none lost, {} leaked clusters given free, \
             {seconds:.0} s, seed {}",
            options.kills, victim.next, victim.leaks, options.seed
        );
    }
    Ok(())
}

/// What it takes.
pub(crate) const PROGRAMS: [&str; 4] = ["mkfs.ext4", "e2fsck", "debugfs", "qemu-img"];
/// Where that comes from.
pub(crate) const PACKAGES: [&str; 2] = ["e2fsprogs", "qemu-utils"];

/// An image and who writes to it.
pub(crate) struct Victim {
    folder: tempfile::TempDir,
    roof: PathBuf,
    kernel: PathBuf,
    format: String,
    cpus: String,
    image: PathBuf,
    /// The next record.
    next: u64,
    leaks: u64,
}

impl Victim {
    /// A fresh image with an empty ext4.
    pub(crate) fn new(
        root: &Path,
        roof: &Path,
        kernel: &Path,
        format: &str,
        cpus: u32,
    ) -> Result<Self> {
        let folder = tempfile::tempdir_in("/var/tmp").context("a folder in /var/tmp")?;
        let workloads = folder.path().join("workloads");
        fs::copy(cpu::build_workloads(root)?, workloads).context("the workloads")?;
        let raw = folder.path().join("disk.raw");
        call(Command::new("qemu-img").args(["create", "-q"]).arg(&raw).arg(SIZE))?;
        call(Command::new("mkfs.ext4").arg("-q").arg(&raw))?;
        let image = folder.path().join(format!("disk.{format}"));
        if format != "raw" {
            call(Command::new("qemu-img").args(["convert", "-O", format]).args([&raw, &image]))?;
        }
        Ok(Self {
            folder,
            roof: roof.into(),
            kernel: kernel.into(),
            format: format.into(),
            cpus: cpus.to_string(),
            image,
            next: 0,
            leaks: 0,
        })
    }

    /// One life and death, at a moment that `seed` says; how many records were told.
    pub(crate) fn kill(&mut self, seed: u64) -> Result<u64> {
        let pause = Duration::from_millis(random(seed) % LONGEST_MS);
        let told = self.live(pause)?;
        let copy = self.copy()?;
        self.check_image()?;
        self.check_records(&copy, self.next + told)?;
        self.next += told;
        Ok(told)
    }

    /// Runs the guest until so long after its first record; the records it told.
    fn live(&self, pause: Duration) -> Result<u64> {
        let disk = format!("{},format={}", self.image.display(), self.format);
        let log = self.folder.path().join("log");
        let mut command = Command::new(&self.roof);
        command.args(["run", "--engine", "soft", "-v", "-c", &self.cpus, "-d", &disk]);
        command.arg(&self.kernel).arg("--").arg(self.folder.path().join("workloads"));
        command.args(["records", "/dev/vda", &self.next.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let first = lines.recv_timeout(PATIENCE);
        let mut threads = String::new();
        if first.is_ok() {
            std::thread::sleep(pause);
            child.kill()?;
        } else if child.try_wait()?.is_none() {
            threads = at_work(child.id());
            child.kill()?;
        }
        let status = child.wait()?;
        reader.join().expect("the reader does not panic");
        let Ok(first) = first else {
            let said = fs::read(&log).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            bail!("the guest wrote nothing ({status}):\n{said}\n{threads}");
        };
        let mut next = self.next;
        // The last line may be cut short by the kill; then the number is too small or none.
        for line in std::iter::once(first).chain(lines.iter()) {
            let number = line.strip_prefix("flushed ").and_then(|number| number.parse().ok());
            if number == Some(next) {
                next += 1;
            }
        }
        Ok(next - self.next)
    }

    /// The disk as a raw file. The kernel ends what io_uring had begun a little after the process,
    /// and its locks then; QEMU's tools do not wait for that.
    fn copy(&self) -> Result<PathBuf> {
        let copy = self.folder.path().join("copy.raw");
        let started = Instant::now();
        loop {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-f", &self.format, "-O", "raw"]).args([&self.image, &copy]);
            let output = convert.output()?;
            if output.status.success() {
                return Ok(copy);
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains("lock") && started.elapsed() < RELEASE, "{convert:?}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// No corruption; what leaked is given free.
    fn check_image(&mut self) -> Result<()> {
        if self.format == "raw" {
            return Ok(());
        }
        let mut check = Command::new("qemu-img");
        let found = check.args(["check", "-f", &self.format]).arg(&self.image).output()?;
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        match found.status.code() {
            Some(0) => return Ok(()),
            Some(3) => {}
            _ => bail!("qemu-img check: {said}{}", String::from_utf8_lossy(&found.stderr)),
        }
        let leaked = said.split(" leaked clusters").next().and_then(|text| text.lines().last());
        self.leaks += leaked.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(1);
        call(Command::new(&self.roof).args(["disk", "check", "--repair"]).arg(&self.image))?;
        call(Command::new("qemu-img").args(["check", "-q", "-f", &self.format]).arg(&self.image))
    }

    /// On a copy: the journal replayed, nothing wrong, and these records whole.
    fn check_records(&self, copy: &Path, count: u64) -> Result<()> {
        // Its status tells whether there was something to replay, and the next one what that left.
        Command::new("e2fsck").args(["-p", "-E", "journal_only"]).arg(copy).output()?;
        call(Command::new("e2fsck").args(["-f", "-n"]).arg(copy))?;
        let file = self.folder.path().join("records");
        let dump = format!("dump /records {}", file.display());
        call(Command::new("debugfs").args(["-R", &dump]).arg(copy))?;
        let bytes = fs::read(&file).context("the records")?;
        for number in 0..count {
            let wanted = record(number);
            let at = number as usize * RECORD;
            ensure!(
                bytes.get(at..at + RECORD) == Some(&wanted[..]),
                "record {number} of {count} was flushed and is not there"
            );
        }
        Ok(())
    }
}

/// What the threads of a process that hangs do: name, state, the place in the kernel, and how many
/// hundredths of a second they worked within one.
fn at_work(pid: u32) -> String {
    let look = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let one = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (stat, place) = (read("stat"), read("wchan"));
            let (name, rest) = stat.rsplit_once(") ").unwrap_or_default();
            let fields: Vec<&str> = rest.split(' ').collect();
            let ticks = |at: usize| fields.get(at).and_then(|word| word.parse::<u64>().ok());
            let worked = ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0);
            (format!("{name}) {} {place}", fields.first().unwrap_or(&"")), worked)
        };
        tasks.map(one).collect::<Vec<_>>()
    };
    let before = look();
    std::thread::sleep(Duration::from_secs(1));
    let worked = |(task, now): (String, u64)| {
        let earlier = before.iter().find(|(other, _)| *other == task).map_or(now, |one| one.1);
        format!("{task}: {}\n", now - earlier)
    };
    look().into_iter().map(worked).collect()
}

/// As guest/workloads writes it.
fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    for (piece, place) in bytes.chunks_mut(8).zip(0_u64..) {
        let word = number ^ (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number).rotate_left(29);
        piece.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Runs a program that must succeed.
fn call(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, said.concat());
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn random(seed: u64) -> u64 {
    let mut value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_the_guest_writes() {
        // The first words of record 7, as guest/workloads computes them.
        assert_eq!(record(7)[..8], (7_u64 ^ 7_u64.rotate_left(29)).to_le_bytes());
        assert_ne!(record(1), record(2));
    }
}
