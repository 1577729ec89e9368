//! The benchmark guest: one static binary that is a set of workloads, the generator of other
//! programs' input, and the init that runs a plan of both between markers.
//!
//! Invariant: a workload's result depends on its amount of work alone, never on the machine, so
//! that native, peer and our own CPU can be held against each other.

mod block;
mod catalogue;
mod dispatch;
mod float;
mod generate;
mod integer;
mod jit;
mod memory;
mod mix;
mod net;
mod random;
mod records;
mod runner;
mod sys;
mod system;
mod vector;

use std::process::ExitCode;

const USAGE: &str = "\
usage: oneroof-workloads list               names of all workloads
       oneroof-workloads NAME [AMOUNT]      run one, print its checksum
       oneroof-workloads generate KIND AMOUNT   text, c or sql on standard output
       oneroof-workloads net WHAT ADDRESS:PORT AMOUNT   a client of xtask's network server
       oneroof-workloads block DEVICE ...   reads or writes past the page cache
       oneroof-workloads records DEVICE FIRST   numbered records on its ext4, each flushed
       oneroof-workloads run PLAN           run a plan in the current directory
as process 1: mounts what it needs, runs /bench/plan in /bench, powers off";

/// The exit status of a workload that this CPU cannot run.
const UNSUPPORTED: u8 = 77;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return runner::init::main();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["list"] => {
            catalogue::ALL.iter().for_each(|one| println!("{} {}", one.name, one.amount));
            Ok(())
        }
        ["nothing"] => Ok(()),
        ["generate", kind, amount] => {
            amount.parse().map_err(|_| format!("{amount} is no amount")).and_then(|amount| {
                generate::write(kind, amount, &mut std::io::stdout().lock())
                    .map_err(|error| error.to_string())
            })
        }
        ["net", what, to, amount] => match amount.parse() {
            Ok(amount) => net::run(what, to, amount).map(|told| println!("{told}")),
            Err(_) => Err(format!("{amount} is no amount")),
        },
        ["block", words @ ..] => block::run(words).map(|sum| println!("{sum:016x}")),
        ["records", device, first] => records::run(device, first),
        ["run", plan] => runner::run_file(plan, &mut std::io::stdout()),
        [name] => return one(name, None),
        [name, amount] => return one(name, Some(amount)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn one(name: &str, amount: Option<&str>) -> ExitCode {
    let Some(workload) = catalogue::find(name) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let Ok(amount) = amount.map_or(Ok(workload.amount), str::parse) else {
        eprintln!("an amount is a whole number");
        return ExitCode::FAILURE;
    };
    match (workload.run)(amount) {
        Ok(sum) => {
            println!("{name} {amount} {sum:016x}");
            ExitCode::SUCCESS
        }
        Err(catalogue::Failure::Unsupported(what)) => {
            eprintln!("this CPU has no {what}");
            ExitCode::from(UNSUPPORTED)
        }
        Err(catalogue::Failure::System(error)) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
