//! The arrows: which room may know which. Data over `cargo metadata`, normal and build
//! dependencies alike; dev-dependencies may look anywhere but into the tools.

use std::path::Path;

use anyhow::Result;
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::Source;

/// A crate of ours and the crates of ours that it depends on, by folder.
pub(crate) struct Crate {
    pub(crate) folder: String,
    pub(crate) needs: Vec<String>,
}

/// The workspace's own dependency graph.
pub(crate) struct Graph {
    pub(crate) crates: Vec<Crate>,
}

/// Folder prefixes that a folder prefix may depend on. The first matching line decides.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base/memory", &["base/x86"]),
    ("base/", &[]),
    ("virt/engine", &["base/"]),
    ("virt/irqchip", &["base/x86"]),
    ("virt/interp", &["base/x86"]),
    ("virt/soft", &["base/", "virt/engine", "virt/irqchip", "virt/interp"]),
    ("virt/kvm", &["base/", "virt/engine", "virt/irqchip", "virt/interp"]),
    ("virt/conformance", &["base/", "virt/", "guest/payloads"]),
    ("machine/devices", &["base/"]),
    ("machine/virtio", &["base/", "machine/devices"]),
    ("machine/backends", &["base/"]),
    ("machine/firmware", &["base/"]),
    ("machine/platform", &["base/", "machine/", "virt/engine", "virt/irqchip"]),
    ("insight/", &["base/", "insight/"]),
    ("guest/init", &["guest/protocol"]),
    ("guest/", &[]),
    ("tools/control", &["base/", "virt/", "machine/", "insight/", "guest/protocol"]),
    ("tools/", &["tools/control", "base/threads"]),
    ("tests/", &["base/", "virt/", "machine/", "guest/protocol", "tools/control"]),
    ("xtask", &[]),
];

/// Crates that must stay usable from inside a kernel.
const NO_STD: &[&str] = &["base/x86", "virt/irqchip", "virt/interp"];

impl Graph {
    /// Reads the graph of the workspace at `root`.
    pub(crate) fn of_workspace(root: &Path) -> Result<Self> {
        let metadata =
            MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
        let folder = |path: &cargo_metadata::camino::Utf8Path| {
            path.strip_prefix(&metadata.workspace_root).map(|p| p.as_str().to_owned()).ok()
        };
        let crates = metadata
            .packages
            .iter()
            .filter_map(|package| {
                let own = folder(package.manifest_path.parent()?)?;
                let needs = package
                    .dependencies
                    .iter()
                    .filter(|need| need.kind != DependencyKind::Development)
                    .filter_map(|need| folder(need.path.as_ref()?))
                    .collect();
                Some(Crate { folder: own, needs })
            })
            .collect();
        Ok(Self { crates })
    }
}

/// A sentence for each arrow that goes the wrong way.
pub(crate) fn check(graph: &Graph) -> Vec<String> {
    let mut breaches = Vec::new();
    for one in &graph.crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(from, _)| one.folder.starts_with(from))
        else {
            breaches.push(format!(
                "{} is no room of the house: add it to the table of arrows with what it may know",
                one.folder
            ));
            continue;
        };
        for need in &one.needs {
            if !allowed.iter().any(|to| need.starts_with(to)) {
                breaches.push(format!(
                    "{} depends on {need}, but may only know {}",
                    one.folder,
                    if allowed.is_empty() { "nothing of ours".into() } else { allowed.join(", ") },
                ));
            }
        }
    }
    breaches
}

/// Engine choice is a matter of tools/control: no feature of that name elsewhere; and the crates
/// that a kernel can host say `no_std`.
pub(crate) fn check_features(sources: &[Source]) -> Vec<String> {
    let needle = concat!("feature = \"", "kvm\"");
    let mut breaches: Vec<String> = sources
        .iter()
        .filter(|source| !source.path.starts_with("virt/kvm/") && source.text.contains(needle))
        .map(|source| format!("{} has a cfg on the kvm feature; only virt/kvm may", source.path))
        .collect();
    for folder in NO_STD {
        let lib = format!("{folder}/src/lib.rs");
        if let Some(source) = sources.iter().find(|source| source.path == lib)
            && !source.text.contains("#![no_std]")
        {
            breaches.push(format!("{lib} must be no_std: a kernel can host this crate"));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(folder: &str, need: &str) -> Graph {
        Graph { crates: vec![Crate { folder: folder.into(), needs: vec![need.into()] }] }
    }

    #[test]
    fn arrows_that_go_back_are_named() {
        for (from, to) in [
            ("base/x86", "base/memory"),
            ("virt/interp", "virt/soft"),
            ("machine/devices", "virt/engine"),
            ("machine/platform", "virt/soft"),
            ("insight/view", "machine/platform"),
            ("tools/cli", "machine/platform"),
            ("guest/init", "tools/control"),
            ("cellar/wine", "base/x86"),
        ] {
            let breaches = check(&graph(from, to));
            assert_eq!(breaches.len(), 1, "{from} -> {to}");
            assert!(breaches[0].contains(from), "{}", breaches[0]);
        }
    }

    #[test]
    fn arrows_that_go_down_pass() {
        for (from, to) in [
            ("virt/soft", "virt/interp"),
            ("machine/platform", "machine/devices"),
            ("tools/control", "virt/kvm"),
            ("tools/cli", "tools/control"),
        ] {
            assert!(check(&graph(from, to)).is_empty(), "{from} -> {to}");
        }
    }

    #[test]
    fn features_and_no_std_are_seen() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let feature = concat!("#[cfg(feature = \"", "kvm\")]");
        assert_eq!(check_features(&[source("machine/platform/src/a.rs", feature)]).len(), 1);
        assert!(check_features(&[source("virt/kvm/src/a.rs", feature)]).is_empty());
        assert_eq!(check_features(&[source("base/x86/src/lib.rs", "//! x")]).len(), 1);
    }
}
