//! Signals to roof: Ctrl-C is the command's first and ends the VM when it comes again; others end it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::conversation::Conversation;
use super::{Report, Verdict};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    report.case("an_interrupt_is_the_command_s", || {
        let script = "trap 'echo told; exit 5' INT; echo up; while :; do sleep 0.1; done";
        let mut guest = start(roof, kernel, script)?;
        send(&guest, "INT")?;
        guest.hear("told")?;
        ends(guest, 5)
    });
    report.case("an_interrupt_that_the_command_ignores_ends_the_vm_when_it_comes_again", || {
        let guest = start(roof, kernel, "trap '' INT; echo up; sleep 1000")?;
        send(&guest, "INT")?;
        std::thread::sleep(Duration::from_secs(1));
        send(&guest, "INT")?;
        ends(guest, 130)
    });
    for (signal, status) in [("TERM", 143), ("HUP", 129)] {
        report.case(&format!("a_signal_{signal}_ends_the_vm_with_{status}"), || {
            let guest = start(roof, kernel, "echo up; sleep 1000")?;
            send(&guest, signal)?;
            ends(guest, status)
        });
    }
}

/// A command that has said that it is up.
fn start(roof: &Path, kernel: &Path, script: &str) -> Result<Conversation> {
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft"]).arg(kernel).args(["--", "sh", "-c", script]);
    let mut guest = Conversation::start(&mut line, LIMIT)?;
    guest.hear("up")?;
    Ok(guest)
}

fn send(guest: &Conversation, signal: &str) -> Result<()> {
    let mut kill = Command::new("kill");
    let sent = kill.args(["-s", signal, &guest.pid().to_string()]).status()?;
    ensure!(sent.success(), "roof is there to be told");
    Ok(())
}

fn ends(guest: Conversation, status: i32) -> Result<Verdict> {
    Ok(match guest.finish()? {
        Some(seen) if seen == status => Verdict::Passed,
        other => Verdict::Failed(format!("status {other:?}, not {status}")),
    })
}
