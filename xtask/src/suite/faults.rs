//! What `--debug` slows down and breaks, as the guest measures and sees it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Output, Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// Milliseconds of twenty reads one after the other, and of four times ten at the same time.
const READS: &str = r#"
    read20() { dd if=/dev/vda of=/dev/null bs=512 count=20 iflag=direct 2>/dev/null; }
    a=$(date +%s%N); read20; b=$(date +%s%N)
    for n in 1 2 3 4 5 6 7 8; do read20 & done; wait; c=$(date +%s%N)
    echo $(((b - a) / 1000000)) $(((c - b) / 1000000))
"#;

/// What every case needs.
struct Bench<'a> {
    roof: &'a Path,
    kernel: &'a Path,
    _folder: tempfile::TempDir,
    images: [PathBuf; 2],
}

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    let bench = match Bench::new(roof, kernel) {
        Ok(bench) => bench,
        Err(error) => return report.case("faults", || Err(error)),
    };
    for (index, way) in ["io_uring", "threads"].into_iter().enumerate() {
        report.case(&format!("iodelay_of_a_disk_on_{way}_is_each_request_s_own"), || {
            bench.delayed(index)
        });
        report.case(&format!("iofault_of_a_disk_on_{way}_is_an_error_that_dd_sees"), || {
            bench.failing(index)
        });
    }
    report.case("iodelay_and_iofault_of_a_network_card", || bench.network());
}

impl<'a> Bench<'a> {
    fn new(roof: &'a Path, kernel: &'a Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let [raw, qcow2] = ["disk.raw", "disk.qcow2"].map(|name| folder.path().join(name));
        std::fs::File::create(&raw)?.set_len(1 << 20)?;
        let mut make = Command::new(roof);
        make.args(["disk", "create"]).arg(&qcow2).arg("1M");
        let made = run(&mut make, "", LIMIT)?;
        anyhow::ensure!(made.status == Some(0), "roof disk create: {}", made.stderr);
        Ok(Self { roof, kernel, _folder: folder, images: [raw, qcow2] })
    }

    /// Runs a script in the guest.
    fn guest(&self, options: &[&str], script: &str) -> Result<Output> {
        let mut line = Command::new(self.roof);
        line.args(["run", "-q", "--engine", "soft"]).args(options).arg(self.kernel);
        run(line.args(["--", "sh", "-c", script]), "", LIMIT)
    }

    /// Reads take as long as was said, those at the same time not longer than one after the other.
    fn delayed(&self, image: usize) -> Result<Verdict> {
        let disk = self.images[image].to_string_lossy();
        let time = |debug: &str| {
            let seen = self.guest(&["-d", &disk, "--debug", debug], READS)?;
            let numbers: Option<Vec<u64>> =
                seen.stdout.split_whitespace().map(|word| word.parse().ok()).collect();
            let numbers = numbers.filter(|numbers| numbers.len() == 2);
            numbers.with_context(|| format!("{} {}", seen.stdout, seen.stderr))
        };
        let (little, long) = (time("iodelay=2ms")?, time("iodelay=40ms,block")?);
        let other = time("iodelay=40ms,net")?;
        println!("  {little:?} ms with 2 ms, {long:?} with 40, {other:?} with 40 on the network");
        let holds = little[0] >= 40 && long[0] >= 800 && long[1] >= 800 && long[1] < 8 * 800 / 2;
        Ok(match holds && other[0] < 400 {
            true => Verdict::Passed,
            false => Verdict::Failed(format!("{little:?}, {long:?}, {other:?}")),
        })
    }

    /// Of twenty requests each fourth fails, wherever the count was before.
    fn failing(&self, image: usize) -> Result<Verdict> {
        let disk = self.images[image].to_string_lossy();
        let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                      dd if=/dev/vda of=/dev/null bs=512 count=1 iflag=direct 2>&1 | \
                      grep -o 'Input/output error'; done; true";
        let lines = |debug: &str| self.guest(&["-d", &disk, "--debug", debug], script);
        let seen = lines("iofault=4")?;
        if seen.stdout != "Input/output error\n".repeat(5) {
            return seen.expect(false, "five errors of twenty reads");
        }
        let seen = lines("iofault=4,net")?;
        seen.expect(seen.stdout.is_empty(), "no error, as only the network has faults")
    }

    /// An echo goes through two delays, and without its frames it does not come.
    fn network(&self) -> Result<Verdict> {
        if let Err(why) = setup::need(&["busybox"], &["busybox-static"]) {
            return Ok(Verdict::Skipped(why));
        }
        let ping = |debug: &str| {
            self.guest(&["--debug", debug], "busybox ping -c 3 -W 2 10.0.2.2 2>&1; true")
        };
        let seen = ping("iodelay=50ms,net")?;
        let times =
            seen.stdout.lines().filter_map(|line| line.split_once("time=")?.1.split('.').next());
        let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        println!("  {times:?} ms there and back, 50 ms a way");
        if times.len() != 3 || times.iter().any(|time| !(100..1000).contains(time)) {
            return seen.expect(false, "three echoes, each after at least 100 ms");
        }
        let seen = ping("iofault=1,net")?;
        seen.expect(seen.stdout.contains("100% packet loss"), "100% packet loss")
    }
}
