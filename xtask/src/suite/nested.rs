//! The KVM engine on emulated hardware: QEMU TCG with SVM boots a Debian kernel with kvm-amd, in
//! which `roof run --engine kvm` boots a Debian guest and static test binaries run.
//!
//! Runs anywhere, slowly: two layers of software under the guest. Invariant: a test binary that
//! skips for want of hardware fails its case; here the hardware is built for it.

mod virtio;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Output, Report, Verdict, kernels, run, setup};
use crate::cargo;

/// Modules in the order of loading, where the kernel has them as modules.
const MODULES: [&str; 4] =
    ["virt/lib/irqbypass", "drivers/crypto/ccp/ccp", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-amd"];

/// How PID 1 of every outer guest begins.
const HEAD: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /tmp /root; mount -t tmpfs tmp /tmp
for m in /modules/*.ko; do insmod $m || echo "@insmod $m failed"; done
ls -l /dev/kvm
"#;

/// What it does then; `@` separates what the report looks for.
const WORK: &str = r#"
if [ -e /guest-kernel ]; then
  echo "@doctor"; /roof doctor
  for c in 1 2; do
    echo "@run $c"; /roof run --engine kvm -c $c -m 256M /guest-kernel -- nproc; echo "@status $c $?"
  done
  echo "@exit"; /roof run --engine auto -m 256M /guest-kernel -- sh -c 'exit 7'
  echo "@status exit $?"
  /roof run --engine kvm -c 1 -m 256M -q /guest-kernel -- sh -c 'seq 1 3000 | sort | tail -1' & pid=$!
  most=0; large=0
  # a process that has ended has no mappings, or the shell has already taken its status
  until grep -q '^State:.Z' /proc/$pid/status || [ ! -e /proc/$pid ]; do
    # all mappings but guest RAM, which alone no child would get (dc), and what of that is in large pages
    cat /proc/$pid/smaps > /tmp/smaps
    set -- $(awk '/^Rss:/{r=$2} /^AnonHuge/{a=$2} /^VmFlags:/{if(/ dc/)l+=a; else s+=r} END{print s+0, l+0}' /tmp/smaps)
    [ $2 -gt $large ] && large=$2
    [ $1 -gt $most ] && { most=$1; mv /tmp/smaps /tmp/peak; }
  done
  wait $pid; echo "@memory $? $most $large"
  # KiB resident, KiB in large pages and place of the mappings that matter
  awk '/^[0-9a-f]+-[0-9a-f]+ /{n=$1" "$2" "$6} /^Rss:/{r=$2} /^AnonHuge/&&r>99{print r, $2, n}' /tmp/peak
fi
for t in /tests/*; do
  [ -x $t ] && { echo "@test $t"; $t --nocapture --test-threads 1; echo "@status $t $?"; }
done
echo "@done"
poweroff -f
"#;

/// A test binary that runs in the outer guest.
struct TestBinary {
    /// The case that judges it.
    case: &'static str,
    /// Its name in the guest's /tests.
    file: &'static str,
    /// What cargo builds it from.
    package: &'static str,
    target: &'static [&'static str],
}

const TESTS: [TestBinary; 3] = [
    TestBinary {
        case: "the_engine_s_own_tests_pass_on_svm",
        file: "kvm",
        package: "oneroof-kvm",
        target: &["--lib"],
    },
    TestBinary {
        case: "every_payload_passes_on_svm",
        file: "payloads",
        package: "oneroof-conformance",
        target: &["--test", "kvm"],
    },
    TestBinary {
        case: "soft_and_kvm_agree_on_every_payload",
        file: "agree",
        package: "oneroof-conformance",
        target: &["--test", "agree"],
    },
];

/// The cases that boot an inner guest.
const BOOTS: [&str; 5] = [
    "kvm_boots_debian_with_1_cpus",
    "kvm_boots_debian_with_2_cpus",
    "auto_takes_kvm_and_returns_the_command_s_status",
    "memory_beyond_guest_ram_stays_below_10_mib",
    "guest_ram_is_in_large_pages",
];

/// Which parts of the outer guest's work a filter asks for.
struct Wanted {
    boots: bool,
    tests: Vec<&'static TestBinary>,
    virtio: bool,
}

impl Wanted {
    fn new(only: Option<&str>) -> Self {
        let asked = |case: &str| only.is_none_or(|only| case.contains(only));
        Self {
            boots: BOOTS.into_iter().any(asked),
            tests: TESTS.iter().filter(|test| asked(test.case)).collect(),
            virtio: virtio::CASES.into_iter().any(asked),
        }
    }
}

/// Runs the suite.
pub(crate) fn suite(root: &Path, roof: &Path, only: Option<String>) -> Result<()> {
    let wanted = Wanted::new(only.as_deref());
    let mut report = Report::new("nested_kvm", only);
    let needs = setup::need(
        &["qemu-system-x86_64", "busybox", "cpio"],
        &["qemu-system-x86", "busybox-static", "cpio"],
    );
    if let Err(why) = needs {
        bail!("the KVM engine cannot be tested here: {why}");
    }
    let Seen { boots: seen, tests } = boot(root, roof, &wanted)?;
    for (case, cpus) in BOOTS.into_iter().zip(["1", "2"]) {
        report.case(case, || {
            let part = between(&seen.stdout, &format!("@run {cpus}"));
            let count = part.lines().any(|line| line.trim() == cpus);
            let status = seen.stdout.contains(&format!("@status {cpus} 0"));
            seen.expect(count && status, "nproc's count and status 0")
        });
    }
    report.case(BOOTS[2], || {
        let part = between(&seen.stdout, "@exit");
        let kvm = part.contains("kvm");
        seen.expect(kvm && seen.stdout.contains("@status exit 7"), "kvm and status 7")
    });
    // What was measured while an inner guest ran that succeeded, KiB: beyond guest RAM, and of that in large pages.
    let measured = |which: usize| {
        let told = seen.stdout.split_once("@memory 0 ").map_or("", |(_, rest)| rest);
        told.split_whitespace().nth(which).and_then(|word| word.parse::<u32>().ok())
    };
    report.case(BOOTS[3], || {
        // KiB at the peak since the process' start. Less than the program's own pages is no measure.
        const LEAST_KIB: u32 = 2 << 10;
        const MOST_KIB: u32 = 10 << 10;
        let most = measured(0);
        println!("  {} KiB at most", most.unwrap_or_default());
        let bounded = most.is_some_and(|most| (LEAST_KIB..MOST_KIB).contains(&most));
        seen.expect(bounded, "success and 2 to 10 MiB")
    });
    report.case(BOOTS[4], || {
        // A kernel's image and page structures alone are more.
        const LEAST_KIB: u32 = 16 << 10;
        let large = measured(1);
        println!("  {} KiB", large.unwrap_or_default());
        seen.expect(large.is_some_and(|large| large >= LEAST_KIB), "16 MiB in large pages")
    });
    for test in &wanted.tests {
        report.case(test.case, || Ok(judge(test, &tests.stdout)));
    }
    if wanted.virtio {
        let outer = kernels::fetch(roof, "linux-image-amd64")?;
        virtio::cases(&mut report, root, roof, &outer)?;
    }
    report.close()
}

/// A test binary's verdict: status 0, and nothing skipped for want of hardware.
fn judge(test: &TestBinary, stdout: &str) -> Verdict {
    let path = format!("/tests/{}", test.file);
    let part = between(stdout, &format!("@test {path}"));
    let status = stdout.contains(&format!("@status {path} 0"));
    let summary = part.lines().any(|line| line.starts_with("test result: ok."));
    let skipped = part.contains("KVM is not hardware") || part.contains("no KVM:");
    if status && summary && !skipped {
        return Verdict::Passed;
    }
    Verdict::Failed(format!("expected status 0 on hardware (skipped: {skipped})\n{part}"))
}

fn between<'a>(text: &'a str, start: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split("\n@status").next().unwrap_or_default()
}

/// What the two outer guests said.
struct Seen {
    boots: Output,
    tests: Output,
}

/// Boots an outer guest of two processors for `roof`, and one for the test binaries. That has a
/// single one: guests that provoke TCG's faults have wedged its kernel across processors.
fn boot(root: &Path, roof: &Path, wanted: &Wanted) -> Result<Seen> {
    let outer = kernels::fetch(roof, "linux-image-amd64")?;
    let folder = tempfile::tempdir()?;
    let tree = |name: &str| -> Result<PathBuf> {
        let tree = folder.path().join(name);
        base(&tree, &outer, WORK)?;
        Ok(tree)
    };
    let (for_boots, for_tests) = (tree("boots")?, tree("tests")?);
    if wanted.boots {
        let guest = kernels::fetch(roof, "linux-image-cloud-amd64")?;
        fs::copy(guest, for_boots.join("guest-kernel"))?;
        install(root, &for_boots.join("roof"), &["build", "--package", "oneroof-cli"])?;
    }
    for test in &wanted.tests {
        let mut arguments = vec!["test", "--no-run", "--package", test.package];
        arguments.extend(test.target);
        install(root, &for_tests.join("tests").join(test.file), &arguments)?;
    }
    let nothing =
        || Output { status: None, killed: false, stdout: String::new(), stderr: String::new() };
    let several = ["-accel", "tcg,thread=multi", "-smp", "2"];
    let alone = ["-accel", "tcg,thread=single", "-smp", "1"];
    let mut boots = match wanted.boots {
        true => start(root, &for_boots, &outer, &several)?,
        false => nothing(),
    };
    if wanted.boots && !boots.stdout.contains("@memory 0 ") {
        // With a thread for each processor the emulated SVM loses a nested guest now and then.
        println!("  a nested guest was lost; the boots are repeated once. {}", lost(&boots));
        boots = start(root, &for_boots, &outer, &several)?;
    }
    let tests = match wanted.tests.is_empty() {
        true => nothing(),
        false => start(root, &for_tests, &outer, &alone)?,
    };
    Ok(Seen { boots, tests })
}

/// What was last heard of outer guests whose work did not come to its end.
fn lost(boots: &Output) -> &str {
    let said = boots.stdout.lines().rev().find(|line| !line.trim().is_empty());
    said.unwrap_or("The outer one said nothing.")
}

/// Boots an outer guest of this tree to its end; once more if it hung.
pub(crate) fn start(root: &Path, tree: &Path, outer: &Path, cpus: &[&str]) -> Result<Output> {
    start_for(root, tree, outer, cpus, Duration::from_secs(300))
}

/// The same with further words for QEMU and a limit of its own, after which it counts as hung.
pub(crate) fn start_for(
    root: &Path,
    tree: &Path,
    outer: &Path,
    words: &[&str],
    limit: Duration,
) -> Result<Output> {
    let initrd = pack(root, tree)?;
    let output = emulate(&initrd, outer, words, limit)?;
    if !output.killed {
        return Ok(output);
    }
    println!("  the outer guest hung; it is started once more. {}", lost(&output));
    emulate(&initrd, outer, words, limit)
}

fn emulate(initrd: &Path, outer: &Path, words: &[&str], limit: Duration) -> Result<Output> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-cpu", "max,+svm", "-m", "2048"]).args(words);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(outer).arg("-initrd").arg(initrd);
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    run(&mut qemu, "", limit)
}

/// Lays out the outer guest's initramfs: PID 1, busybox, KVM's modules.
pub(crate) fn base(tree: &Path, outer: &Path, work: &str) -> Result<()> {
    for part in ["bin", "dev", "proc", "sys", "modules", "tests"] {
        fs::create_dir_all(tree.join(part))?;
    }
    let busybox =
        String::from_utf8(Command::new("sh").args(["-c", "command -v busybox"]).output()?.stdout)?;
    fs::copy(busybox.trim(), tree.join("bin/busybox")).context("busybox")?;
    fs::write(tree.join("init"), format!("{HEAD}{work}"))?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    modules(outer, &tree.join("modules"))
}

/// Packs the tree as an initramfs.
pub(crate) fn pack(root: &Path, tree: &Path) -> Result<PathBuf> {
    let initrd = tree.with_extension("cpio");
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

/// Builds a program with no shared libraries and copies it.
pub(crate) fn install(root: &Path, to: &Path, arguments: &[&str]) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
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
    let json = String::from_utf8(output.stdout)?;
    let built = json
        .lines()
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
        .next_back()
        .with_context(|| format!("cargo built no {}", to.display()))?;
    fs::copy(built, to).with_context(|| built.to_owned())?;
    Ok(())
}
