//! `cargo xtask tidy`: the house rules that a machine can see, a sentence for each breach.
//!
//! Each rule is a function from data (paths and texts, or the dependency graph) to breaches, so
//! that its tests can show it failing. The rules are those of ARCHITECTURE.md.

mod arrows;
mod fence;
mod files;
mod licences;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One source file: its path from the workspace root, with forward slashes, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Checks everything; fails with the number of breaches after printing each.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = sources(root)?;
    let graph = arrows::Graph::of_workspace(root)?;
    let mut breaches = Vec::new();
    breaches.extend(arrows::check(&graph));
    breaches.extend(arrows::check_features(&sources));
    breaches.extend(fence::check(&sources));
    breaches.extend(files::check(&sources));
    breaches.extend(licences::check(&licences::packages(root)?));
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    if !breaches.is_empty() {
        bail!("{} breaches of the house rules", breaches.len());
    }
    println!("tidy: {} files, {} crates in order", sources.len(), graph.crates.len());
    Ok(())
}

/// All Rust sources that git tracks or would track, generated and build output apart.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path: PathBuf = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "corpus" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text =
                    std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let relative = path.strip_prefix(root).expect("found below the root");
                found.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
