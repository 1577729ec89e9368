//! What the tests share: qemu-img as the oracle, random numbers, a folder.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Disk, Format, OpenOptions};

/// A small deterministic generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let seed = self.next() as u8;
        (0..count).map(|n| (n as u8).wrapping_mul(31) ^ seed | 1).collect()
    }
}

/// A folder that goes with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a temporary directory");
        path
    }
}

/// Whether qemu-img is here; says so where it is not.
pub(crate) fn has_qemu_img() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        println!("skipped: no qemu-img to compare with (apt install qemu-utils)");
    }
    found
}

/// Runs qemu-img, which must succeed.
pub(crate) fn qemu_img(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let mut command = Command::new("qemu-img");
    command.args(arguments.iter().map(|one| one.as_ref()));
    let output = command.output().expect("it was found before");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {said}{error}", output.status);
    said
}

/// qemu-img finds neither errors nor leaks.
pub(crate) fn assert_clean(image: &Path) {
    qemu_img(&[&"check", &"-f", &"qcow2", &image]);
}

/// qemu-img finds no errors; leaks may be.
pub(crate) fn assert_no_corruption(image: &Path) {
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(image).output();
    let output = output.expect("it was found before");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
}

/// qemu-img reads these bytes from an image.
pub(crate) fn assert_same(folder: &Folder, image: &Path, format: &str, bytes: &[u8]) {
    let raw = folder.file("expected.raw", bytes);
    qemu_img(&[&"compare", &"-f", &format, &"-F", &"raw", &image, &raw]);
}

pub(crate) fn options(format: Option<Format>, read_only: bool) -> OpenOptions {
    OpenOptions { format, read_only, ..OpenOptions::default() }
}

pub(crate) fn open(path: &Path) -> Disk {
    Disk::open(path, &OpenOptions::default()).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub(crate) fn open_read_only(path: &Path) -> Disk {
    Disk::open(path, &options(None, true)).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// Why an image cannot be opened, all of it.
pub(crate) fn refusal(path: &Path, options: &OpenOptions) -> String {
    chain(&Disk::open(path, options).expect_err("it must not open"))
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

pub(crate) fn contents(disk: &Disk) -> Vec<u8> {
    let mut all = vec![0; disk.capacity() as usize];
    disk.read_at(0, &mut all).unwrap_or_else(|error| panic!("{}", chain(&error)));
    all
}
