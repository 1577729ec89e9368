//! Process 1 of the benchmark guest: mounts, the serial console, the plan, power off.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::ExitCode;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::sys::process;

const MOUNTS: [(&str, &str); 4] =
    [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")];

/// Where the plan lies and runs.
const FOLDER: &str = "/bench";

/// Runs the guest; returns only if it cannot power off.
pub(crate) fn main() -> ExitCode {
    for (kind, at) in MOUNTS {
        // A mount that fails is seen by what then does not work; there is no console yet.
        let _ = fs::create_dir_all(at);
        let _ = mount(kind, at, kind, MountFlags::empty(), None::<&CStr>);
    }
    if let Ok(mut console) = console() {
        // The host sees a console that ends early: nothing more can be told from here.
        let _ = console.write_all(b"\n@oneroof ready\n");
        let done = std::env::set_current_dir(FOLDER)
            .map_err(|error| format!("{FOLDER}: {error}"))
            .and_then(|()| super::run_file("plan", &mut console));
        if let Err(why) = done {
            let _ = writeln!(console, "@oneroof note {why}");
        }
        super::drain();
    }
    process::end_all_others();
    rustix::fs::sync();
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The first serial port, which becomes the standard streams as well.
fn console() -> Result<File, std::io::Error> {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/ttyS0");
    rustix::stdio::dup2_stdin(open()?)?;
    rustix::stdio::dup2_stdout(open()?)?;
    rustix::stdio::dup2_stderr(open()?)?;
    open()
}
