//! Virtio devices on KVM: the host's root, the network's lease, a disk image, as a user has them.
//!
//! Invariant: what the guest read of a device is compared with what is on the other side of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{base, between, install, start_for};
use crate::suite::{Output, Report, kernels};

/// The cases, in the order of the outer guest's work.
pub(super) const CASES: [&str; 6] = [
    "virtio_on_kvm_the_host_s_root_runs_true",
    "virtio_on_kvm_host_files_and_a_network_lease",
    "virtio_on_kvm_doorbells_and_messages_stay_in_the_kernel",
    "virtio_on_kvm_a_qcow2_disk_keeps_what_was_written",
    "virtio_on_kvm_disks_doorbells_stay_in_the_kernel",
    "virtio_on_kvm_a_flow_comes_on_the_queue_of_the_cpu_that_sends",
];

/// Echo requests that each of the last case's processors sends.
const PINGS: u64 = 4;

/// What PID 1 of the outer guest does, once KVM is there.
const WORK: &str = r#"
cd /; kernel=$(ls /kernel/boot/vmlinuz*)
mkdir -p /etc; echo 'nameserver 192.0.2.1' > /etc/resolv.conf
echo 'a file of the host' > /etc/of-the-host
run="/roof run --engine kvm -c 1 -m 256M -q --json /tmp/report"
echo "@root"; $run $kernel -- true; echo "@status root $?"
/roof disk create /tmp/disk.qcow2 16M
echo "@devices"
$run -d /tmp/disk.qcow2 $kernel -- sh -c 'cat /etc/of-the-host; ip -4 addr show eth0; ping -c 3 10.0.2.2
  seq 1 200000 | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null'
echo "@status devices $?"
echo "@counts"; grep -E '(doorbells|messages)_' /tmp/report; echo "@status counts 0"
echo "@sum"; seq 1 200000 | sha256sum; echo "@status sum 0"
echo "@again"; /roof disk check /tmp/disk.qcow2 && $run --net none --root none -d /tmp/disk.qcow2 $kernel -- \
  sh -c 'head -c 1288895 /dev/vda | sha256sum'
echo "@status again $?"
truncate -s 16M /tmp/disk.raw; dd if=/dev/urandom of=/tmp/disk.raw bs=64k count=64 conv=notrunc 2>/dev/null
echo "@disks"
$run --net none --root none -d /tmp/disk.raw,format=raw -d /tmp/disk.qcow2 $kernel -- \
  sh -c 'for d in vda vdb; do dd if=/dev/$d bs=4k count=250 iflag=direct 2>/dev/null | sha256sum; done
  { dd if=/dev/vda of=/dev/null bs=1M iflag=direct & dd if=/dev/vdb of=/dev/null bs=1M iflag=direct & 
    dd if=/dev/vda of=/dev/vdb bs=4k count=250 oflag=direct conv=fsync; wait; } 2>/dev/null'
echo "@status disks $?"
echo "@bells"; grep doorbells_ /tmp/report; echo "@status bells 0"
echo "@sums"; /roof disk convert --format raw /tmp/disk.qcow2 /tmp/out.raw; cmp -n 1024000 /tmp/disk.raw /tmp/out.raw && echo same
head -c 1024000 /tmp/disk.raw | sha256sum; seq 1 200000 | head -c 1024000 | sha256sum; echo "@status sums 0"
echo "@pairs"
/roof run --engine kvm -c 2 -m 256M -q --root none --json /tmp/report $kernel -- sh -c 'ip -4 addr show eth0
  count() { echo "phase $1"; grep -E "virtio[0-9]+-(in|out)put" /proc/interrupts; }
  count none; taskset 1 ping -c PINGS 10.0.2.2; count first; taskset 2 ping -c PINGS 10.0.2.2; count second'
echo "@status pairs $?"
echo "@done"
poweroff -f
"#;

/// Boots the outer guest, which boots five, and judges what they said.
pub(super) fn cases(report: &mut Report, root: &Path, roof: &Path, outer: &Path) -> Result<()> {
    let seen = boot(root, roof, outer)?;
    let part = |name: &str| between(&seen.stdout, &format!("@{name}"));
    let succeeded = |name: &str| seen.stdout.contains(&format!("@status {name} 0"));
    report.case(CASES[0], || seen.expect(succeeded("root"), "status 0"));
    report.case(CASES[1], || {
        let said = part("devices");
        let words = ["a file of the host", "inet 10.0.2.15/24", "3 packets received"];
        let all = words.iter().all(|words| said.contains(words));
        seen.expect(all && succeeded("devices"), &words.join(", "))
    });
    report.case(CASES[2], || {
        let (kernel, routed) =
            (count(part("counts"), "doorbells_kernel"), count(part("counts"), "messages_routed"));
        println!("  {kernel} doorbells in the kernel, {routed} messages by routes");
        seen.expect(kernel > 0 && routed > 0, "doorbells and messages through the kernel alone")
    });
    report.case(CASES[3], || {
        let sum = |name: &str| {
            let line = part(name).lines().find(|line| line.trim_end().ends_with("  -"));
            line.map(|line| line.trim().to_owned())
        };
        let same = sum("sum").is_some() && sum("sum") == sum("again");
        seen.expect(same && succeeded("again"), "the sum of what was written")
    });
    report.case(CASES[4], || {
        let (exits, kernel) =
            (count(part("bells"), "doorbells_exits"), count(part("bells"), "doorbells_kernel"));
        println!("  {kernel} doorbells in the kernel, {exits} by an exit");
        let sums = |name: &str| -> Vec<String> {
            let lines = part(name).lines().filter(|line| line.trim_end().ends_with("  -"));
            lines.map(|line| line.trim().to_owned()).collect()
        };
        // Two times 250 reads one by one, and 250 writes, each of which rings.
        let rings = kernel >= 700 && exits < 50;
        let read = sums("disks").len() == 2 && sums("disks") == sums("sums");
        let written = part("sums").lines().any(|line| line.trim() == "same");
        let what = "700 doorbells in the kernel, what was read and what was written";
        seen.expect(rings && read && written && succeeded("disks"), what)
    });
    report.case(CASES[5], || {
        let said = part("pairs");
        let came = came(said);
        println!("  messages while either processor sent, of input.0 and input.1: {came:?}");
        let steered = came.is_some_and(|came| came[0][0] >= PINGS && came[1][1] >= PINGS);
        let answered = said.matches(&format!("{PINGS} packets received")).count() == 2;
        let all = steered && answered && said.contains("inet 10.0.2.15/24") && succeeded("pairs");
        seen.expect(all, "a lease, all answers, and messages of either queue in turn")
    });
    Ok(())
}

/// How often input.0 and input.1 interrupted while the first processor sent, and while the second did; `None`: the guest
/// has no such two queues.
fn came(said: &str) -> Option<[[u64; 2]; 2]> {
    let at = |phase: &str, queue: usize| {
        let text = said.split_once(&format!("phase {phase}"))?.1.split("phase").next()?;
        let name = format!("-input.{queue}");
        let line = text.lines().find(|line| line.trim_end().ends_with(&name))?;
        let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
        Some(counts.sum::<u64>())
    };
    let between = |before: &str, after: &str| {
        let more = |queue| at(after, queue)?.checked_sub(at(before, queue)?);
        Some([more(0)?, more(1)?])
    };
    Some([between("none", "first")?, between("first", "second")?])
}

/// A number in a report.
fn count(text: &str, name: &str) -> u64 {
    let rest = text.split_once(&format!("\"{name}\": ")).map_or("", |(_, rest)| rest);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

fn boot(root: &Path, roof: &Path, outer: &Path) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("virtio");
    base(&tree, outer, &WORK.replace("PINGS", &PINGS.to_string()))?;
    let guest = kernels::fetch(roof, "linux-image-cloud-amd64")?;
    // BOOT/vmlinuz-VERSION of an unpacked package, with lib beside BOOT.
    let package = guest.parent().and_then(Path::parent).context("a kernel lies in a package")?;
    let into = tree.join("kernel");
    fs::create_dir_all(&into)?;
    crate::cargo::run(
        package,
        "cp",
        &["-r", "boot", "lib", into.to_str().context("a path in UTF-8")?],
    )?;
    install(root, &tree.join("roof"), &["build", "--package", "oneroof-cli"])?;
    // A single processor, on which KVM runs two of the inner guest's: with a thread for each, emulated machines
    // have wedged now and then.
    let cpus = ["-accel", "tcg,thread=single", "-smp", "1"];
    start_for(root, &tree, outer, &cpus, Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_counted_over_processors_between_two_looks() {
        let look = |phase: &str, zero: [u64; 2], one: [u64; 2]| {
            format!(
                "phase {phase}\r\n 27: {} {} PCI-MSI 49153-edge virtio0-input.0\r\n 28: 9 9 PCI-MSI 49154-edge \
                 virtio0-output.0\r\n 29: {} {} PCI-MSI 49155-edge virtio0-input.1\r\n4 packets received\r\n",
                zero[0], zero[1], one[0], one[1]
            )
        };
        let looks = [
            look("none", [2, 1], [0, 1]),
            look("first", [6, 2], [0, 2]),
            look("second", [6, 2], [1, 6]),
        ];
        assert_eq!(came(&looks.concat()), Some([[5, 1], [0, 5]]));
        assert_eq!(came(&looks[..2].concat()), None);
        assert_eq!(came(&looks.concat().replace("input.1", "input.2")), None);
    }
}
