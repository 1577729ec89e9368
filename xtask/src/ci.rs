//! `cargo xtask ci` and `cargo xtask test`: everything that must hold, in one command each.

use std::path::Path;

use anyhow::Result;

use crate::cargo::{build_roof, cargo, run};
use crate::suite::{boot, nested};
use crate::tidy;

/// Format, lints, house rules.
pub(crate) fn checks(root: &Path) -> Result<()> {
    let cargo = cargo();
    run(root, &cargo, &["fmt", "--all", "--check"])?;
    run(
        root,
        &cargo,
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    )?;
    tidy::run(root)
}

/// Unit and integration tests, then whole boots.
pub(crate) fn tests(root: &Path) -> Result<()> {
    run(root, &cargo(), &["test", "--workspace"])?;
    let roof = build_roof(root)?;
    boot::suite(root, &roof, None)?;
    nested::suite(root, &roof, None)
}
