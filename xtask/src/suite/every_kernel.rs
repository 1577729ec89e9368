//! What the other cases find of the cloud kernel holds with the generic and the real-time one: everyday
//! commands as on the host, disk, network, shares and pipes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::kernels::{self, KERNELS};
use super::share::{self, EVERYDAY};
use super::{Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path) {
    for (name, package) in &KERNELS[1..] {
        report.case(&format!("everyday_commands_with_the_{name}_kernel"), || {
            kernels::fetch(roof, package)?;
            everyday(roof, package)
        });
        report.case(&format!("disk_network_share_and_pipes_with_the_{name}_kernel"), || {
            kernels::fetch(roof, package)?;
            devices(roof, package)
        });
    }
}

/// All of them in one guest, each with files for what it says, beside the host.
fn everyday(roof: &Path, package: &str) -> Result<Verdict> {
    let (files, results) = (share::files()?, share::folder()?);
    let at = |number: usize, end: &str| results.path().join(format!("{number}.{end}"));
    let folder = share::text(files.path())?;
    for (number, (_, script)) in EVERYDAY.iter().enumerate() {
        std::fs::write(at(number, "sh"), format!("D={folder}; cd $D; {script}"))?;
    }
    let all = format!(
        "n=0; while [ $n -lt {} ]; do sh -c \"$(cat /mnt/r/$n.sh)\" < /dev/null > /mnt/r/$n.out \
         2> /mnt/r/$n.err; echo $? > /mnt/r/$n.status; n=$((n + 1)); done; uname -r",
        EVERYDAY.len()
    );
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q", "--net", "none", "--share"]);
    line.arg(format!("{}:/mnt/r", share::text(results.path())?)).arg(package);
    let seen = run(line.args(["--", "sh", "-c", &all]), "", LIMIT)?;
    if seen.status != Some(0) || seen.stdout.contains("cloud") {
        return seen.expect(false, "all commands run, under this kernel");
    }
    let mut others = Vec::new();
    for (number, (name, _)) in EVERYDAY.iter().enumerate() {
        let script = std::fs::read_to_string(at(number, "sh"))?;
        let host = run(Command::new("sh").args(["-c", &script]), "", LIMIT)?;
        let read = |end: &str| std::fs::read(at(number, end)).unwrap_or_default();
        let text = |end: &str| String::from_utf8_lossy(&read(end)).into_owned();
        let status = text("status").trim().parse().ok();
        if (&host.stdout, &host.stderr, host.status) != (&text("out"), &text("err"), status) {
            others.push(format!("{name}: {:?}, {}{}", status, text("out"), text("err")));
        }
    }
    seen.expect(others.is_empty(), &format!("what the host does, not: {}", others.join("\n")))
}

fn devices(roof: &Path, package: &str) -> Result<Verdict> {
    if let Err(why) = setup::need(&["busybox", "mkfs.ext4"], &["busybox-static", "e2fsprogs"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = share::folder()?;
    let disk = folder.path().join("disk.img");
    std::fs::File::create(&disk)?.set_len(32 << 20)?;
    let script = "read word; mkfs.ext4 -q /dev/vda && mkdir /tmp/m && mount /dev/vda /tmp/m && \
                  seq 1 50000 > /tmp/m/numbers && umount /tmp/m && mount /dev/vda /tmp/m && \
                  cksum < /tmp/m/numbers && umount /tmp/m; \
                  busybox ping -c 1 -W 5 10.0.2.2 | grep -c '1 packets received'; \
                  echo $word > /mnt/here/said; echo aside >&2; exit 6";
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q", "--share"]);
    line.arg(format!("{}:/mnt/here", share::text(folder.path())?)).arg("-d").arg(&disk);
    let seen = run(line.arg(package).args(["--", "sh", "-c", script]), "a-word\n", LIMIT)?;
    let sum = run(Command::new("sh").args(["-c", "seq 1 50000 | cksum"]), "", LIMIT)?;
    let said = std::fs::read(folder.path().join("said")).unwrap_or_default();
    let holds = seen.stdout == format!("{}1\n", sum.stdout) && said == b"a-word\n";
    let apart = seen.stderr.ends_with("aside\n") && seen.status == Some(6);
    seen.expect(holds && apart, "the sum, an echo, the word in a file, status 6")
}
