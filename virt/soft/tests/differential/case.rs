//! One case and one outcome, as the parent, the native child and the interpreter share them.

use iced_x86::Instruction;

/// Where code lies; below 4 GiB so that 32-bit code reaches it too.
pub(crate) const CODE: u64 = 0x1000_0000;
/// Offset of the first instruction in the code page; the rest is INT3.
pub(crate) const START: usize = 0x400;
/// Where data lies: two pages with nothing mapped around them.
pub(crate) const WINDOW: u64 = 0x2000_0000;
/// Bytes of data.
pub(crate) const WINDOW_SIZE: usize = 8192;
/// Bytes of the XSAVE image that matter.
pub(crate) const IMAGE_SIZE: usize = 832;
/// Most code bytes.
pub(crate) const CODE_SIZE: usize = 64;

/// Registers and memory.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Machine {
    pub(crate) image: [u8; IMAGE_SIZE],
    pub(crate) gpr: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    pub(crate) window: [u8; WINDOW_SIZE],
}

/// What to run.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) bitness: u32,
    pub(crate) instructions: Vec<Instruction>,
    /// Where each of them begins.
    pub(crate) starts: Vec<u64>,
    pub(crate) code: Vec<u8>,
    pub(crate) before: Machine,
    /// Bytes of the window that hold what the two sides cannot share (x87 pointers).
    pub(crate) ignored: Vec<std::ops::Range<usize>>,
}

/// How it ended.
#[derive(Clone)]
#[repr(C)]
pub(crate) struct Outcome {
    pub(crate) after: Machine,
    /// Exception vector; 3 is the INT3 after the code, that is, none.
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    /// Linear address of a page fault.
    pub(crate) address: u64,
}

/// The vector of the INT3 that ends every case.
pub(crate) const DONE: u64 = 3;
