//! The binary `roof`: the command line over the facade, and nothing else.
//!
//! Invariants: exit status 125 means that roof itself failed, a wrong command line included; the
//! terminal is as it was found on every way out.
#![deny(unsafe_code)]

mod args;
mod disk;
mod doctor;
mod json;
mod kernel;
mod progress;
mod run;
mod say;
mod signals;
mod sys;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Task};

/// Roof's own failure.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let code = std::panic::catch_unwind(dispatch).unwrap_or(OWN_FAILURE);
    terminal::restore();
    ExitCode::from(code)
}

fn dispatch() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell if this fails. Help and version are asked for, so fine.
            let _ = error.print();
            return if error.use_stderr() { OWN_FAILURE } else { 0 };
        }
    };
    let done = match arguments.task {
        Task::Run(run) => run::run(&run),
        Task::Kernel { task } => kernel::kernel(task),
        Task::Disk { task } => disk::disk(task),
        Task::Doctor => Ok(doctor::doctor()),
        Task::Version => {
            println!("roof {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
    };
    done.unwrap_or_else(|error| {
        say::line(&format!("roof: {}", say::chain(&error)));
        OWN_FAILURE
    })
}
