//! `cargo xtask bench disk`: one kernel and one initramfs that reads and writes /dev/vda past its
//! page cache, on roof and on QEMU TCG with virtio-blk in turn; wall time by the host's clock
//! between markers, the emulator's CPU time beside it.
//!
//! Invariant: what was read and written sums up to the same both ways, else the command fails. The
//! image lies in the host's page cache: it is the way to it that is measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cargo;
use crate::cpu::{build_workloads, cpu_seconds, write};
use crate::pair::Pair;
use crate::suite::{initrd, kernels, setup};

const MODULES: [&str; 6] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
];
const IMAGE_MIB: u64 = 1024;

/// Name, and the workload's pattern, block in bytes, blocks, threads.
pub(super) const CASES: [(&str, &str, u64, u64, u64); 8] = [
    ("sequential read, 1 MiB", "read", 1 << 20, 1024, 1),
    ("sequential write, 1 MiB", "write", 1 << 20, 768, 1),
    ("sequential read, 4 KiB", "read", 4096, 16384, 1),
    ("random read, 4 KiB", "random-read", 4096, 16384, 1),
    ("random read, 4 KiB, 8 threads", "random-read", 4096, 32768, 8),
    ("random write, 4 KiB", "random-write", 4096, 16384, 1),
    ("random write, 4 KiB, 8 threads", "random-write", 4096, 32768, 8),
    ("random write and flush, 4 KiB", "sync-write", 4096, 500, 1),
];

/// What to measure and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Rounds of each way; the least of each time counts
    #[arg(long, default_value_t = 2)]
    runs: usize,
    /// CPUs of the guests
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// How the image holds its disk
    #[arg(long, value_delimiter = ',', default_values = ["raw", "qcow2"])]
    formats: Vec<String>,
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Put the table into this file, between its marks (docs/performance.md)
    #[arg(long)]
    write: Option<PathBuf>,
    /// This roof instead of building one
    #[arg(long)]
    roof: Option<PathBuf>,
}

/// Wall and CPU seconds, and the sum.
#[derive(Clone, Debug)]
struct Measured {
    wall_s: f64,
    cpu_s: f64,
    sum: String,
}

type Round = BTreeMap<&'static str, Measured>;

/// What both ways run.
struct Bench<'a> {
    roof: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    folder: &'a Path,
    cpus: u32,
}

/// Runs the benchmark.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    setup::need(
        &["qemu-system-x86_64", "qemu-img", "busybox", "cpio"],
        &["qemu-system-x86", "qemu-utils", "busybox-static", "cpio"],
    )
    .map_err(|why| anyhow::anyhow!("nothing to compare with: {why}"))?;
    let roof = options.roof.clone().map_or_else(|| cargo::build_roof(root), Ok)?;
    let kernel = kernels::fetch(&roof, "linux-image-cloud-amd64")?;
    let folder = tempfile::tempdir_in("/var/tmp").context("a folder in /var/tmp")?;
    let initrd = pack(root, folder.path(), &kernel, options)?;
    let load = write::load_note();
    let bench = Bench { roof, kernel, initrd, folder: folder.path(), cpus: options.cpus };
    let mut table = String::from(
        "| disk | roof | QEMU TCG | ratio | CPU, roof | CPU, QEMU |\n|---|---|---|---|---|---|\n",
    );
    for format in &options.formats {
        let mut ways: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
        for round in 0..options.runs.max(1) {
            for (way, rounds) in ways.iter_mut().enumerate() {
                eprintln!("{format}, {} round {}", ["roof", "QEMU"][way], round + 1);
                let measured = bench.round(way, format)?;
                let missing = cases(options).find(|(name, ..)| !measured.contains_key(name));
                ensure!(missing.is_none(), "the guest ended without {missing:?}");
                rounds.push(measured);
            }
        }
        rows(&mut table, format, &ways)?;
    }
    table.push_str(&load.map_or_else(String::new, |note| format!("\n{note}\n")));
    println!("{table}");
    if let Some(path) = &options.write {
        write::section(path, "disk", &write::machine_line(), &table)?;
    }
    Ok(())
}

fn cases(
    options: &Options,
) -> impl Iterator<Item = &'static (&'static str, &'static str, u64, u64, u64)> {
    CASES.iter().filter(|(name, ..)| options.only.as_ref().is_none_or(|only| name.contains(only)))
}

/// The initramfs: busybox, modules, the workloads, and a script of all cases.
fn pack(root: &Path, folder: &Path, kernel: &Path, options: &Options) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(&tree)?;
    fs::copy(build_workloads(root)?, tree.join("workloads")).context("the workloads")?;
    let name = kernel.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let release = name.strip_prefix("vmlinuz-").context("a kernel of the cache is vmlinuz-…")?;
    let cache = kernel.ancestors().nth(2).context("a kernel of the cache")?;
    let drivers = cache.join("lib/modules").join(release).join("kernel/drivers");
    let mut script = String::from("b=/bin/busybox\n$b mount -t devtmpfs none /dev\n");
    for module in MODULES {
        let file = format!("{}.ko", module.rsplit('/').next().expect("there is a last part"));
        fs::copy(drivers.join(format!("{module}.ko")), tree.join(&file)).context(module)?;
        writeln!(script, "$b insmod /{file}")?;
    }
    for (name, pattern, bytes, blocks, threads) in cases(options) {
        writeln!(script, "echo '@disk begin {name}'")?;
        writeln!(
            script,
            "echo @disk sum $(/workloads block /dev/vda {pattern} {bytes} {blocks} {threads})"
        )?;
        writeln!(script, "echo '@disk end'")?;
    }
    initrd::pack(root, folder, &script)
}

impl Bench<'_> {
    /// A fresh image, and all cases on it.
    fn round(&self, way: usize, format: &str) -> Result<Round> {
        let raw = self.folder.join("disk.raw");
        fill(&raw)?;
        let image = if format == "raw" {
            raw
        } else {
            let image = self.folder.join("disk.image");
            let status = Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", format])
                .args([&raw, &image])
                .status()?;
            ensure!(status.success(), "qemu-img could not make a {format} image");
            image
        };
        let image = image.to_str().context("a temporary folder has a plain name")?;
        self.watch(if way == 0 { self.ours(image, format) } else { self.peers(image, format) })
    }

    fn pair(&self) -> Pair<'_> {
        let Self { kernel, initrd, cpus, .. } = self;
        Pair { kernel, initrd, cpus: *cpus, memory_mib: 512 }
    }

    fn ours(&self, image: &str, format: &str) -> Command {
        let mut command = self.pair().roof(&self.roof, "soft");
        command.args(["-d", &format!("{image},format={format}")]);
        command
    }

    fn peers(&self, image: &str, format: &str) -> Command {
        let mut command = self.pair().tcg();
        command.args(["-object", "iothread,id=io"]);
        command.args(["-drive", &format!("file={image},format={format},if=none,id=disk")]);
        command.args(["-device", "virtio-blk-pci,drive=disk,iothread=io"]);
        command
    }

    /// Runs to the end and reads the markers as they come.
    fn watch(&self, mut command: Command) -> Result<Round> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let pid = child.id();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (mut round, mut sum, mut begun) = (Round::new(), String::new(), None);
        let mut words = Vec::new();
        for line in lines.map_while(Result::ok) {
            let Some((_, marker)) = line.split_once("@disk ") else {
                words.push(line);
                continue;
            };
            let (word, rest) = marker.trim_end().split_once(' ').unwrap_or((marker.trim_end(), ""));
            match word {
                "begin" => {
                    let name = CASES.iter().find(|(name, ..)| *name == rest);
                    begun = Some((name.context("a case")?.0, Instant::now(), cpu_seconds(pid)));
                }
                "sum" => sum = rest.to_owned(),
                _ => {
                    let (name, at, cpu_s) = begun.take().context("an end has a beginning")?;
                    let (wall_s, cpu_s) = (at.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu_s);
                    eprintln!("  {name}: {wall_s:.2} s, {cpu_s:.2} s CPU");
                    if sum.is_empty() {
                        bail!("{name} failed in the guest:\n{}", words.join("\n"));
                    }
                    round.insert(name, Measured { wall_s, cpu_s, sum: std::mem::take(&mut sum) });
                }
            }
        }
        ensure!(child.wait()?.success(), "{command:?} failed");
        Ok(round)
    }
}

/// An image in which each sector begins with its number.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut piece = vec![0; 1 << 20];
    for mib in 0..IMAGE_MIB {
        for (sector, bytes) in (mib << 11..).zip(piece.chunks_mut(512)) {
            bytes[..8].copy_from_slice(&sector.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    Ok(())
}

/// A row for each case: the least of each time.
fn rows(table: &mut String, format: &str, ways: &[Vec<Round>; 2]) -> Result<()> {
    for (name, _, bytes, blocks, _) in CASES {
        let all: Vec<&Measured> =
            ways.iter().flatten().filter_map(|round| round.get(name)).collect();
        let Some(first) = all.first() else { continue };
        ensure!(all.iter().all(|one| one.sum == first.sum), "{name}: not the same each time");
        let least = |way: usize, of: fn(&Measured) -> f64| {
            let values = ways[way].iter().filter_map(|round| round.get(name)).map(of);
            values.fold(f64::INFINITY, f64::min)
        };
        let wall = [0, 1].map(|way| least(way, |one| one.wall_s));
        let cpu = [0, 1].map(|way| least(way, |one| one.cpu_s));
        let speed = |wall_s: f64| {
            if bytes >= 1 << 20 {
                format!("{:.0} MiB/s", (bytes * blocks >> 20) as f64 / wall_s)
            } else {
                format!("{:.1} k/s", blocks as f64 / wall_s / 1000.0)
            }
        };
        writeln!(
            table,
            "| {format}, {name} | {} | {} | {:.2} | {:.2} s | {:.2} s |",
            speed(wall[0]),
            speed(wall[1]),
            wall[1] / wall[0],
            cpu[0],
            cpu[1]
        )?;
    }
    Ok(())
}
