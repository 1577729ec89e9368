//! The boot benchmark: one kernel and one initrd on `roof --engine soft` and on QEMU TCG in turn;
//! then what it costs to get to the first guest instruction, and memory beyond guest RAM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Cost, cost, memory, table};
use crate::cargo;
use crate::suite::{kernels, setup};

/// The kernel command line of both machines.
const APPEND: &str = "console=ttyS0 panic=-1 quiet tsc=reliable cryptomgr.notests";

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
    let initrd = initrd(root, folder.path())?;
    let (ours, peer) = (our_line(roof, &kernel, &initrd), peer_line(&kernel, &initrd));
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for round in 0..runs.max(1) {
        for (line, list) in [&ours, &peer].into_iter().zip(&mut costs) {
            let one = cost(line)?;
            eprintln!("round {round}: {} {:.2} s CPU", line[0], one.cpu_s);
            list.push(one);
        }
    }
    let pick = |list: &[Cost], of: fn(&Cost) -> f64| list.iter().map(of).collect::<Vec<_>>();
    println!("| boot to shell and power-off | roof soft | QEMU TCG | ratio |\n|---|---|---|---|");
    for (name, of) in [("CPU time", (|c| c.cpu_s) as fn(&Cost) -> f64), ("wall time", |c| c.wall_s)]
    {
        println!("{}", table::row(name, &pick(&costs[0], of), &pick(&costs[1], of), "s"));
    }
    println!("\nresident beyond guest RAM: {:.1} MiB at most", resident_mib(&ours)?);
    start(roof, &kernel, folder.path())
}

/// An initrd whose init proves that user space runs, and powers off.
fn initrd(root: &Path, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output()?;
    let busybox = String::from_utf8(found.stdout)?;
    fs::copy(busybox.trim(), tree.join("bin/busybox")).context("busybox")?;
    fs::write(tree.join("init"), "#!/bin/busybox sh\n/bin/busybox poweroff -f\n")?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    let target = folder.join("initrd");
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc > '{}'",
        tree.display(),
        target.display()
    );
    cargo::run(root, "sh", &["-c", &script])?;
    Ok(target)
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn our_line(roof: &Path, kernel: &Path, initrd: &Path) -> Vec<String> {
    let (roof, kernel, initrd) =
        (roof.to_string_lossy(), kernel.to_string_lossy(), initrd.to_string_lossy());
    words(&[
        &roof, "run", &kernel, "-i", &initrd, "--engine", "soft", "-m", "512M", "-p", APPEND, "-q",
    ])
}

fn peer_line(kernel: &Path, initrd: &Path) -> Vec<String> {
    let (kernel, initrd) = (kernel.to_string_lossy(), initrd.to_string_lossy());
    words(&[
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "512",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-kernel",
        &kernel,
        "-initrd",
        &initrd,
        "-append",
        APPEND,
    ])
}

/// The most that `roof` has resident beyond guest RAM while it boots.
fn resident_mib(line: &[String]) -> Result<f64> {
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut most = 0;
    while child.try_wait()?.is_none() {
        most = most.max(memory::beyond_ram_kib(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(most as f64 / 1024.0)
}

/// CPU time from process start to the first guest instruction, as `roof` itself reports it.
fn start(roof: &Path, kernel: &Path, folder: &Path) -> Result<()> {
    let report = folder.join("report.json");
    let output = Command::new(roof)
        .args(["run", "--engine", "soft", "-q", "--json"])
        .arg(&report)
        .arg(kernel)
        .args(["--", "true"])
        .output()?;
    if !output.status.success() {
        bail!("roof run -- true ended with {}", output.status);
    }
    let text = fs::read_to_string(&report)?;
    let number = |key: &str| -> Option<f64> {
        let rest = text.split_once(&format!("\"{key}\":"))?.1;
        rest.split([',', '}', '\n']).next()?.trim().parse().ok()
    };
    let total = number("start_cpu_ms").context("the report has start_cpu_ms")?;
    let unpack = number("unpack_cpu_ms").unwrap_or(0.0);
    println!(
        "process start to first guest instruction: {total:.1} ms CPU, {unpack:.1} of it unpacking"
    );
    Ok(())
}
