//! The project's own chores: `cargo xtask {ci, tidy, test, bench, kut}`.
#![forbid(unsafe_code)]

mod tidy;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks the house rules: arrows, unsafe fence, file heads, licences
    Tidy,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let root = workspace_root();
    match arguments.chore {
        Chore::Tidy => tidy::run(&root),
    }
}

/// The folder of the workspace's Cargo.toml.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}
