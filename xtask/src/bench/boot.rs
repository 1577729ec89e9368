//! The boot benchmark: one kernel and one initrd on `roof --engine soft` and on QEMU TCG in turn;
//! then what it costs to get to the first guest instruction, and memory beyond guest RAM.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Cost, cost, memory, table};
use crate::pair::Pair;
use crate::suite::{initrd, kernels, setup};

/// Runs the benchmark and prints its table.
pub(crate) fn run(root: &Path, roof: &Path, runs: usize) -> Result<()> {
    if let Err(why) = setup::need(
        &["qemu-system-x86_64", "busybox", "cpio"],
        &["qemu-system-x86", "busybox-static", "cpio"],
    ) {
        bail!("nothing to compare with: {why}");
    }
    let kernel = kernels::fetch(roof, "linux-image-cloud-amd64")?;
    let folder = tempfile::tempdir()?;
    let initrd = initrd::pack(root, folder.path(), "")?;
    let pair = Pair { kernel: &kernel, initrd: &initrd, cpus: 1, memory_mib: 512 };
    let mut ours = pair.roof(roof, "soft");
    let peer = pair.tcg();
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for round in 0..runs.max(1) {
        for (line, list) in [&ours, &peer].into_iter().zip(&mut costs) {
            let one = cost(line)?;
            eprintln!("round {round}: {} {:.2} s CPU", line.get_program().display(), one.cpu_s);
            list.push(one);
        }
    }
    let pick = |list: &[Cost], of: fn(&Cost) -> f64| list.iter().map(of).collect::<Vec<_>>();
    println!("| boot to shell and power-off | roof soft | QEMU TCG | ratio |\n|---|---|---|---|");
    for (name, of) in [("CPU time", (|c| c.cpu_s) as fn(&Cost) -> f64), ("wall time", |c| c.wall_s)]
    {
        println!("{}", table::row(name, &pick(&costs[0], of), &pick(&costs[1], of), "s"));
    }
    let (_, most) = memory::peak_beyond_ram_mib(&mut ours)?;
    println!("\nresident beyond guest RAM: {most:.1} MiB at most");
    start(roof, &kernel, folder.path())
}

/// CPU time from process start to the first guest instruction, as `roof` itself reports it: the
/// least of several runs, with the engine named and with the host's own choice.
fn start(roof: &Path, kernel: &Path, folder: &Path) -> Result<()> {
    const RUNS: usize = 5;
    for engine in ["soft", "auto"] {
        let mut best: Option<(f64, f64)> = None;
        for _ in 0..RUNS {
            let (total, unpack) = start_once(roof, kernel, &folder.join("report.json"), engine)?;
            if best.is_none_or(|(least, _)| total < least) {
                best = Some((total, unpack));
            }
        }
        let (total, unpack) = best.context("there was a run")?;
        println!(
            "process start to first guest instruction, --engine {engine}: {total:.1} ms CPU, \
             {unpack:.1} of it unpacking the kernel"
        );
    }
    Ok(())
}

fn start_once(roof: &Path, kernel: &Path, report: &Path, engine: &str) -> Result<(f64, f64)> {
    let output = Command::new(roof)
        .args(["run", "--engine", engine, "-q", "--json"])
        .arg(report)
        .arg(kernel)
        .args(["--", "true"])
        .output()?;
    if !output.status.success() {
        bail!("roof run -- true ended with {}", output.status);
    }
    let text = fs::read_to_string(report)?;
    let number = |key: &str| -> Option<f64> {
        let rest = text.split_once(&format!("\"{key}\":"))?.1;
        rest.split([',', '}', '\n']).next()?.trim().parse().ok()
    };
    let total = number("start_cpu_ms").context("the report has start_cpu_ms")?;
    Ok((total, number("unpack_cpu_ms").unwrap_or(0.0)))
}
