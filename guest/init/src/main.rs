//! PID 1 of the generated initramfs: mounts, modules in order, one command, its status, power off.
//!
//! Built as one static binary and embedded in `roof`. Its job is the file [`protocol::JOB_PATH`];
//! the session with the host runs over the second serial port, so the kernel's console (the first
//! one) never mixes with what the command prints. Invariant: whatever fails, the guest powers off
//! after saying why.
#![deny(unsafe_code)]

mod bulk;
mod command;
mod link;
mod modules;
mod mounts;
mod network;
mod session;
mod shares;
mod sys;

use std::process::ExitCode;

use protocol::{FromGuest, Job};
use rustix::system::RebootCommand;

use crate::link::Link;

/// The status of a guest that has not what the user asked for, as `roof` itself reports it.
const NOT_SHARED: u8 = 125;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("oneroof-init is the first process of a Oneroof guest and runs as nothing else");
        return ExitCode::FAILURE;
    }
    if let Err(error) = run() {
        eprintln!("oneroof-init: {error}");
    }
    rustix::fs::sync();
    let error = rustix::system::reboot(RebootCommand::PowerOff);
    eprintln!("oneroof-init: cannot power off: {error:?}");
    ExitCode::FAILURE // PID 1 ending is a kernel panic, which the host recognises
}

/// The whole life of the guest. An error is one that could not be told over the link.
fn run() -> Result<(), String> {
    let troubles = mounts::mount_all();
    let mut link = Link::open("/dev/ttyS1").map_err(|e| format!("cannot open /dev/ttyS1: {e}"))?;
    link.send(&FromGuest::Hello { version: protocol::VERSION })?;
    for trouble in troubles {
        link.send(&FromGuest::Notice(trouble))?;
    }
    let job = match read_job() {
        Ok(job) => job,
        Err(why) => {
            link.send(&FromGuest::Notice(format!("cannot read the job: {why}")))?;
            return Err(why);
        }
    };
    let mut troubles = prepare(&job);
    let shared = share(&job, &mut troubles);
    // Behind the change of root: the resolver's file lies there.
    troubles.extend(network::card(&job.network));
    for trouble in troubles {
        link.send(&FromGuest::Notice(trouble))?;
    }
    if let Err(why) = shared {
        link.send(&FromGuest::Stderr(format!("oneroof: {why}\n").into_bytes()))?;
        link.send(&FromGuest::Exit { code: NOT_SHARED, signal: 0 })?;
        link.drain();
        return Ok(());
    }
    modules::load_later(&job.modules);
    let (code, signal) = session::run(&job, &mut link)?;
    link.send(&FromGuest::Exit { code, signal })?;
    link.drain();
    Ok(())
}

fn read_job() -> Result<Job, String> {
    let bytes = std::fs::read(protocol::JOB_PATH)
        .map_err(|error| format!("{}: {error}", protocol::JOB_PATH))?;
    Job::decode(&bytes).map_err(|error| error.to_string())
}

/// Host name, loopback, modules; gives what did not work.
fn prepare(job: &Job) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Err(error) = rustix::system::sethostname(&job.hostname) {
        troubles.push(format!("cannot set the host name: {error}"));
    }
    troubles.extend(network::loopback());
    troubles.extend(modules::load(&job.modules));
    troubles
}

/// The root directory, and what else is the host's.
fn share(job: &Job, troubles: &mut Vec<String>) -> Result<(), String> {
    if let Some(root) = &job.root {
        troubles.extend(shares::enter(root)?);
    }
    for share in &job.shares {
        match shares::mount_at_path(share) {
            Err(why) if share.optional => {
                troubles.push(format!("{why}; the command's folder is empty"));
            }
            mounted => mounted?,
        }
    }
    Ok(())
}
