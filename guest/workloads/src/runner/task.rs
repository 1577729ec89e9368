//! One task: started, waited for, its result summed.

use std::fs::{self, File};
use std::io::{Error, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::marker;
use super::plan::Task;
use crate::sys::process::{self, Usage};

/// Runs a task: `begin NAME`, `end NAME STATUS USER_US SYSTEM_US WALL_US`, then `sum NAME HEX`.
pub(super) fn run(task: &Task, console: &mut impl Write) -> Result<(), Error> {
    marker(console, &format!("begin {}", task.name))?;
    let started = Instant::now();
    let ended = copies(task);
    let wall = started.elapsed().as_micros();
    let (usage, why) = match ended {
        Ok(usage) => (usage, None),
        Err(error) => (Usage { status: 127, ..Usage::default() }, Some(error.to_string())),
    };
    let Usage { status, user_us, system_us } = usage;
    marker(console, &format!("end {} {status} {user_us} {system_us} {wall}", task.name))?;
    if let Some(why) = why.or_else(|| (status != 0).then(|| last_words(task))) {
        marker(console, &format!("note {}: {why}", task.name))?;
    }
    match sum(task) {
        Ok(sum) => marker(console, &format!("sum {} {sum}", task.name)),
        Err(error) => marker(console, &format!("note {}: {error}", task.name)),
    }
}

/// Runs all copies at once; what they used together, the worst status.
fn copies(task: &Task) -> Result<Usage, Error> {
    let started: Vec<_> = (0..task.copies).map(|copy| start(task, copy)).collect();
    let mut total = Usage::default();
    let mut failure = None;
    for child in started {
        match child.and_then(process::wait) {
            Ok(usage) => {
                total.user_us += usage.user_us;
                total.system_us += usage.system_us;
                total.status = total.status.max(usage.status);
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(total), Err)
}

/// Starts a copy; its process id. The caller waits by wait4, for the child's own figures.
fn start(task: &Task, copy: usize) -> Result<u32, Error> {
    let mut command = match task.program.as_str() {
        "@self" => Command::new(std::env::current_exe()?),
        program => Command::new(program),
    };
    command.args(&task.arguments).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    command.stdin(match &task.stdin {
        Some(path) => Stdio::from(File::open(path)?),
        None => Stdio::null(),
    });
    command.stdout(File::create(output(task, copy, "out"))?);
    command.stderr(File::create(output(task, copy, "err"))?);
    command.spawn().map(|child| child.id())
}

fn output(task: &Task, copy: usize, kind: &str) -> String {
    format!("{}.{copy}.{kind}", task.name)
}

/// The last line that the first copy wrote to standard error.
fn last_words(task: &Task) -> String {
    let text = fs::read(output(task, 0, "err")).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().last().unwrap_or("failed without a word").to_owned()
}

/// The checksum of the result, which all copies must share; the files are removed.
fn sum(task: &Task) -> Result<String, Error> {
    let mut sums = Vec::new();
    for copy in 0..task.copies {
        let out = output(task, copy, "out");
        sums.push(checksum(File::open(task.result.as_deref().unwrap_or(&out))?)?);
        fs::remove_file(out)?;
        fs::remove_file(output(task, copy, "err"))?;
    }
    if let Some(result) = &task.result {
        fs::remove_file(result)?;
    }
    if sums.iter().any(|sum| *sum != sums[0]) {
        return Ok("copies-differ".into());
    }
    Ok(format!("{:016x}", sums[0]))
}

/// FNV-1a, 64 bits.
fn checksum(mut from: impl Read) -> Result<u64, Error> {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(sum);
        }
        for byte in &buffer[..count] {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(super::checksum(&b"foobar"[..]).unwrap(), 0x8594_4171_f739_67e8);
    }
}
