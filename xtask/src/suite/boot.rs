//! Debian's kernels booted on the software CPU, and what a user of `roof run` relies on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::kernels::{self, KERNELS};
use super::{
    Output, Report, Verdict, balloon, block_device, devices, disk, downloads, drivers,
    every_kernel, faults, initrd, net, repeat, run, setup, share, signals, vsock,
};
use crate::bench::memory;
use crate::cpu;

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the suite with this `roof`.
pub(crate) fn suite(root: &Path, roof: &Path, only: Option<String>) -> Result<()> {
    let mut report = Report::new("boot", only);
    for (name, package) in KERNELS {
        let kernel = kernels::fetch(roof, package);
        for cpus in ["1", "2"] {
            report.case(&format!("{name}_with_{cpus}_cpus"), || {
                let kernel = kernel.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                let seen = ours(roof, &["run", "-c", cpus], Some(kernel), &["nproc"], "")?;
                seen.expect(seen.status == Some(0) && seen.stdout.trim() == cpus, cpus)
            });
        }
    }
    let cloud = kernels::fetch(roof, KERNELS[0].1)?;
    behaviour(&mut report, roof, &cloud);
    repeat::cases(&mut report, roof, &cloud);
    signals::cases(&mut report, roof, &cloud);
    every_kernel::cases(&mut report, roof);
    disk::cases(&mut report, root, roof, &cloud);
    block_device::cases(&mut report, roof, &cloud);
    drivers::cases(&mut report, roof, &cloud);
    balloon::cases(&mut report, roof, &cloud);
    vsock::cases(&mut report, roof, &cloud);
    devices::cases(&mut report, roof, &cloud);
    faults::cases(&mut report, roof, &cloud);
    share::cases(&mut report, roof, &cloud);
    net::cases(&mut report, root, roof, &cloud);
    downloads::cases(&mut report, roof, &cloud);
    memory_bound(&mut report, roof);
    translating(&mut report, root, roof, &cloud);
    compiling(&mut report, root, roof, &cloud);
    own_initrd(&mut report, root, roof, &cloud);
    report.close()
}

fn ours(
    roof: &Path,
    before: &[&str],
    kernel: Option<&Path>,
    command: &[&str],
    input: &str,
) -> Result<Output> {
    let mut line = Command::new(roof);
    line.args(before).args(["--engine", "soft"]);
    if let Some(kernel) = kernel {
        line.arg(kernel);
    }
    if !command.is_empty() {
        line.arg("--").args(command);
    }
    run(&mut line, input, LIMIT)
}

/// Exit status, streams, time-out, panic, early death.
fn behaviour(report: &mut Report, roof: &Path, kernel: &Path) {
    let case = |command: &[&str], input: &str| ours(roof, &["run"], Some(kernel), command, input);
    report.case("the_command_s_status_is_ours", || {
        let seen = case(&["sh", "-c", "exit 7"], "")?;
        seen.expect(seen.status == Some(7), "status 7")
    });
    report.case("a_command_killed_by_a_signal_is_128_plus_it", || {
        let seen = case(&["sh", "-c", "kill -9 $$"], "")?;
        seen.expect(seen.status == Some(137), "status 137")
    });
    report.case("stdout_and_stderr_stay_apart", || {
        let seen = case(&["sh", "-c", "echo out; echo err >&2"], "")?;
        let apart =
            seen.stdout == "out\n" && seen.stderr.contains("err") && !seen.stderr.contains("\nout");
        seen.expect(seen.status == Some(0) && apart, "out on stdout, err on stderr")
    });
    report.case("stdin_reaches_the_command", || {
        let seen = case(&["sh", "-c", "read a; read b; echo $b $a"], "one\ntwo\n")?;
        seen.expect(seen.stdout.trim() == "two one", "two one")
    });
    report.case("a_large_output_comes_whole", || {
        let seen = case(&["sh", "-c", "seq 1 20000"], "")?;
        let whole = seen.stdout.lines().count() == 20000 && seen.stdout.ends_with("20000\n");
        seen.expect(whole, "20,000 lines")
    });
    for (name, options) in [("", &[][..]), ("_without_vsock", &["-p", "module_blacklist=vsock"])] {
        report.case(&format!("much_input_and_output_come_whole{name}"), || {
            let input: String = (0..400_000).map(|n: u32| format!("{}\n", n * 7919)).collect();
            let script = "dd bs=65536 iflag=fullblock 2>/dev/null; echo end >&2; exit 9";
            let before = [&["run", "-q"], options].concat();
            let seen = ours(roof, &before, Some(kernel), &["sh", "-c", script], &input)?;
            let whole = seen.stdout == input && seen.stderr.contains("end\n");
            if whole && seen.status == Some(9) {
                return Ok(Verdict::Passed);
            }
            let bytes = seen.stdout.len();
            let status = seen.status;
            Ok(Verdict::Failed(format!("{bytes} of {} bytes, status {status:?}", input.len())))
        });
    }
    report.case("the_shell_takes_commands_from_a_pipe", || {
        let seen = case(&[], "echo $((6 * 7)); exit 3\n")?;
        seen.expect(seen.status == Some(3) && seen.stdout.contains("42"), "42 and status 3")
    });
    report.case("a_missing_command_is_127", || {
        let seen = case(&["no-such-command-anywhere"], "")?;
        seen.expect(matches!(seen.status, Some(127 | 125)), "127, or 125 before the boot")
    });
    report.case("a_time_out_is_124", || {
        let seen = ours(roof, &["run", "--timeout", "20"], Some(kernel), &["sleep", "1000"], "")?;
        seen.expect(seen.status == Some(124), "status 124")
    });
    report.case("a_panic_is_120", || {
        let seen = case(&["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"], "")?;
        let told = seen.status == Some(120) && seen.stderr.contains("panic");
        seen.expect(told, "status 120 and the word panic")
    });
    report.case("a_reboot_before_the_command_ended_is_120", || {
        let seen = case(&["sh", "-c", "echo b > /proc/sysrq-trigger; sleep 100"], "")?;
        seen.expect(seen.status == Some(120), "status 120")
    });
    report.case("vector_units_and_time_are_there", || {
        let script = "grep -o -m1 -w avx2 /proc/cpuinfo; cat /sys/devices/system/clocksource/\
                      clocksource0/current_clocksource; a=$(date +%s); sleep 1; b=$(date +%s); \
                      echo $((b - a))";
        let seen = case(&["sh", "-c", script], "")?;
        let host_avx2 = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let avx2 = !host_avx2.contains("avx2") || seen.stdout.contains("avx2");
        let clock = seen.stdout.contains("kvm-clock") || seen.stdout.contains("tsc");
        let passed = seen.stdout.trim_end().ends_with('1') || seen.stdout.trim_end().ends_with('2');
        seen.expect(avx2 && clock && passed, "avx2 as on the host, kvm-clock, one second")
    });
    report.case("engine_kvm_says_why_not", || {
        let verdict = run(Command::new(roof).arg("doctor"), "", LIMIT)?;
        if verdict.stdout.contains("hardware virtualization works") {
            return Ok(Verdict::Skipped("this machine has hardware KVM".into()));
        }
        let mut line = Command::new(roof);
        line.args(["run", "--engine", "kvm"]).arg(kernel).args(["--", "true"]);
        let seen = run(&mut line, "", LIMIT)?;
        seen.expect(seen.status == Some(125) && seen.stderr.contains("/dev/kvm"), "status 125")
    });
}

/// Memory beyond guest RAM, from the process' start to its end: 48 MiB, and for translated code 64
/// and its bound of 64.
fn memory_bound(report: &mut Report, roof: &Path) {
    for (engine, most_mib) in [("soft,interpret", 48.0), ("soft", 128.0)] {
        for (name, package) in KERNELS {
            let case = format!("memory_beyond_guest_ram_is_bounded_with_{name}_on_{engine}");
            report.case(&case, || {
                let kernel = kernels::fetch(roof, package)?;
                let mut line = Command::new(roof);
                line.args(["run", "--engine", engine, "-q"]).arg(kernel);
                line.args(["--", "sh", "-c", "seq 1 20000 | sort | tail -1"]);
                let (succeeded, most) = memory::peak_beyond_ram_mib(&mut line)?;
                Ok(match succeeded && most < most_mib {
                    true => {
                        println!("  {most:.1} MiB at most");
                        Verdict::Passed
                    }
                    false => Verdict::Failed(format!(
                        "success and less than {most_mib} MiB, not {succeeded} and {most:.1} MiB"
                    )),
                })
            });
        }
    }
}

/// Memory beyond guest RAM while a guest makes code: each function that it makes is translated and thrown
/// away, so that all room for translated code is used again three times.
fn translating(report: &mut Report, root: &Path, roof: &Path, kernel: &Path) {
    const MOST_MIB: f64 = 128.0;
    report.case("memory_beyond_guest_ram_is_bounded_while_a_guest_makes_code", || {
        // The guest has a /tmp of its own, and the target folder may lie in the host's.
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let workloads = folder.path().join("workloads");
        std::fs::copy(cpu::build_workloads(root)?, &workloads)?;
        let mut line = Command::new(roof);
        line.args(["run", "--engine", "soft", "-q"]).arg(kernel).arg("--");
        line.arg(&workloads).args(["jit", "30"]);
        let (succeeded, most) = memory::peak_beyond_ram_mib(&mut line)?;
        println!("  {most:.1} MiB at most");
        Ok(match succeeded && most < MOST_MIB {
            true => Verdict::Passed,
            false => Verdict::Failed(format!(
                "right results and less than {MOST_MIB} MiB, not {succeeded} and {most:.1} MiB"
            )),
        })
    });
}

/// Memory beyond guest RAM while a guest compiles: a large program, twice, that fills all room for
/// translated code with what runs seldom. 64 MiB, and for translated code 64 a CPU.
fn compiling(report: &mut Report, root: &Path, roof: &Path, kernel: &Path) {
    const SCRIPT: &str = "for n in 1 2; do \"$0\" -quiet -fpreprocessed -O2 \"$1\" -o /dev/null || \
                          exit 1; done";
    for (cpus, most_mib) in [("1", 128.0), ("2", 192.0)] {
        let case = format!("memory_beyond_guest_ram_is_bounded_while_cc1_compiles_on_{cpus}_cpus");
        report.case(&case, || {
            let Ok(cc1) = cpu::find("cc1") else {
                return Ok(Verdict::Skipped("this machine has no cc1 of gcc's".into()));
            };
            let folder = tempfile::tempdir_in("/var/tmp")?;
            let source = folder.path().join("source.i");
            let generated = Command::new(cpu::build_workloads(root)?)
                .args(["generate", "c", "60"])
                .stdout(std::fs::File::create(&source)?)
                .status()?;
            anyhow::ensure!(generated.success(), "the source could not be generated");
            let mut line = Command::new(roof);
            line.args(["run", "--engine", "soft", "-q", "-m", "1024", "-c", cpus]).arg(kernel);
            line.args(["--", "sh", "-c", SCRIPT]).arg(cc1).arg(&source);
            let (succeeded, most) = memory::peak_beyond_ram_mib(&mut line)?;
            println!("  {most:.1} MiB at most");
            Ok(match succeeded && most < most_mib {
                true => Verdict::Passed,
                false => Verdict::Failed(format!(
                    "success and less than {most_mib} MiB, not {succeeded} and {most:.1} MiB"
                )),
            })
        });
    }
}

/// An initrd of the user's: its console is our standard input and output, from the first byte on.
fn own_initrd(report: &mut Report, root: &Path, roof: &Path, kernel: &Path) {
    const SCRIPT: &str = "read a; read b; n=0; sum=0\n\
                          while [ $n -lt 200 ]; do read x; sum=$((sum + x)); n=$((n + 1)); done\n\
                          echo \"took $b $a and $sum\"";
    report.case("an_initrd_of_the_user_s_gets_all_of_a_piped_input", || {
        if let Err(why) = setup::need(&["busybox", "cpio"], &["busybox-static", "cpio"]) {
            return Ok(Verdict::Skipped(why));
        }
        let folder = tempfile::tempdir()?;
        let initrd = initrd::pack(root, folder.path(), SCRIPT)?;
        let numbers: String = (1..=200).map(|number| format!("{number}\n")).collect();
        let mut line = Command::new(roof);
        line.args(["run", "--engine", "soft", "--timeout", "120", "-i"]).arg(initrd).arg(kernel);
        let seen = run(&mut line, &format!("one\ntwo\n{numbers}"), LIMIT)?;
        let whole = seen.stdout.contains("took two one and 20100");
        seen.expect(seen.status == Some(0) && whole, "took two one and 20100, status 0")
    });
}
