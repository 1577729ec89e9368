//! What the inner guest does with its devices, and its initramfs: the workloads of `bench disk`, `bench net` and
//! `bench fs`, in amounts that an emulated machine comes to an end with.
//!
//! Between `@begin N` and `@end N RESULT` on its console lies case N. Invariant: a result is the same whoever runs
//! it and however often; what is wrong with a device shows there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::{disk, files};
use crate::cpu::build_workloads;
use crate::net::pattern_sum;
use crate::suite::initrd;

/// The server in the outer machine.
pub(super) const PORT: u16 = 7000;
/// The disk's image, MiB.
pub(super) const IMAGE_MIB: u64 = 256;
/// Blocks of each case of [`disk::CASES`]: fewer than there.
const BLOCKS: [u64; disk::CASES.len()] = [IMAGE_MIB, IMAGE_MIB, 1000, 1000, 2000, 1000, 2000, 300];
/// Files of the share's tree: so many folders of a hundred.
const FOLDERS: usize = 8;
/// MiB that TCP moves each way.
const NET_MIB: u64 = 64;
const TURNS: u64 = 300;
/// MiB of the share's large file.
const LARGE_MIB: usize = 48;

/// How a case's speed is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// MiB a second.
    Mib(u64),
    /// Thousands a second.
    Times(u64),
}

/// One case.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) amount: Amount,
    /// Prints its result.
    command: String,
    /// What that is to be, if it is known beforehand.
    pub(super) result: Option<String>,
}

/// The cases whose name contains this.
pub(super) fn cases(only: Option<&str>) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((name, pattern, bytes, _, threads), blocks) in disk::CASES.into_iter().zip(BLOCKS) {
        let amount =
            if bytes > 4096 { Amount::Mib(bytes * blocks >> 20) } else { Amount::Times(blocks) };
        let command = format!("/workloads block /dev/vda {pattern} {bytes} {blocks} {threads}");
        let name = format!("disk, {name}");
        cases.push(Case { name, amount, command, result: None });
    }
    let (bytes, sum) = (NET_MIB << 20, pattern_sum(NET_MIB << 20));
    let to = format!("10.0.2.2:{PORT}");
    for (name, what) in [("net, TCP to the guest", "receive"), ("net, TCP from the guest", "send")]
    {
        // without the guest's own figure
        let command = format!("set -- $(/workloads net {what} {to} {bytes}); echo $1 $2");
        let result = Some(format!("{bytes} {sum:016x}"));
        cases.push(Case { name: name.into(), amount: Amount::Mib(NET_MIB), command, result });
    }
    cases.push(Case {
        name: "net, a byte there and back".into(),
        amount: Amount::Times(TURNS),
        command: format!("set -- $(/workloads net turns {to} {TURNS}); echo $1 $2"),
        result: Some(format!("{TURNS} turns")),
    });
    share(&mut cases);
    cases.retain(|case| only.is_none_or(|only| case.name.contains(only)));
    cases
}

fn share(cases: &mut Vec<Case>) {
    let files = (FOLDERS * 100) as u64;
    let mut add = |name: &str, amount, command: &str, result: Option<String>| {
        cases.push(Case { name: name.into(), amount, command: command.into(), result });
    };
    let find = "find /mnt/tree -type f -size -9 | wc -l";
    add("share, find, first", Amount::Times(files), find, Some(files.to_string()));
    add("share, find, second", Amount::Times(files), find, Some(files.to_string()));
    let tar = "tar -C /mnt -cf - tree | wc -c";
    add("share, tar of small files", Amount::Times(files), tar, None);
    let mib = LARGE_MIB as u64;
    let read = "cat /mnt/large | wc -c";
    add("share, read", Amount::Mib(mib), read, Some((mib << 20).to_string()));
    let write =
        "dd if=/dev/zero of=/mnt/new bs=1M count=32 conv=fsync 2> /dev/null; stat -c %s /mnt/new";
    add("share, write and fsync", Amount::Mib(32), write, Some((32 << 20).to_string()));
    let many = "mkdir /mnt/many && cd /mnt/many && seq 1 200 | xargs touch && ls | wc -l; cd /; rm -r /mnt/many";
    add("share, create and remove files", Amount::Times(200), many, Some("200".into()));
}

/// What lies on the outer machine's scratch disk: the image and the shared folder.
pub(super) fn scratch(folder: &Path) -> Result<()> {
    let tree = folder.join("shared/tree");
    fs::create_dir_all(&tree)?;
    for number in 0..FOLDERS {
        let folder = tree.join(format!("d{number}"));
        fs::create_dir(&folder)?;
        for file in 0..100 {
            fs::write(folder.join(format!("file{file}")), format!("contents of file {file}\n"))?;
        }
    }
    fs::write(folder.join("shared/large"), vec![0x5a; LARGE_MIB << 20])?;
    let mut image = vec![0; (IMAGE_MIB << 20) as usize];
    // As `block` writes them, so that what is read is the same before a write and after it.
    for (sector, place) in image.chunks_mut(512).zip((0_u64..).step_by(512)) {
        sector[..8].copy_from_slice(&place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    fs::write(folder.join("disk.raw"), image).context("the disk's image")
}

/// The initramfs: busybox, the modules of both machines, the workloads and a script of the cases.
pub(super) fn pack(
    root: &Path,
    folder: &Path,
    modules: &[PathBuf],
    cases: &[Case],
) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("modules"))?;
    fs::copy(build_workloads(root)?, tree.join("workloads")).context("the workloads")?;
    let mut script = String::from(
        "export PATH=/bin\n/bin/busybox --install -s /bin\nmkdir -p /proc /sys /mnt /tmp\n\
         mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n",
    );
    for name in
        files::MODULES.iter().chain(&["virtio_blk", "failover", "net_failover", "virtio_net"])
    {
        if let Some(path) = files::find_module(modules, name) {
            fs::copy(path, tree.join(format!("modules/{name}.ko")))?;
            writeln!(script, "insmod /modules/{name}.ko")?;
        }
    }
    script.push_str(
        "mount -t virtiofs share0 /mnt 2> /dev/null || mount -t 9p -o trans=virtio,\
         version=9p2000.L,msize=512000,cache=loose share0 /mnt || echo no share\n\
         ifconfig lo up; ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up\n\
         for n in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 1 10.0.2.2 > /dev/null && break; done\n\
         echo 3 > /proc/sys/vm/drop_caches\n",
    );
    for (number, case) in cases.iter().enumerate() {
        let command = &case.command;
        writeln!(
            script,
            "echo @begin {number}; r=$({command}); echo @end {number} $r; rm -f /mnt/new"
        )?;
    }
    initrd::pack(root, folder, &script)
}
