//! Builds guest/init as one static binary, which the library embeds.
//!
//! Cargo has no stable way to depend on another package's binary for another configuration, so a
//! second cargo builds it, into a target directory of its own below OUT_DIR (no lock is shared).
//! Invariant: the outer build's flags, wrappers and target choices do not reach the inner one.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the outer cargo, clippy or a coverage tool sets for crates of this workspace.
const NOT_FOR_INIT: &[&str] = &[
    "RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_INCREMENTAL",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "LLVM_PROFILE_FILE",
    "__CARGO_DEFAULT_LIB_METADATA",
];

const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

fn main() {
    let path =
        |name| PathBuf::from(std::env::var_os(name).expect("cargo sets it for build scripts"));
    let workspace = path("CARGO_MANIFEST_DIR").join("../..");
    let out = path("OUT_DIR");
    for watched in ["guest/init", "guest/protocol", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let built = build_init(&path("CARGO"), &workspace, &out.join("init"));
    let to = out.join("oneroof-init");
    if let Err(error) = std::fs::copy(&built, &to) {
        panic!("cannot copy {} to {}: {error}", built.display(), to.display());
    }
}

fn build_init(cargo: &Path, workspace: &Path, target_dir: &Path) -> PathBuf {
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "oneroof-init",
        "--target",
        TARGET,
    ]);
    command.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    command.arg("--target-dir").arg(target_dir);
    for name in NOT_FOR_INIT {
        command.env_remove(name);
    }
    let flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    command.envs(PROFILE.iter().copied());
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "cannot build guest/init with {cargo:?}: {status:?}; a static C library (libc6-dev) and the target {TARGET} are needed"
    );
    target_dir.join(TARGET).join("release/oneroof-init")
}
