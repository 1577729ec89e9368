//! Start-up on KVM: one kernel and one initramfs that runs `true`, in roof, in kvmtool and in QEMU's
//! microvm and pc, in turn, inside the nested suite's outer machine.
//!
//! Measured by the outer guest's clock (10 ms) from a process' start to the line that init writes when
//! `true` has ended, and to the process' end. Invariant: all get the same kernel, initramfs, memory and
//! number of processors, and say nothing else on the console.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::super::table::spread;
use super::{OUTER, Options, prepare};
use crate::suite::{kernels, nested};

/// The inner guest's PID 1.
const INNER: &str = "#!/bin/busybox sh\n/bin/busybox true\necho @done\n/bin/busybox reboot -f\n";

/// Runs a command, notes the time of its start, of `@done` on its output and of its end.
const TIMED: &str = r#"
timed() {
  name=$1; shift; rm -f /tmp/mark
  read start rest < /proc/uptime
  "$@" 2>/tmp/err </dev/null | while read -r line; do
    case $line in *@done*) read mark rest < /proc/uptime; echo $mark > /tmp/mark;; esac
  done
  read end rest < /proc/uptime
  echo "@time $name $start $(cat /tmp/mark || echo none) $end"
  [ -e /tmp/mark ] || tail -5 /tmp/err
}
cd /; export LD_LIBRARY_PATH=/qemu/lib
"#;

const QEMU: &str = "/qemu/qemu-system-x86_64 -L /qemu/share -cpu host -smp 1 -m 256 -nodefaults \
    -no-user-config -display none -no-reboot -serial stdio -kernel /guest-kernel -initrd /inner.cpio";

/// Runs the benchmark and prints its table.
pub(super) fn run(root: &Path, roof: &Path, options: &Options) -> Result<()> {
    let outer = kernels::fetch(roof, "linux-image-amd64")?;
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("bench");
    prepare(root, &tree, &outer, &work(options))?;
    let inner = folder.path().join("inner");
    fs::create_dir_all(inner.join("bin"))?;
    fs::create_dir_all(inner.join("dev"))?;
    fs::copy(tree.join("bin/busybox"), inner.join("bin/busybox"))?;
    fs::write(inner.join("init"), INNER)?;
    fs::set_permissions(inner.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::copy(nested::pack(root, &inner)?, tree.join("inner.cpio"))?;
    let guest = kernels::fetch(roof, "linux-image-cloud-amd64")?;
    fs::copy(guest, tree.join("guest-kernel"))?;
    if let Some(lkvm) = &options.lkvm {
        fs::copy(lkvm, tree.join("lkvm")).with_context(|| lkvm.display().to_string())?;
    }
    let load = fs::read_to_string("/proc/loadavg")?;
    let seen = nested::start(root, &tree, &outer, &OUTER)?;
    print(&seen.stdout, load.split(' ').next().unwrap_or_default())
}

/// The rounds as the outer guest's PID 1 does them.
fn work(options: &Options) -> String {
    let mut text = TIMED.to_owned();
    for _ in 0..options.rounds.max(1) {
        text += "timed roof /roof run --engine kvm -c 1 -m 256M --net none -i /inner.cpio -p quiet /guest-kernel\n";
        if options.lkvm.is_some() {
            text +=
                "timed kvmtool /lkvm run -c 1 -m 256 -k /guest-kernel -i /inner.cpio -p quiet\n";
        }
        for (machine, reboot) in [("microvm", "reboot=t"), ("pc", "")] {
            text += &format!(
                "timed qemu-{machine} {QEMU} -M {machine},accel=kvm -append \"console=ttyS0 quiet {reboot}\"\n"
            );
        }
    }
    text + "poweroff -f\n"
}

/// The table of what the outer guest noted.
fn print(stdout: &str, load: &str) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    let mut times: Vec<(&str, f64, f64)> = Vec::new();
    for line in stdout.lines().filter_map(|line| line.strip_prefix("@time ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, start, mark, end] = words[..] else { bail!("not a time: {line}") };
        let number = |word: &str| word.parse::<f64>().with_context(|| format!("{name}: {stdout}"));
        let start = number(start)?;
        if !names.contains(&name) {
            names.push(name);
        }
        times.push((name, number(mark)? - start, number(end)? - start));
    }
    if times.is_empty() {
        bail!("the outer guest measured nothing:\n{stdout}");
    }
    println!("| start to | `true` is done | the process ends | rounds |\n|---|---|---|---|");
    for name in names {
        let of = |which: fn(&(&str, f64, f64)) -> f64| -> Vec<f64> {
            times.iter().filter(|time| time.0 == name).map(which).collect()
        };
        let (done, end) = (of(|time| time.1), of(|time| time.2));
        let ((least, middle), (least_end, middle_end)) = (spread(&done), spread(&end));
        println!(
            "| {name} | {middle:.2} s (min {least:.2}) | {middle_end:.2} s (min {least_end:.2}) | {} |",
            done.len()
        );
    }
    println!("\nThe host's load was {load} at the start.");
    Ok(())
}
