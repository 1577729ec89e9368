//! `cargo xtask bench fs`: a tree of 100,000 files in a shared folder, walked, packed, looked at by
//! git and built in, on roof's virtio-fs and on QEMU TCG's 9p.
//!
//! Both machines boot Debian's generic kernel with one initrd, which changes into the host's root,
//! shared read-only, and times the commands there by the guest's clock.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::table;
use crate::pair::Pair;
use crate::suite::{initrd, kernels, setup};

/// Directories, and files in each.
const FOLDERS: usize = 100;
const FILES: usize = 1000;
/// C files of the build.
const SOURCES: usize = 20;

/// Commands in the tree, each with its name in the table.
const WORK: &[(&str, &str)] = &[
    ("find, 100,000 files, first", "find /mnt/tree -size +100k"),
    ("find, second", "find /mnt/tree -size +100k"),
    (
        "tar of 10,000 files",
        "tar -C /mnt/tree -cf - d1 d2 d3 d4 d5 d6 d7 d8 d9 d10 | cat > /dev/null",
    ),
    ("read 128 MiB", "cat /mnt/large > /dev/null"),
    ("write 64 MiB", "dd if=/dev/zero of=/mnt/new bs=1M count=64 conv=fsync 2> /dev/null"),
    ("git status, 10,000 files", "git -C /mnt/repository status --short"),
    ("make, 20 C files", "make -s -C /mnt/build"),
    (
        "create and remove 2,000 files",
        "mkdir /mnt/many && cd /mnt/many && seq 1 2000 | xargs touch && cd / && rm -r /mnt/many",
    ),
];

/// Modules of the initrd, in loading order, as far as the kernel has them as modules.
pub(crate) const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
];

/// Makes a tree of 100 directories with 1000 small files each.
pub(crate) fn tree(at: &Path) -> Result<()> {
    for folder in 0..FOLDERS {
        let folder = at.join(format!("d{folder}"));
        fs::create_dir(&folder)?;
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file}")), format!("contents of file {file}\n"))?;
        }
    }
    Ok(())
}

/// Runs the benchmark and prints its table.
pub(crate) fn run(root: &Path, roof: &Path, runs: usize) -> Result<()> {
    if let Err(why) = setup::need(
        &["qemu-system-x86_64", "busybox", "cpio", "git", "gcc", "make"],
        &["qemu-system-x86", "busybox-static", "cpio", "git", "gcc", "make"],
    ) {
        bail!("nothing to compare with: {why}");
    }
    let kernel = kernels::fetch(roof, "linux-image-amd64")?;
    let place = tempfile::Builder::new().prefix("roof-bench").tempdir_in("/var/tmp")?;
    let shared = place.path().join("shared");
    prepare(&shared)?;
    let initrd = pack(root, place.path(), &kernel)?;
    let pair = Pair { kernel: &kernel, initrd: &initrd, cpus: 1, memory_mib: 1024 };
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..runs.max(1) {
        for (mut line, list) in lines(roof, pair, &shared).into_iter().zip(&mut times) {
            let output = line.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let found = seconds(&text);
            ensure!(found.len() == WORK.len(), "{line:?} said\n{text}");
            eprintln!("round {round}: {} {found:.2?}", line.get_program().display());
            list.push(found);
        }
    }
    println!(
        "| in a shared folder | roof soft, virtio-fs | QEMU TCG, 9p | ratio |\n|---|---|---|---|"
    );
    for (index, (name, _)) in WORK.iter().enumerate() {
        let of = |list: &[Vec<f64>]| list.iter().map(|run| run[index]).collect::<Vec<_>>();
        println!("{}", table::row(name, &of(&times[0]), &of(&times[1]), "s"));
    }
    Ok(())
}

/// What the guests work on.
fn prepare(shared: &Path) -> Result<()> {
    let (repository, build) = (shared.join("repository"), shared.join("build"));
    for folder in [&shared.join("tree"), &repository, &build] {
        fs::create_dir_all(folder)?;
    }
    tree(&shared.join("tree"))?;
    fs::write(shared.join("large"), vec![0x5a; 128 << 20])?;
    for folder in 0..10 {
        let folder = repository.join(format!("d{folder}"));
        fs::create_dir(&folder)?;
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file}")), format!("contents of file {file}\n"))?;
        }
    }
    let script = "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm one";
    let made = Command::new("sh").args(["-c", script]).current_dir(&repository).status()?;
    ensure!(made.success(), "git commit");
    let mut objects = String::new();
    for source in 0..SOURCES {
        let text = format!(
            "#include <stdio.h>\n#include <stdlib.h>\nint f{source}(int n) {{ printf(\"%d\", n); return abs(n); }}\n"
        );
        fs::write(build.join(format!("source{source}.c")), text)?;
        write!(objects, " source{source}.o")?;
    }
    let makefile = format!("all:{objects}\n\t@rm -f *.o\n%.o: %.c\n\tgcc -O1 -c -o $@ $<\n");
    fs::write(build.join("Makefile"), makefile)?;
    Ok(())
}

/// Busybox, the modules of both machines, and an init that times the commands.
fn pack(root: &Path, folder: &Path, kernel: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree/modules");
    fs::create_dir_all(&tree)?;
    let mut insert = String::new();
    let modules = modules(folder, kernel)?;
    for name in MODULES {
        if let Some(path) = find_module(&modules, name) {
            fs::copy(path, tree.join(format!("{name}.ko")))?;
            writeln!(insert, "insmod /modules/{name}.ko")?;
        }
    }
    let mut script = format!(
        "export PATH=/bin\n/bin/busybox --install -s /bin\nmkdir -p /proc /sys /r\n\
         mount -t proc p /proc; mount -t sysfs s /sys\n{insert}\
         try() {{ mount -t virtiofs -o $3 $1 $2 2> /dev/null || mount -t 9p -o $3,trans=virtio,\
         version=9p2000.L,msize=512000,cache=loose $1 $2; }}\n\
         try share0 /r ro; try share1 /r/mnt rw\n\
         mount -t proc p /r/proc; mount -t tmpfs t /r/tmp; mount -t devtmpfs d /r/dev\n\
         cat > /r/tmp/work <<'END'\nexport PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp\n\
         git config --global --add safe.directory '*'\n"
    );
    for (number, (_, command)) in WORK.iter().enumerate() {
        writeln!(
            script,
            "a=$(date +%s%N); ( {command} ) > /tmp/out || echo failed {number}; \
             echo took {number} $((($(date +%s%N) - a) / 1000000)) ms"
        )?;
    }
    script.push_str("END\nchroot /r /bin/sh /tmp/work\n");
    initrd::pack(root, folder, &script)
}

/// The module of this name, if the kernel has it as one.
pub(crate) fn find_module<'a>(modules: &'a [PathBuf], name: &str) -> Option<&'a PathBuf> {
    modules.iter().find(|path| module_name(path) == name)
}

fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// All modules of the kernel's Debian package: `roof` keeps those that its own guests can need.
pub(crate) fn modules(folder: &Path, kernel: &Path) -> Result<Vec<PathBuf>> {
    let name = kernel.file_name().context("a kernel has a name")?.to_string_lossy();
    let package = format!("linux-image-{}", name.trim_start_matches("vmlinuz-"));
    let place = folder.join("package");
    fs::create_dir(&place)?;
    let script = "apt-get download -q \"$0\" > /dev/null 2>&1 && dpkg-deb -x ./*.deb . && rm ./*.deb && \
                  find lib/modules -name '*.ko*'";
    let output = Command::new("sh").args(["-c", script, &package]).current_dir(&place).output()?;
    ensure!(output.status.success(), "apt-get download {package} failed");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| place.join(line)).collect())
}

/// Both machines with both shares: the host's root, read-only, and the folder.
fn lines(roof: &Path, pair: Pair<'_>, shared: &Path) -> [Command; 2] {
    let (mut ours, mut peer) = (pair.roof(roof, "soft"), pair.tcg());
    ours.args(["--share", "/:/a:ro", "--share"]).arg(format!("{}:/b/c:rw", shared.display()));
    let share = |tag: &str, path: &Path, more: &str| {
        format!(
            "local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}",
            path.display()
        )
    };
    peer.args(["-virtfs", &share("share0", Path::new("/"), ",readonly=on")]);
    peer.args(["-virtfs", &share("share1", shared, "")]);
    [ours, peer]
}

/// What the commands took, in seconds; short if one failed.
fn seconds(text: &str) -> Vec<f64> {
    if text.contains("failed ") {
        return Vec::new();
    }
    let took = text.lines().filter_map(|line| line.trim().strip_prefix("took "));
    let milliseconds = took.filter_map(|rest| rest.split_whitespace().nth(1)?.parse::<f64>().ok());
    milliseconds.map(|milliseconds| milliseconds / 1000.0).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_read_and_a_failure_is_none() {
        assert_eq!(super::seconds("x\ntook 0 1500 ms\r\ntook 1 20 ms\n"), [1.5, 0.02]);
        assert!(super::seconds("took 0 1 ms\nfailed 1\ntook 1 1 ms\n").is_empty());
    }
}
