//! `cargo xtask bench cpu`: one initramfs and one kernel, three ways in one run: native on the
//! host, QEMU TCG, roof. CPU time between console markers; one table of ratios.
//!
//! Invariant: a workload's checksum is the same every way, else the table says WRONG and the
//! command fails.

mod json;
mod machine;
mod marker;
mod pack;
mod plan;
mod python;
mod table;
mod tree;
mod twins;
pub(crate) mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo;
use crate::suite::{kernels, setup};
use machine::{Guest, Outcome};
use plan::Task;

pub(crate) use machine::cpu_seconds;
pub(crate) use pack::build_workloads;
pub(crate) use tree::find;

/// What to measure and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these workloads, or classes: integer, float, system
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// roof's engine
    #[arg(long, default_value = "soft")]
    engine: String,
    /// The ways to run
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["native", "tcg", "soft"])]
    ways: Vec<Way>,
    /// Rounds of each way; the least of each time counts
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Multiplies the amount of work
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Two copies at once on two CPUs beside one, by the wall, instead of the table
    #[arg(long)]
    smp2: bool,
    /// Memory of the guests, MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Seconds that one workload may take
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// Write all figures there
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the table into this file, between its marks (docs/performance.md)
    #[arg(long)]
    write: Option<PathBuf>,
    /// This roof instead of building one
    #[arg(long)]
    roof: Option<PathBuf>,
    /// This kernel instead of the distribution's cloud kernel
    #[arg(long)]
    kernel: Option<PathBuf>,
}

/// A way to run the workloads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Way {
    /// On the host itself
    Native,
    /// In QEMU with its translator
    Tcg,
    /// In roof, by --engine
    #[value(alias = "roof")]
    Soft,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcg => "tcg",
            Self::Soft => "roof",
        }
    }
}

/// All rounds of one way.
struct Series {
    way: Way,
    rounds: Vec<Outcome>,
}

/// Runs the benchmark.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let tasks = plan::select(&options.only, options.scale)?;
    install(&tasks, options)?;
    let roof = match &options.roof {
        Some(roof) => roof.clone(),
        None => cargo::build_roof(root)?,
    };
    let kernel = match &options.kernel {
        Some(kernel) => kernel.clone(),
        None => kernels::fetch(&roof, "linux-image-cloud-amd64")?,
    };
    let folder = work_folder()?;
    let binary = build_workloads(root)?;
    let tasks = if options.smp2 { twins::plan(&tasks) } else { tasks };
    let packed = pack::pack(root, folder.path(), &binary, &tasks)?;
    let guest = Guest {
        roof,
        engine: options.engine.clone(),
        kernel,
        initrd: packed.initrd,
        work: packed.work,
        binary,
        cpus: if options.smp2 { 2 } else { 1 },
        memory_mib: options.memory,
        patience: Duration::from_secs(options.patience),
    };
    let load = write::load_note();
    let series = measure(&guest, options)?;
    let mut text =
        if options.smp2 { twins::table(&tasks, &series) } else { table::text(&tasks, &series) };
    load.into_iter().for_each(|note| text.note(note));
    println!("{text}");
    if let Some(path) = &options.json {
        json::write(path, &tasks, &series, options)?;
    }
    if let Some(path) = &options.write {
        let kind = if options.smp2 { "smp2" } else { "cpu" };
        write::section(path, kind, &write::machine_line(), &table::markdown(&text))?;
    }
    verdict(&tasks, &series)?;
    if options.smp2 { twins::verdict(&tasks, &series) } else { Ok(()) }
}

/// The programs that the tasks and the ways need.
fn install(tasks: &[Task], options: &Options) -> Result<()> {
    let mut programs = vec!["cpio"];
    let mut packages = vec!["cpio"];
    if options.ways.contains(&Way::Tcg) {
        programs.push("qemu-system-x86_64");
        packages.push("qemu-system-x86");
    }
    for task in tasks {
        if let Some((program, package)) = task.package() {
            programs.push(program);
            packages.push(package);
        }
    }
    setup::need(&programs, &packages).map_err(|why| anyhow::anyhow!("the benchmark needs: {why}"))
}

/// Data lies in memory, natively too, so that no disk is measured.
fn work_folder() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.context("a temporary folder")
}

fn measure(guest: &Guest, options: &Options) -> Result<Vec<Series>> {
    let mut series: Vec<Series> =
        options.ways.iter().map(|way| Series { way: *way, rounds: Vec::new() }).collect();
    for round in 0..options.runs.max(1) {
        for one in &mut series {
            eprintln!("{} round {}", one.way.name(), round + 1);
            let outcome = match one.way {
                Way::Native => guest.native(),
                Way::Tcg => guest.tcg(),
                Way::Soft => guest.roof(),
            };
            one.rounds.push(outcome.with_context(|| format!("the {} way", one.way.name()))?);
        }
    }
    Ok(series)
}

/// An error that names what went wrong, if anything did.
fn verdict(tasks: &[Task], series: &[Series]) -> Result<()> {
    let wrong: Vec<String> = tasks
        .iter()
        .filter_map(|task| {
            table::fault(&task.name, series).map(|why| format!("{}: {why}", task.name))
        })
        .collect();
    if !wrong.is_empty() {
        bail!("not every workload is right:\n{}", wrong.join("\n"));
    }
    Ok(())
}
