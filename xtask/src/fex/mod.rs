//! `cargo xtask fex DIR`: FEX-Emu's assembly unit tests on the software CPU.
//!
//! DIR is a checkout of the public repository FEX-Emu/FEX; nothing of it lives here. Each test is
//! assembled (by nasm) into a bare guest that runs it at CPL 3 and prints its registers
//! (guest.asm), booted by `roof`, and compared with what the test says. `--qemu` runs the same
//! guests under QEMU TCG instead, to tell a test's mistake from ours.

mod case;
mod dump;
mod known;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::suite;
use case::Case;
use dump::Dump;

/// What to run.
pub(crate) struct Options {
    pub(crate) folder: PathBuf,
    /// Only tests whose path contains this.
    pub(crate) only: Option<String>,
    pub(crate) jobs: usize,
    pub(crate) qemu: bool,
}

const GUEST: &str = include_str!("guest.asm");
const LIMIT: Duration = Duration::from_secs(60);
/// Of a region larger than this only so much at both ends is mapped.
const LARGE: u64 = 1 << 20;
/// The suite's folders, and the lists of tests that it does not run on real processors either.
const FOLDERS: [&str; 2] = ["unittests/ASM", "unittests/32Bit_ASM"];
const LISTS: [&str; 4] =
    ["Disabled_Tests", "Disabled_Tests_host", "Known_Failures", "Known_Failures_host"];
/// Features this processor never announces, and what only a Linux process has.
const NOT_HERE: [&str; 7] = ["3DNOW", "SSE4A", "CLZERO", "AES256", "AFP", "EMMI", "LINUX"];

/// How one test ended.
enum Outcome {
    Pass,
    Fail(String),
    /// It differs for a reason that is not ours.
    Known(&'static str),
    Skip(String),
}

/// Runs the tests; fails if one does.
pub(crate) fn run(roof: &Path, options: &Options) -> Result<()> {
    let mut tests = Vec::new();
    let mut disabled = BTreeSet::new();
    for folder in FOLDERS {
        let root = options.folder.join(folder);
        find(&root, &root, &mut tests)?;
        for list in LISTS {
            let text = std::fs::read_to_string(root.join(list)).unwrap_or_default();
            disabled.extend(text.lines().map(|line| {
                let name = line.trim().trim_start_matches("Test_");
                root.join(name.trim_start_matches("32Bit_"))
            }));
        }
    }
    tests.retain(|(_, path)| {
        options.only.as_ref().is_none_or(|only| path.to_string_lossy().contains(only.as_str()))
    });
    tests.sort();
    if tests.is_empty() {
        bail!("no tests: is {} a checkout of FEX-Emu/FEX?", options.folder.display());
    }
    let queue = Mutex::new(tests.iter());
    let counts = Mutex::new([0u32; 4]);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some((root, path)) = queue.lock().expect("no panics").next() else { break };
                    let outcome = if disabled.contains(path) {
                        Outcome::Skip("the suite disables it on real processors".into())
                    } else {
                        one(roof, options, root, path)
                            .unwrap_or_else(|error| Outcome::Fail(format!("{error:#}")))
                    };
                    let mut counts = counts.lock().expect("no panics");
                    match outcome {
                        Outcome::Pass => counts[0] += 1,
                        Outcome::Fail(why) => {
                            counts[1] += 1;
                            println!("FAIL {}: {why}", path.display());
                        }
                        Outcome::Known(why) => {
                            counts[2] += 1;
                            println!("known {}: {why}", path.display());
                        }
                        Outcome::Skip(why) => {
                            counts[3] += 1;
                            println!("skip {}: {why}", path.display());
                        }
                    }
                }
            });
        }
    });
    let [passed, failed, known, skipped] = counts.into_inner().expect("no panics");
    println!(
        "{passed} passed, {failed} failed, {known} differ for a known reason, {skipped} skipped"
    );
    if failed != 0 {
        bail!("{failed} tests of FEX-Emu's failed");
    }
    Ok(())
}

/// Every `.asm` file below a folder, with its root.
fn find(root: &Path, folder: &Path, tests: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(root, &path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "asm") {
            tests.push((root.to_owned(), path));
        }
    }
    Ok(())
}

fn one(roof: &Path, options: &Options, root: &Path, path: &Path) -> Result<Outcome> {
    let source = std::fs::read_to_string(path)?;
    let case = Case::parse(&source)?;
    if let Some(feature) = case.features.iter().find(|name| NOT_HERE.contains(&name.as_str())) {
        return Ok(Outcome::Skip(format!("needs {feature}")));
    }
    if known::calls_linux(&source) {
        return Ok(Outcome::Skip("calls Linux, which is not there".into()));
    }
    let scratch = tempfile::tempdir()?;
    let guest = assemble(scratch.path(), &options.folder.join(FOLDERS[0]), root, &source, &case)?;
    let mut command = if options.qemu { qemu(&guest) } else { ours(roof, &guest) };
    let seen = suite::run(&mut command, "", LIMIT)?;
    if seen.killed {
        return Ok(Outcome::Fail("time out".into()));
    }
    let dump = Dump::parse(&seen.stdout)
        .with_context(|| format!("{} {}", seen.stdout.trim(), seen.stderr.trim()))?;
    let differences = dump.differences(&case);
    if differences.is_empty() {
        return Ok(Outcome::Pass);
    }
    let reason = known::reason(path);
    Ok(reason.map_or_else(|| Outcome::Fail(differences), Outcome::Known))
}

/// The guest around one test.
fn assemble(
    scratch: &Path,
    includes: &Path,
    root: &Path,
    source: &str,
    case: &Case,
) -> Result<PathBuf> {
    // As the suite's own build puts it before a test.
    let begin = if case.is_32bit {
        "BITS 32\norg 10000h\nmov eax, 0x17\nmov ds, ax\nmov es, ax"
    } else {
        "BITS 64"
    };
    let file = |name: &str| scratch.join(name);
    std::fs::write(file("test.asm"), format!("{begin}\n{source}\nret\n"))?;
    std::fs::write(file("guest.asm"), GUEST)?;
    std::fs::write(file("case.inc"), description(case))?;
    let folder = |path: &Path| format!("{}/", path.join("Includes").display());
    nasm(&["-i", &folder(includes), "-i", &folder(root)], &file("test.asm"), &file("test.bin"))?;
    nasm(
        &[
            "-i",
            &format!("{}/", scratch.display()),
            &format!("-dMODE32={}", u8::from(case.is_32bit)),
            &format!("-dTEST=\"{}\"", file("test.bin").display()),
        ],
        &file("guest.asm"),
        &file("guest.elf"),
    )?;
    Ok(file("guest.elf"))
}

/// The macros `regions` and `memory` that guest.asm asks for.
fn description(case: &Case) -> String {
    let mut text = String::from("%macro regions 0\n");
    for &(address, bytes) in &case.regions {
        if bytes <= LARGE {
            text += &format!("dq {address:#x}, {bytes:#x}\n");
            continue;
        }
        let last = address.wrapping_add(bytes - LARGE);
        text += &format!("dq {address:#x}, {LARGE:#x}\ndq {last:#x}, {LARGE:#x}\n");
    }
    text += "%endmacro\n%macro memory 0\n";
    for (address, bytes) in case.memory.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
        text += &format!("dq {address:#x}, {:#x}\ndb {}\n", bytes.len(), list.join(", "));
    }
    text + "%endmacro\n"
}

fn nasm(options: &[&str], source: &Path, target: &Path) -> Result<()> {
    let output = Command::new("nasm")
        .args(["-w-all", "-f", "bin"])
        .args(options)
        .arg(source)
        .arg("-o")
        .arg(target)
        .output()
        .context("cannot run nasm: is it installed?")?;
    if !output.status.success() {
        bail!("nasm: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn ours(roof: &Path, guest: &Path) -> Command {
    let mut command = Command::new(roof);
    command.arg("run").arg(guest);
    command.args(["--engine", "soft", "--test-devices", "-q", "-c", "1", "-m", "256M"]);
    command
}

fn qemu(guest: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "--no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-display", "none"]);
    command.args(["-serial", "stdio", "-kernel"]).arg(guest);
    command
}
