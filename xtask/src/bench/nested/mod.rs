//! `cargo xtask bench nested`: roof and its peers on KVM, inside the nested suite's outer machine.
//!
//! Files: `start` times boots, `devices` the throughput of disk, network and share, `work` is what the guest does
//! there, `marks` reads what was noted. Invariant: all that are compared run in turn in one outer machine, on
//! one kernel and one initramfs, and its clock alone is looked at.

mod devices;
mod marks;
mod start;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::suite::{nested, setup};

/// What to compare, and with what.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A static kvmtool (make lkvm-static) to compare the start with
    #[arg(long)]
    lkvm: Option<PathBuf>,
    /// Rounds of each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Throughput of disk, network and share, beside QEMU, instead of the start
    #[arg(long)]
    devices: bool,
    /// Processors of the outer machine of --devices: with one, no figure has the host's way to wake another in it
    #[arg(long, default_value_t = 2)]
    outer_cpus: u32,
    /// Of the devices only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Put the devices' table into this file, between its marks (docs/performance.md)
    #[arg(long)]
    write: Option<PathBuf>,
}

/// Processors and accelerator of the outer machine.
const OUTER: [&str; 4] = ["-accel", "tcg,thread=multi", "-smp", "2"];

/// Runs the benchmark and prints its table.
pub(crate) fn run(root: &Path, roof: &Path, options: &Options) -> Result<()> {
    let programs = ["qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4"];
    let packages = ["qemu-system-x86", "busybox-static", "cpio", "e2fsprogs"];
    if let Err(why) = setup::need(&programs, &packages) {
        bail!("nothing to compare with: {why}");
    }
    if options.devices {
        devices::run(root, roof, options)
    } else {
        start::run(root, roof, options)
    }
}

/// An outer machine's files: `work` for its PID 1, a static `roof`, and QEMU with what it needs.
fn prepare(root: &Path, tree: &Path, outer: &Path, work: &str) -> Result<()> {
    nested::base(tree, outer, work)?;
    nested::install(root, &tree.join("roof"), &["build", "--package", "oneroof-cli"])?;
    let script = "set -e; mkdir -p \"$0/qemu/lib\" \"$0/qemu/share\" \"$0/lib64\"; \
        qemu=$(command -v qemu-system-x86_64); cp -L \"$qemu\" \"$0/qemu/\"; \
        cp -L $(ldd \"$qemu\" | awk '/=> \\//{print $3}') \"$0/qemu/lib/\"; \
        cp -L /lib64/ld-linux-x86-64.so.2 \"$0/lib64/\"; \
        for f in bios-256k.bin bios-microvm.bin linuxboot_dma.bin kvmvapic.bin pvh.bin; do \
        for d in /usr/share/seabios /usr/share/qemu; do \
        [ ! -e $d/$f ] || cp -L $d/$f \"$0/qemu/share/\"; done; done";
    let copied = Command::new("sh").args(["-c", script]).arg(tree).status()?;
    if !copied.success() {
        bail!("cannot copy QEMU and its libraries: is qemu-system-x86_64 Debian's?");
    }
    Ok(())
}
