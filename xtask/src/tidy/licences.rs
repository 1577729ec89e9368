//! Licences of everything that is linked or built, against the list in deny.toml.

use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

/// A package and its licence expression, with the list of what is allowed.
pub(crate) struct Packages {
    pub(crate) allowed: Vec<String>,
    /// Name and SPDX expression.
    pub(crate) found: Vec<(String, Option<String>)>,
}

/// All packages of the dependency graph and the allow list of deny.toml.
pub(crate) fn packages(root: &Path) -> Result<Packages> {
    let deny = std::fs::read_to_string(root.join("deny.toml")).context("deny.toml")?;
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).exec()?;
    let found = metadata
        .packages
        .iter()
        .map(|package| (format!("{} {}", package.name, package.version), package.license.clone()))
        .collect();
    Ok(Packages { allowed: allow_list(&deny), found })
}

/// The quoted names in deny.toml's `allow = [ ... ]`.
fn allow_list(deny: &str) -> Vec<String> {
    let Some((_, rest)) = deny.split_once("\nallow = [") else { return Vec::new() };
    let list = rest.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A sentence for each package whose licence is not on the list.
pub(crate) fn check(packages: &Packages) -> Vec<String> {
    packages
        .found
        .iter()
        .filter_map(|(name, licence)| match licence {
            None => Some(format!("{name} names no licence")),
            Some(text) if satisfied(text, &packages.allowed) => None,
            Some(text) => Some(format!("{name} is under {text}, which deny.toml does not allow")),
        })
        .collect()
}

/// Whether an SPDX expression can be met: every AND part has an allowed OR alternative.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| allowed.iter().any(|name| name == licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_held_to() {
        let allowed = allow_list("x\nallow = [\n  \"MIT\",\n  \"Apache-2.0\",\n]\n");
        assert_eq!(allowed, ["MIT", "Apache-2.0"]);
        let check = |licence: Option<&str>| {
            check(&Packages {
                allowed: allowed.clone(),
                found: vec![("a 1".into(), licence.map(str::to_owned))],
            })
            .len()
        };
        assert_eq!(check(Some("MIT/GPL-2.0")), 0);
        assert_eq!(check(Some("MIT OR GPL-3.0-only")), 0);
        assert_eq!(check(Some("(MIT OR Apache-2.0) AND GPL-3.0-only")), 1);
        assert_eq!(check(Some("GPL-2.0-only")), 1);
        assert_eq!(check(None), 1);
    }
}
