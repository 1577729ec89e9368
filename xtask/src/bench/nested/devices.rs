//! Throughput of devices on KVM: disk, network and share of roof beside QEMU's virtio-blk with an I/O thread, user
//! network and 9p, in turn.
//!
//! Image and share lie on an ext4 of the outer machine, in its page cache; the TCP server runs there, too. Invariant:
//! a case's result is the same each time, else the command fails.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::marks::{self, Took};
use super::work::{self, Amount, Case, PORT};
use super::{OUTER, Options, prepare};
use crate::bench::{files, table::spread};
use crate::cpu::write;
use crate::suite::{kernels, nested};

const APPEND: &str = "console=ttyS0 panic=-1 quiet tsc=reliable cryptomgr.notests";
const PEERS: [&str; 2] = ["roof", "qemu"];
/// Of the outer machine, for its own disk; in loading order.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
];

/// Mounts the scratch disk, starts the server; `marked` notes when a guest says `@begin` and `@end`.
const SET_UP: &str = r#"
cd /; export LD_LIBRARY_PATH=/qemu/lib; mkdir -p /scratch
mount -t debugfs d /sys/kernel/debug
mount -t ext4 /dev/vda /scratch || echo 'the scratch disk cannot be mounted'
ifconfig lo up; /xtask serve 127.0.0.1:PORT &
cat /scratch/disk.raw /scratch/shared/large > /dev/null; find /scratch/shared/tree > /dev/null
marked() {
  who=$1; shift
  "$@" < /dev/null 2> /tmp/err | while read -r line; do
    case $line in
      *@begin*|*@end*) read now rest < /proc/uptime; read exits < /sys/kernel/debug/kvm/exits
        echo "@at $who $now $exits ${line#*@}";;
      *) echo "  $who: $line";;
    esac
  done
  tail -5 /tmp/err
}
"#;

const QEMU: &str = "/qemu/qemu-system-x86_64 -L /qemu/share -accel kvm -cpu host -smp 1 -m 512 -nodefaults \
    -no-user-config -display none -no-reboot -serial stdio -object iothread,id=io \
    -drive file=/scratch/disk.raw,format=raw,if=none,id=disk -device virtio-blk-pci,drive=disk,iothread=io \
    -netdev user,id=n -device virtio-net-pci,netdev=n,romfile= \
    -virtfs local,path=/scratch/shared,mount_tag=share0,security_model=none,multidevs=remap \
    -kernel /guest-kernel -initrd /inner.cpio";

const ROOF: &str = "/roof run --engine kvm -q -c 1 -m 512M --json /tmp/report --net user,loopback \
    -d /scratch/disk.raw,format=raw --share /scratch/shared:/a:rw -i /inner.cpio";

/// Runs the benchmark and prints its table.
pub(super) fn run(root: &Path, roof: &Path, options: &Options) -> Result<()> {
    let cases = work::cases(options.only.as_deref());
    ensure!(!cases.is_empty(), "no case's name contains {:?}", options.only);
    let kernel = kernels::fetch(roof, "linux-image-amd64")?;
    let folder = tempfile::tempdir_in("/var/tmp").context("a folder in /var/tmp")?;
    let tree = folder.path().join("devices");
    prepare(root, &tree, &kernel, &text(options.rounds))?;
    nested::install(root, &tree.join("xtask"), &["build", "--package", "xtask"])?;
    let modules = files::modules(folder.path(), &kernel)?;
    for (number, name) in MODULES.iter().enumerate() {
        if let Some(path) = files::find_module(&modules, name) {
            fs::copy(path, tree.join(format!("modules/disk-{number:02}-{name}.ko")))?;
        }
    }
    let inner = folder.path().join("inner");
    fs::copy(work::pack(root, &inner, &modules, &cases)?, tree.join("inner.cpio"))?;
    fs::copy(&kernel, tree.join("guest-kernel"))?;
    let scratch = make_scratch(folder.path())?;
    let load = write::load_note();
    let limit = Duration::from_secs(300 + 600 * options.rounds as u64);
    let seen = nested::start_for(
        root,
        &tree,
        &kernel,
        &[&OUTER[..2], &["-smp", &options.outer_cpus.to_string(), "-drive", &scratch]].concat(),
        limit,
    )?;
    let counts = |line: &&str| line.contains("\"doorbells_") || line.contains("\"messages_");
    seen.stdout.lines().filter(counts).for_each(|line| eprintln!("roof: {}", line.trim()));
    let took = marks::read(&seen.stdout)?;
    let whole = took.len() == cases.len() * PEERS.len() * options.rounds;
    ensure!(whole, "not all was measured; the outer machine said\n{}{}", seen.stdout, seen.stderr);
    let said = || format!("the outer machine said\n{}", seen.stdout);
    let mut table = rows(&cases, &took).with_context(said)?;
    table.push_str(&load.map_or_else(String::new, |note| format!("\n{note}\n")));
    println!("{table}");
    if let Some(path) = &options.write {
        write::section(path, "nested-devices", &write::machine_line(), &table)?;
    }
    Ok(())
}

/// The outer machine's work.
fn text(rounds: usize) -> String {
    let mut text = SET_UP.replace("PORT", &PORT.to_string());
    for _ in 0..rounds {
        text += &format!("marked roof {ROOF} -p \"{APPEND}\" /guest-kernel\n");
        text += "grep -E '(doorbells|messages)_' /tmp/report\n";
        text += &format!("marked qemu {QEMU} -append \"{APPEND}\"\n");
    }
    text + "poweroff -f\n"
}

/// The outer machine's disk, as QEMU's words for it: an ext4 with image and share.
fn make_scratch(folder: &Path) -> Result<String> {
    let contents = folder.join("scratch");
    fs::create_dir(&contents)?;
    work::scratch(&contents)?;
    let image = folder.join("scratch.raw");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .arg(&contents)
        .arg(&image)
        .arg(format!("{}M", work::IMAGE_MIB * 3))
        .status()
        .context("mkfs.ext4")?;
    if !made.success() {
        bail!("mkfs.ext4 could not make {}: {made}", image.display());
    }
    Ok(format!("file={},format=raw,if=virtio,cache=unsafe", image.display()))
}

/// A row for each case: the best speed and in brackets the median, the ratio of the best, exits.
fn rows(cases: &[Case], took: &[Took]) -> Result<String> {
    let mut table = String::from(
        "| on KVM | roof | QEMU | ratio | exits, roof | exits, QEMU |\n|---|---|---|---|---|---|\n",
    );
    for (number, case) in cases.iter().enumerate() {
        let of = |who: &'static str| {
            took.iter().filter(move |took| took.case == number && took.who == who)
        };
        let first = of(PEERS[0]).next().context("a case was measured")?;
        let expected = case.result.as_ref().unwrap_or(&first.result);
        for other in PEERS.into_iter().flat_map(of) {
            let right = other.result == *expected && !expected.is_empty();
            ensure!(
                right,
                "{}: {} came to {:?}, not {expected:?}",
                case.name,
                other.who,
                other.result
            );
        }
        let seconds =
            PEERS.map(|who| spread(&of(who).map(|took| took.seconds).collect::<Vec<_>>()));
        let exits =
            PEERS.map(|who| spread(&of(who).map(|took| took.exits as f64).collect::<Vec<_>>()).1);
        let speed = |(least, middle): (f64, f64)| match case.amount {
            Amount::Mib(mib) => {
                format!("{:.1} MiB/s ({:.1})", mib as f64 / least, mib as f64 / middle)
            }
            Amount::Times(times) => {
                let thousands = times as f64 / 1000.0;
                format!("{:.2} k/s ({:.2})", thousands / least, thousands / middle)
            }
        };
        writeln!(
            table,
            "| {} | {} | {} | {:.2} | {:.0} | {:.0} |",
            case.name,
            speed(seconds[0]),
            speed(seconds[1]),
            seconds[1].0 / seconds[0].0,
            exits[0],
            exits[1]
        )?;
    }
    Ok(table)
}
