//! A tiny initrd: busybox and an init script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// Packs one whose init proves that user space runs by executing `script`, and powers off.
pub(crate) fn pack(root: &Path, folder: &Path, script: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(tree.join("dev"))?;
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output()?;
    let busybox = String::from_utf8(found.stdout)?;
    fs::copy(busybox.trim(), tree.join("bin/busybox")).context("busybox")?;
    fs::write(
        tree.join("init"),
        format!("#!/bin/busybox sh\n{script}\n/bin/busybox poweroff -f\n"),
    )?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    let target = folder.join("initrd");
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc > '{}'",
        tree.display(),
        target.display()
    );
    cargo::run(root, "sh", &["-c", &script])?;
    Ok(target)
}
