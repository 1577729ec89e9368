//! From tasks to one initramfs: our binary as its init, programs, their input, the plan.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::plan::{Input, Kind, Task};
use super::python;
use super::tree::{Tree, find};
use crate::cargo;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the three ways share.
pub(super) struct Packed {
    /// The archive for the guests.
    pub(super) initrd: PathBuf,
    /// The guest's /bench as the host's folder, for the native way.
    pub(super) work: PathBuf,
}

/// Builds guest/workloads as a static program.
pub(crate) fn build_workloads(root: &Path) -> Result<PathBuf> {
    let folder = cargo::target(root).join("static");
    let status = Command::new(cargo::cargo())
        .args(["build", "--quiet", "--release", "--package", "oneroof-workloads"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Crelocation-model=static -Cstrip=symbols")
        .current_dir(root)
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("cargo could not build guest/workloads: {status}");
    }
    Ok(folder.join(TARGET).join("release/oneroof-workloads"))
}

/// Packs all that these tasks need.
pub(super) fn pack(root: &Path, folder: &Path, binary: &Path, tasks: &[Task]) -> Result<Packed> {
    let mut tree = Tree::new(folder.join("tree"))?;
    tree.add_as(binary, Path::new("/init"))?;
    let work = tree.work();
    let mut plan = String::new();
    for task in tasks {
        if let Kind::Program(program) = &task.kind {
            let file = find(program.program)?;
            tree.add_program(&file)?;
            if let Input::Zeros(mib) = program.input {
                plan.push_str(&format!("sparse\t{}\t{}\n", program.input.file(), mib << 20));
            }
            input(root, binary, &work, program.input)?;
            if let Input::Python(_) = program.input {
                python::add(&mut tree, &file, &work.join(program.input.file()))?;
            }
        }
        plan.push_str(&task.line(&|program| Ok(find(program)?.to_string_lossy().into_owned()))?);
    }
    fs::write(work.join("plan"), plan)?;
    configuration(&mut tree)?;
    let initrd = folder.join("initrd");
    tree.archive(&initrd)?;
    let mib = fs::metadata(&initrd)?.len() >> 20;
    eprintln!("{} workloads in an initramfs of {mib} MiB", tasks.len());
    Ok(Packed { initrd, work })
}

/// openssl reads its configuration at each start.
fn configuration(tree: &mut Tree) -> Result<()> {
    for path in ["/usr/lib/ssl/openssl.cnf", "/etc/ssl/openssl.cnf"].map(Path::new) {
        if path.is_file() {
            tree.add(path)?;
        }
    }
    Ok(())
}

fn input(root: &Path, binary: &Path, work: &Path, input: Input) -> Result<()> {
    let path = work.join(input.file());
    if let Input::Python(_) = input {
        fs::copy(root.join("guest/workloads/data/script.py"), path)?;
    } else if let Some((kind, amount)) = input.generated()
        && !path.exists()
    {
        let status = Command::new(binary)
            .args(["generate", kind, &amount.to_string()])
            .stdout(Stdio::from(File::create(&path)?))
            .status()?;
        if !status.success() {
            bail!("{} generate {kind} ended with {status}", binary.display());
        }
    }
    Ok(())
}
