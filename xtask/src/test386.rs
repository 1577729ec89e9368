//! `cargo xtask test386 DIR`: test386.asm, a BIOS that tests the 80386 instruction set, on soft.
//!
//! DIR is a checkout of the public repository barotto/test386.asm; nothing of it lives here. It is
//! assembled twice (by nasm): with its progress codes on the serial port, which must end in FFh,
//! and with its computations there, which must be those of its reference file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const STARTER: &str = include_str!("test386.asm");
const LIMIT_SECONDS: &str = "300";
/// Its last progress code.
const DONE: u8 = 0xff;

/// Runs it; fails if it does not come to its end or computes something else.
pub(crate) fn run(roof: &Path, folder: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let codes = boot(roof, &build(folder, scratch.path(), "POST_PORT", "0x3f8")?)?;
    let last = codes.last().copied().unwrap_or_default();
    println!("{} progress codes, the last {last:02X}h", codes.len());
    if last != DONE {
        bail!("test386.asm stopped in test {last:02X}h");
    }
    let output = boot(roof, &build(folder, scratch.path(), "COM_PORT", "1")?)?;
    let output = String::from_utf8_lossy(&output);
    let reference = std::fs::read(folder.join("test386-EE-reference.txt"))?;
    let reference = String::from_utf8_lossy(&reference);
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (lines(&output), lines(&reference));
    if let Some(at) = (0..ours.len().max(theirs.len())).find(|&at| ours.get(at) != theirs.get(at)) {
        bail!("line {}: {:?}, not {:?}", at + 1, ours.get(at), theirs.get(at));
    }
    println!("{} lines of results as in the reference", theirs.len());
    Ok(())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// The guest, with one setting of its configuration changed.
fn build(folder: &Path, scratch: &Path, setting: &str, value: &str) -> Result<PathBuf> {
    let sources = folder.join("src");
    copy(&sources, scratch)?;
    let configuration = std::fs::read_to_string(sources.join("configuration.asm"))?;
    let configuration: String = configuration
        .lines()
        .map(|line| match line.split_whitespace().next() {
            Some(name) if name == setting => format!("{setting} equ {value}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(scratch.join("configuration.asm"), configuration)?;
    std::fs::write(scratch.join("starter.asm"), STARTER)?;
    nasm(scratch, &["test386.asm", "-o", "rom.bin"])?;
    nasm(scratch, &["-dROM=\"rom.bin\"", "starter.asm", "-o", "guest.elf"])?;
    Ok(scratch.join("guest.elf"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let target = to.join(path.file_name().expect("entries have names"));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

fn nasm(scratch: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("nasm")
        .current_dir(scratch)
        .args(["-w-all", "-f", "bin", "-i", "./"])
        .args(arguments)
        .output()
        .context("cannot run nasm: is it installed?")?;
    if !output.status.success() {
        bail!("nasm: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What it wrote to the serial port before it halted.
fn boot(roof: &Path, guest: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(roof);
    command.arg("run").arg(guest);
    command.args(["--engine", "soft", "--test-devices", "-q", "-c", "1", "-m", "64M"]);
    command.args(["--timeout", LIMIT_SECONDS]);
    let output = command.stdin(Stdio::null()).output().context("cannot run roof")?;
    if output.status.code() == Some(124) {
        bail!("no end after {LIMIT_SECONDS} s");
    }
    Ok(output.stdout)
}
