//! Machine code made at run time: small functions, and memory they are written to and run from.
//!
//! Invariant: an [`Arena`] runs only what [`Function`]s were assembled to, which touch their three
//! arguments, a table of [`TABLE`] words and registers that a call may change.

use std::io::Error;
use std::ptr;

/// Words of the table that functions work on.
pub(crate) const TABLE: usize = 64;
/// Registers that steps name: RAX, RCX, RSI, R8, R10.
pub(crate) const REGISTERS: usize = 5;
/// Their numbers.
const NUMBERS: [u8; REGISTERS] = [0, 1, 6, 8, 10];
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RDI: u8 = 7;
/// Counts rounds.
const R11: u8 = 11;

/// One instruction or two; registers and words by index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Add(usize, usize),
    Subtract(usize, usize),
    ExclusiveOr(usize, usize),
    Multiply(usize, usize),
    AddConstant(usize, i32),
    Rotate(usize, u8),
    Load(usize, usize),
    Store(usize, usize),
    /// The next step only if the register is odd.
    IfOdd(usize),
}

/// `fn(first, second, table) -> RAX`: RAX and RCX are the first two, the others begin as 0. Then the
/// body so many times, then the tail.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) body: Vec<Step>,
    pub(crate) rounds: u32,
    pub(crate) tail: Vec<Step>,
}

/// Where an assembled function lies in its arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(usize);

/// How memory comes to be writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Both at once.
    Both,
    /// By turns (mprotect(2)).
    Turns,
    /// One memory in two places (memfd_create(2)).
    Twice,
}

/// Memory for machine code.
pub(crate) struct Arena {
    access: Access,
    length: usize,
    used: usize,
    writable: *mut u8,
    executable: *mut u8,
}

impl Arena {
    /// So many bytes, a multiple of the page's.
    pub(crate) fn new(access: Access, length: usize) -> Result<Self, Error> {
        let (read, write, run) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let (writable, executable) = match access {
            Access::Both => {
                let both = map(length, read | write | run, None)?;
                (both, both)
            }
            Access::Turns => {
                let both = map(length, read | write, None)?;
                (both, both)
            }
            Access::Twice => {
                let memory = rustix::fs::memfd_create(c"code", rustix::fs::MemfdFlags::CLOEXEC)?;
                rustix::fs::ftruncate(&memory, length as u64)?;
                let descriptor = std::os::fd::AsRawFd::as_raw_fd(&memory);
                let writable = map(length, read | write, Some(descriptor))?;
                (writable, map(length, read | run, Some(descriptor))?)
            }
        };
        Ok(Self { access, length, used: 0, writable, executable })
    }

    /// Appends a function, this far behind what is there; with a callee, it ends by calling that with
    /// RAX and RCX. `None`: there is no room.
    pub(crate) fn add(
        &mut self,
        function: &Function,
        callee: Option<Entry>,
        gap: usize,
    ) -> Result<Option<Entry>, Error> {
        let start = self.used + gap;
        let code = assemble(function, callee.map(|Entry(at)| at as i64 - start as i64));
        if start + code.len() > self.length {
            return Ok(None);
        }
        self.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range lies inside the mapping, which is writable now and of which nobody holds
        // a reference.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(start), code.len()) };
        self.protect(libc::PROT_READ | libc::PROT_EXEC)?;
        self.used = start + code.len();
        Ok(Some(Entry(start)))
    }

    /// Throws everything away: the next function is written where the first one was.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Calls a function that was added since `clear`.
    pub(crate) fn call(
        &self,
        Entry(at): Entry,
        first: u64,
        second: u64,
        table: &mut [u64; TABLE],
    ) -> u64 {
        type Code = unsafe extern "sysv64" fn(u64, u64, *mut u64) -> u64;
        assert!(at < self.used, "entries are older than what is used");
        // SAFETY: `add` put a function there, which follows this convention, changes nothing but
        // the table's words and returns.
        unsafe {
            let code = std::mem::transmute::<*mut u8, Code>(self.executable.add(at));
            code(first, second, table.as_mut_ptr())
        }
    }

    fn protect(&self, protection: libc::c_int) -> Result<(), Error> {
        if self.access != Access::Turns {
            return Ok(());
        }
        // SAFETY: exactly the arena's own mapping, which no reference points into.
        match unsafe { libc::mprotect(self.writable.cast(), self.length, protection) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mappings that `new` made; entries are of no use without the arena.
        unsafe {
            libc::munmap(self.writable.cast(), self.length);
            if self.access == Access::Twice {
                libc::munmap(self.executable.cast(), self.length);
            }
        }
    }
}

fn map(length: usize, protection: libc::c_int, file: Option<i32>) -> Result<*mut u8, Error> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let start =
        unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, file.unwrap_or(-1), 0) };
    if start == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(start.cast()) }
}

/// The function's code; `callee` is where that lies from the function's start.
fn assemble(function: &Function, callee: Option<i64>) -> Vec<u8> {
    let mut code = Vec::new();
    two(&mut code, 0x89, RDI, RAX);
    two(&mut code, 0x89, NUMBERS[2], RCX);
    for number in &NUMBERS[2..] {
        two(&mut code, 0x31, *number, *number);
    }
    // MOV R11D, rounds
    code.extend([0x41, 0xb8 | R11 & 7]);
    code.extend(function.rounds.to_le_bytes());
    let again = code.len();
    steps(&mut code, &function.body);
    // DEC R11D; JNZ again
    code.extend([0x41, 0xff, 0xc8 | R11 & 7, 0x0f, 0x85]);
    let distance = again as i32 - (code.len() as i32 + 4);
    code.extend(distance.to_le_bytes());
    steps(&mut code, &function.tail);
    if let Some(callee) = callee {
        two(&mut code, 0x89, RAX, RDI);
        two(&mut code, 0x89, RCX, NUMBERS[2]);
        code.push(0xe8);
        let distance = (callee - (code.len() as i64 + 4)) as i32;
        code.extend(distance.to_le_bytes());
    }
    code.push(0xc3);
    code
}

fn steps(code: &mut Vec<u8>, steps: &[Step]) {
    let mut skip = None;
    for step in steps {
        let start = code.len();
        let next = one(code, *step);
        if let Some(at) = skip.take() {
            let at: usize = at;
            code[at] = (code.len() - start) as u8;
        }
        skip = next;
    }
    // A condition at the end skips nothing: its distance is 0.
}

/// One step; for a condition the place of its jump's distance.
fn one(code: &mut Vec<u8>, step: Step) -> Option<usize> {
    let number = |index: usize| NUMBERS[index];
    match step {
        Step::Add(to, from) => two(code, 0x01, number(from), number(to)),
        Step::Subtract(to, from) => two(code, 0x29, number(from), number(to)),
        Step::ExclusiveOr(to, from) => two(code, 0x31, number(from), number(to)),
        Step::Multiply(to, from) => {
            rex(code, number(to), number(from));
            code.extend([0x0f, 0xaf, registers(number(to), number(from))]);
        }
        Step::AddConstant(to, value) => {
            rex(code, 0, number(to));
            code.extend([0x81, registers(0, number(to))]);
            code.extend(value.to_le_bytes());
        }
        Step::Rotate(to, by) => {
            rex(code, 0, number(to));
            code.extend([0xc1, registers(0, number(to)), by]);
        }
        Step::Load(to, word) => memory(code, 0x03, number(to), word),
        Step::Store(word, from) => memory(code, 0x89, number(from), word),
        Step::IfOdd(register) => {
            // TEST r32, 1; JZ
            rex(code, 0, number(register));
            code.extend([0xf7, registers(0, number(register)), 1, 0, 0, 0, 0x74, 0]);
            return Some(code.len() - 1);
        }
    }
    None
}

/// An instruction on two registers, 64 bits wide.
fn two(code: &mut Vec<u8>, opcode: u8, from: u8, to: u8) {
    rex(code, from, to);
    code.extend([opcode, registers(from, to)]);
}

/// An instruction on a register and a word of the table.
fn memory(code: &mut Vec<u8>, opcode: u8, register: u8, word: usize) {
    assert!(word < TABLE, "a word of the table");
    rex(code, register, RDX);
    code.extend([opcode, 0x80 | (register & 7) << 3 | RDX]);
    code.extend((word as u32 * 8).to_le_bytes());
}

fn rex(code: &mut Vec<u8>, reg: u8, rm: u8) {
    code.push(0x48 | (reg >> 3) << 2 | rm >> 3);
}

fn registers(reg: u8, rm: u8) -> u8 {
    0xc0 | (reg & 7) << 3 | rm & 7
}
