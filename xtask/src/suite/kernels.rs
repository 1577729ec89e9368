//! Debian's kernels for the suites, fetched by `roof` itself into its cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The three configurations every boot suite runs.
pub(crate) const KERNELS: [(&str, &str); 3] = [
    ("cloud", "linux-image-cloud-amd64"),
    ("generic", "linux-image-amd64"),
    ("rt", "linux-image-rt-amd64"),
];

/// Fetches a kernel package (or finds it fetched); the path of its image.
pub(crate) fn fetch(roof: &Path, package: &str) -> Result<PathBuf> {
    let output = Command::new(roof)
        .args(["kernel", "fetch", package])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("roof kernel fetch")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let path = text.lines().last().unwrap_or_default().trim();
    if !output.status.success() || path.is_empty() {
        bail!("roof kernel fetch {package} failed: {text}");
    }
    Ok(path.into())
}
