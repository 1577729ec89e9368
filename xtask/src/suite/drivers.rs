//! Kernels that lack a driver: one line names the device and the option that is missing, and what nobody
//! asked for is done without.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Output, Report, Verdict, run};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// A module that is missing, whether the root is the host's, and what is said once.
const LACKING: &[(&str, bool, &str)] = &[
    ("virtio_blk", false, "the guest never used virtio-blk (vda): CONFIG_VIRTIO_BLK?"),
    ("virtio_pci", false, "the guest never used virtio-blk (vda): CONFIG_VIRTIO_PCI?"),
    ("virtio_net", false, "the guest never used virtio-net (eth0): CONFIG_VIRTIO_NET?"),
    ("virtio_console", false, "the guest never used virtio-console (hvc0): CONFIG_VIRTIO_CONSOLE?"),
    ("virtio_input", false, "the guest never used virtio-input (tablet): CONFIG_VIRTIO_INPUT?"),
    ("virtiofs", true, "this kernel has no virtio-fs (CONFIG_VIRTIO_FS)"),
    ("overlay", true, "this kernel has no overlayfs (CONFIG_OVERLAY_FS)"),
    ("virtio_pci", true, "this kernel finds no virtio device (CONFIG_VIRTIO_PCI)"),
];

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    for (module, host_root, line) in LACKING {
        let where_from = if *host_root { "_for_the_host_s_root" } else { "" };
        report.case(&format!("a_kernel_without_{module}{where_from}_is_told"), || {
            lacking(roof, kernel, module, *host_root, line)
        });
    }
    report.case("nothing_is_said_of_drivers_that_are_there", || {
        let seen = with_devices(roof, kernel, "nothing_of_the_kind", false)?;
        let silent = !seen.stderr.contains("never used") && !seen.stderr.contains("CONFIG_");
        seen.expect(silent && seen.status == Some(0), "status 0 and nothing of a device")
    });
    report.case("a_kernel_file_alone_runs_commands_in_a_project_s_folder", || {
        kernel_alone(roof, kernel)
    });
}

fn with_devices(roof: &Path, kernel: &Path, module: &str, host_root: bool) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let (disk, events) = (folder.path().join("disk.img"), folder.path().join("events"));
    File::create(&disk)?.set_len(1 << 20)?;
    File::create(&events)?;
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "--console", "virtio", "-d"]).arg(disk);
    line.arg("--input-events").arg(events).args(["-p", &format!("module_blacklist={module}")]);
    line.args(["--root", if host_root { "host" } else { "none" }]).arg(kernel);
    run(line.args(["--", "sleep", "6"]), "", LIMIT)
}

fn lacking(
    roof: &Path,
    kernel: &Path,
    module: &str,
    host_root: bool,
    line: &str,
) -> Result<Verdict> {
    let seen = with_devices(roof, kernel, module, host_root)?;
    let once = seen.stderr.matches(line).count() == 1;
    let wanted = if host_root { 125 } else { 0 };
    seen.expect(once && seen.status == Some(wanted), &format!("status {wanted}, and once: {line}"))
}

/// A kernel that one built oneself may have no modules at all, nor virtio-fs: the command runs nevertheless,
/// although the current directory lies in the home directory and would be shared unasked.
fn kernel_alone(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let home = tempfile::tempdir_in("/var/tmp")?;
    let project = home.path().join("project");
    std::fs::create_dir(&project)?;
    std::fs::copy(kernel, project.join("bzImage"))?;
    let told = |options: &[&str]| {
        let mut line = Command::new(roof);
        line.args(["run", "--engine", "soft"]).args(options).current_dir(&project);
        line.env("HOME", home.path()).args([
            "./bzImage",
            "--",
            "sh",
            "-c",
            "echo $((6 * 7)); pwd; ls",
        ]);
        run(&mut line, "", LIMIT)
    };
    let seen = told(&[])?;
    let told_why = seen.stderr.contains("CONFIG_VIRTIO_FS") && seen.stderr.contains("is empty");
    let wanted = format!("42\n{}\n", project.display());
    if seen.status != Some(0) || seen.stdout != wanted || !told_why {
        return seen.expect(false, "42 in an empty folder, and why that is empty");
    }
    let seen = told(&["--share", "."])?;
    seen.expect(seen.status == Some(125), "status 125, as this share was asked for")
}
