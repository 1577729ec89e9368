//! What the tests of the binary share: an empty world to run it in, and tiny kernels.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An empty world: no kernel anywhere, no cache, no network.
pub(crate) struct World {
    root: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a temporary directory");
        path
    }

    /// A program in this world.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root());
        command.env("ONEROOF_CACHE", self.path("cache")).env("ONEROOF_ROOT", self.root());
        command.env("http_proxy", "http://127.0.0.1:9").env("https_proxy", "http://127.0.0.1:9");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn roof(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_roof"))
    }
}

/// Where tiny kernels are loaded.
const BASE: u64 = 0x100_0000;

/// A vmlinux that is linked like Linux, starts with this 64-bit code and claims this much memory.
pub(crate) fn vmlinux(code: &[u8], memory: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let mut file = vec![0; HEADERS as usize];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes()); // ET_EXEC
    put(18, &62_u16.to_le_bytes()); // EM_X86_64
    put(20, &1_u32.to_le_bytes());
    put(24, &BASE.to_le_bytes()); // e_entry, physical as Linux has it
    put(32, &64_u64.to_le_bytes()); // e_phoff
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(64, &1_u32.to_le_bytes()); // PT_LOAD
    put(68, &7_u32.to_le_bytes());
    put(72, &HEADERS.to_le_bytes());
    put(80, &(0xffff_ffff_8000_0000 + BASE).to_le_bytes());
    put(88, &BASE.to_le_bytes());
    put(96, &(code.len() as u64).to_le_bytes());
    put(104, &memory.max(code.len() as u64).to_le_bytes());
    put(112, &0x1000_u64.to_le_bytes());
    file.extend_from_slice(code);
    file
}
