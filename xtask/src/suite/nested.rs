//! The KVM engine on emulated hardware: QEMU TCG with SVM boots a Debian kernel with kvm-amd, in
//! which `roof run --engine kvm` boots a Debian guest.
//!
//! Runs anywhere, slowly: two layers of software under the guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Output, Report, kernels, run, setup};
use crate::cargo;

/// Modules in the order of loading, where the kernel has them as modules.
const MODULES: [&str; 4] =
    ["virt/lib/irqbypass", "drivers/crypto/ccp/ccp", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-amd"];

/// What PID 1 of the outer guest does; `@` separates what the report looks for.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp /root; mount -t tmpfs tmp /tmp
for m in /modules/*.ko; do insmod $m || echo "@insmod $m failed"; done
ls -l /dev/kvm
echo "@doctor"; /roof doctor
for c in 1 2; do
  echo "@run $c"; /roof run --engine kvm -c $c -m 256M /guest-kernel -- nproc; echo "@status $c $?"
done
echo "@exit"; /roof run --engine auto -m 256M /guest-kernel -- sh -c 'exit 7'; echo "@status exit $?"
for t in /tests/*; do [ -x $t ] && { echo "@test $t"; $t; echo "@status $t $?"; }; done
echo "@done"
poweroff -f
"#;

/// Runs the suite.
pub(crate) fn suite(root: &Path, roof: &Path, only: Option<String>) -> Result<()> {
    let mut report = Report::new("nested_kvm", only);
    let needs = setup::need(
        &["qemu-system-x86_64", "busybox", "cpio"],
        &["qemu-system-x86", "busybox-static", "cpio"],
    );
    if let Err(why) = needs {
        bail!("the KVM engine cannot be tested here: {why}");
    }
    let seen = boot(root, roof)?;
    for cpus in ["1", "2"] {
        report.case(&format!("kvm_boots_debian_with_{cpus}_cpus"), || {
            let part = between(&seen.stdout, &format!("@run {cpus}"));
            let count = part.lines().any(|line| line.trim() == cpus);
            let status = seen.stdout.contains(&format!("@status {cpus} 0"));
            seen.expect(count && status, "nproc's count and status 0")
        });
    }
    report.case("auto_takes_kvm_and_returns_the_command_s_status", || {
        let part = between(&seen.stdout, "@exit");
        let kvm = part.contains("kvm");
        seen.expect(kvm && seen.stdout.contains("@status exit 7"), "kvm and status 7")
    });
    report.case("the_engine_s_own_tests_pass_on_svm", || {
        seen.expect(seen.stdout.contains("@status /tests/kvm 0"), "the test binary's status 0")
    });
    report.close()
}

fn between<'a>(text: &'a str, start: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split("\n@status").next().unwrap_or_default()
}

fn boot(root: &Path, roof: &Path) -> Result<Output> {
    let outer = kernels::fetch(roof, "linux-image-amd64")?;
    let guest = kernels::fetch(roof, "linux-image-cloud-amd64")?;
    let folder = tempfile::tempdir()?;
    let initrd = pack(root, folder.path(), &outer, &guest)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-smp", "2", "-m", "2048"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&outer).arg("-initrd").arg(&initrd);
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    run(&mut qemu, "", Duration::from_secs(900))
}

/// Builds the outer guest's initramfs: busybox, kvm modules, a static `roof`, the inner kernel,
/// test binaries.
fn pack(root: &Path, folder: &Path, outer: &Path, guest: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    for part in ["bin", "dev", "proc", "sys", "modules", "tests"] {
        fs::create_dir_all(tree.join(part))?;
    }
    let busybox =
        String::from_utf8(Command::new("sh").args(["-c", "command -v busybox"]).output()?.stdout)?;
    fs::copy(busybox.trim(), tree.join("bin/busybox")).context("busybox")?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::copy(guest, tree.join("guest-kernel"))?;
    modules(outer, &tree.join("modules"))?;
    static_binaries(root, &tree)?;
    let initrd = folder.join("initrd");
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc > '{}'",
        tree.display(),
        initrd.display()
    );
    cargo::run(root, "sh", &["-c", &script])?;
    Ok(initrd)
}

/// Copies the KVM modules that lie beside the kernel image.
fn modules(kernel: &Path, into: &Path) -> Result<()> {
    let base = module_folder(kernel)?;
    for (number, name) in MODULES.iter().enumerate() {
        let plain = base.join("kernel").join(format!("{name}.ko"));
        let target = into.join(format!(
            "{number}-{}.ko",
            Path::new(name).file_name().expect("a name").to_string_lossy()
        ));
        if plain.exists() {
            fs::copy(&plain, target)?;
        } else if plain.with_extension("ko.xz").exists() {
            let script = format!(
                "xz -dc '{}' > '{}'",
                plain.with_extension("ko.xz").display(),
                target.display()
            );
            cargo::run(into, "sh", &["-c", &script])?;
        }
    }
    Ok(())
}

/// lib/modules/VERSION of the unpacked package that a kernel image belongs to.
fn module_folder(kernel: &Path) -> Result<PathBuf> {
    for ancestor in kernel.ancestors().skip(1) {
        for lib in ["lib/modules", "usr/lib/modules", "modules"] {
            let Ok(mut entries) = fs::read_dir(ancestor.join(lib)) else { continue };
            if let Some(Ok(entry)) = entries.next() {
                return Ok(entry.path());
            }
        }
        if ancestor.join("kernel").is_dir() {
            return Ok(ancestor.to_path_buf());
        }
    }
    bail!("no modules beside {}", kernel.display())
}

/// Builds `roof` and the KVM test binaries with no shared libraries.
fn static_binaries(root: &Path, tree: &Path) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let build = |arguments: &[&str]| -> Result<String> {
        let mut words = arguments.to_vec();
        words.extend(["--release", "--target", TARGET, "--message-format", "json"]);
        let output = Command::new(cargo::cargo())
            .args(&words)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_TARGET_DIR", cargo::target(root).join("static"))
            .current_dir(root)
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("cargo {} failed", words.join(" "));
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let executables = |json: &str| -> Vec<PathBuf> {
        json.lines()
            .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
            .map(PathBuf::from)
            .collect()
    };
    for (name, arguments) in [
        ("roof", &["build", "--package", "oneroof-cli"][..]),
        ("tests/kvm", &["test", "--no-run", "--package", "oneroof-kvm", "--lib"][..]),
    ] {
        let built = executables(&build(arguments)?);
        let binary = built.last().with_context(|| format!("cargo built no {name}"))?;
        fs::copy(binary, tree.join(name)).with_context(|| binary.display().to_string())?;
    }
    Ok(())
}
