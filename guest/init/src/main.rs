//! PID 1 of the generated initramfs: mounts, modules in order, one command, its status, power off.
//!
//! Built as one static binary and embedded in `roof`. Its job is the file [`protocol::JOB_PATH`];
//! the session with the host runs over the second serial port, so the kernel's console (the first
//! one) never mixes with what the command prints. Invariant: whatever fails, the guest powers off
//! after saying why.
#![deny(unsafe_code)]

mod command;
mod link;
mod modules;
mod mounts;
mod network;
mod session;
mod sys;

use std::process::ExitCode;

use protocol::{FromGuest, Job};
use rustix::system::RebootCommand;

use crate::link::Link;

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
    for trouble in prepare(&job) {
        link.send(&FromGuest::Notice(trouble))?;
    }
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

/// Host name, loopback, modules, network card; gives what did not work.
fn prepare(job: &Job) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Err(error) = rustix::system::sethostname(&job.hostname) {
        troubles.push(format!("cannot set the host name: {error}"));
    }
    troubles.extend(network::loopback());
    troubles.extend(modules::load(&job.modules));
    troubles.extend(network::card(&job.network));
    troubles
}
