//! The network benchmark: one kernel, one initrd and one client on `roof` and on QEMU TCG with their
//! user networks, in turn; both reach the same server at 10.0.2.2.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::table;
use crate::net::{Server, pattern_sum};
use crate::pair::Pair;
use crate::suite::{self, initrd, kernels, setup};
use crate::{cargo, cpu};

/// The kernel command line of both machines.
const PATIENCE: Duration = Duration::from_secs(600);
const GATEWAY: &str = "10.0.2.2";

/// In loading order; a kernel has them built in, or here.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// MiB each way
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// One byte there and back, so many times
    #[arg(long, default_value_t = 2000)]
    turns: u64,
    /// Rounds of each
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// CPUs of the guest
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// This roof instead of building one
    #[arg(long)]
    roof: Option<PathBuf>,
    /// roof alone
    #[arg(long)]
    alone: bool,
}

/// Figures of one round: Mbit/s into the guest and out of it, microseconds of a turn.
type Figures = [f64; 3];

/// Runs the benchmark and prints its table.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    setup::need(
        &["qemu-system-x86_64", "busybox", "cpio"],
        &["qemu-system-x86", "busybox-static", "cpio"],
    )
    .map_err(|why| anyhow::anyhow!("nothing to compare with: {why}"))?;
    let roof = options.roof.clone().map_or_else(|| cargo::build_roof(root), Ok)?;
    let kernel = kernels::fetch(&roof, "linux-image-cloud-amd64")?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(IpAddr::from([127, 0, 0, 1]))?;
    let initrd = pack(root, folder.path(), &kernel, &server.seen_at(GATEWAY), options)?;
    let pair = Pair { kernel: &kernel, initrd: &initrd, cpus: options.cpus, memory_mib: 512 };
    let (mut ours, mut peer) = (pair.roof(&roof, "soft"), pair.tcg());
    ours.args(["--net", "user,loopback"]);
    peer.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]);
    let mut lines = [ours, peer];
    let mut rounds: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    for round in 0..options.runs.max(1) {
        for (line, list) in
            lines.iter_mut().zip(&mut rounds).take(if options.alone { 1 } else { 2 })
        {
            let figures = measure(line, options)?;
            let [in_, out, turn] = figures;
            let name = line.get_program().display();
            eprintln!("round {round}: {name} {in_:.0} and {out:.0} Mbit/s, {turn:.0} us");
            list.push(figures);
        }
    }
    if options.alone {
        return Ok(());
    }
    println!("| TCP over the user network | roof soft | QEMU TCG | ratio |\n|---|---|---|---|");
    let names =
        [("host to guest", "Mbit/s"), ("guest to host", "Mbit/s"), ("a byte there and back", "us")];
    for (index, (name, unit)) in names.into_iter().enumerate() {
        let pick = |list: &[Figures]| list.iter().map(|one| one[index]).collect::<Vec<_>>();
        println!("{}", table::row(name, &pick(&rounds[0]), &pick(&rounds[1]), unit));
    }
    Ok(())
}

/// The initrd: busybox, modules, the client, and an init that runs it.
fn pack(root: &Path, folder: &Path, kernel: &Path, to: &str, options: &Options) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("m"))?;
    fs::copy(cpu::build_workloads(root)?, tree.join("client")).context("the client")?;
    // ROOT/boot/vmlinuz-RELEASE, and beside it ROOT/lib/modules.
    let modules = kernel.ancestors().nth(2).context("a kernel of the cache")?.join("lib/modules");
    let mut script = String::from(
        "b=/bin/busybox; $b mkdir -p /proc /sys; $b mount -t proc p /proc; \
         $b mount -t sysfs s /sys\n",
    );
    for name in MODULES {
        let found =
            Command::new("find").arg(&modules).args(["-name", &format!("{name}.ko")]).output()?;
        let found = String::from_utf8(found.stdout)?;
        if let Some(path) = found.lines().next() {
            fs::copy(path, tree.join("m").join(format!("{name}.ko")))?;
            script.push_str(&format!("$b insmod /m/{name}.ko\n"));
        }
    }
    let (bytes, turns) = (options.mib << 20, options.turns);
    script.push_str(&format!(
        "$b ifconfig lo up; $b ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up\n\
         for n in 1 2 3 4 5 6 7 8 9 10; do $b ping -c 1 -W 1 {GATEWAY} >/dev/null && break; done\n\
         echo \"receive: $(/client net receive {to} {bytes})\"\n\
         echo \"send: $(/client net send {to} {bytes})\"\n\
         echo \"turns: $(/client net turns {to} {turns})\"\n"
    ));
    initrd::pack(root, folder, &script)
}

fn measure(line: &mut Command, options: &Options) -> Result<Figures> {
    let seen = suite::run(line, "", PATIENCE)?;
    let bytes = options.mib << 20;
    let sum = format!(": {bytes} {:016x} ", pattern_sum(bytes));
    let figure = |name: &str, middle: &str| -> Option<f64> {
        let rest = seen.stdout.lines().find_map(|line| line.trim().strip_prefix(name))?;
        rest.strip_prefix(middle)?.split(' ').next()?.parse().ok()
    };
    let turns = format!(": {} turns ", options.turns);
    let figures = (figure("receive", &sum), figure("send", &sum), figure("turns", &turns));
    match figures {
        (Some(receive), Some(send), Some(turn)) => Ok([receive, send, turn]),
        _ => bail!("{line:?} gave no figures:\n{}\n{}", seen.stdout, seen.stderr),
    }
}
