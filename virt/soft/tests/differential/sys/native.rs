//! The host's side: a forked child that runs cases through its own signal frame.
//!
//! Every case ends in an exception, if only that of the INT3 after its code. The handler then stores
//! the interrupted registers as that case's outcome, writes the next case's registers into the same
//! frame and returns: the kernel loads them, all at once. So there is no code of ours around an
//! instruction, and faults need no special care.
//!
//! Invariant: the child does nothing between fork and _exit but memory copies and system calls.

use std::ptr::{self, addr_of_mut};

use crate::case::{
    CODE, CODE_SIZE, Case, DONE, IMAGE_SIZE, Machine, Outcome, START, WINDOW, WINDOW_SIZE,
};

/// Cases per child.
pub(crate) const BATCH: usize = 256;
const PAGE: usize = 4096;
const STACK: usize = 256 << 10;
/// The kernel's marker of an extended frame, at this offset.
const MAGIC: u32 = 0x4650_5853;
const MAGIC_OFFSET: usize = 464;
/// Flags a signal frame carries in both directions that cases set.
const FLAGS: u64 = 0xcd5;
const AC: u64 = 1 << 18;

#[repr(C)]
struct Slot {
    before: Machine,
    code: [u8; CODE_SIZE],
    length: usize,
    bitness: u32,
    outcome: Outcome,
}

#[repr(C)]
struct Shared {
    /// The case that runs; `usize::MAX` before the first.
    current: usize,
    count: usize,
    slots: [Slot; BATCH],
}

/// The child's view; set before fork, read by the handler.
static mut SHARED: *mut Shared = ptr::null_mut();
/// Writable alias of the code page.
static mut CODE_ALIAS: *mut u8 = ptr::null_mut();

/// Runs up to [`BATCH`] cases on the host.
pub(crate) fn run(cases: &[Case]) -> Vec<Outcome> {
    assert!(cases.len() <= BATCH);
    // One child at a time: the fixed addresses and the two statics are the process's.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let shared = Mapping::anonymous(size_of::<Shared>());
    let code = CodePage::new();
    let header: *mut Shared = shared.at.cast();
    // SAFETY: the mapping is large enough, zeroed (valid for every field), and ours alone.
    let view = unsafe { &mut *header };
    view.current = usize::MAX;
    view.count = cases.len();
    for (slot, case) in view.slots.iter_mut().zip(cases) {
        slot.before.clone_from(&case.before);
        slot.code[..case.code.len()].copy_from_slice(&case.code);
        slot.length = case.code.len();
        slot.bitness = case.bitness;
    }
    // SAFETY: the lock is held, so nobody else writes these; the child inherits the values.
    unsafe {
        SHARED = header;
        CODE_ALIAS = code.alias.at;
    }
    let status = spawn_and_wait();
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "the child ended with status {status:#x} in seed {:?}",
        cases.get(view.current).map(|case| case.seed),
    );
    view.slots[..cases.len()].iter().map(|slot| slot.outcome.clone()).collect()
}

fn spawn_and_wait() -> i32 {
    // SAFETY: the child only copies memory and makes system calls until _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: this is the child.
        unsafe { become_guest() };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child, "waitpid: {}", std::io::Error::last_os_error());
    status
}

/// Sets up handlers and raises the first trap.
///
/// # Safety
/// Only in a forked child with SHARED and CODE_ALIAS set.
unsafe fn become_guest() -> ! {
    static mut ALTERNATE: [u8; STACK] = [0; STACK];
    // SAFETY: plain system calls on memory that lives for ever.
    unsafe {
        libc::alarm(60);
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &limit);
        let stack =
            libc::stack_t { ss_sp: addr_of_mut!(ALTERNATE).cast(), ss_flags: 0, ss_size: STACK };
        libc::sigaltstack(&stack, ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
        map_window();
        // 32-bit code needs flat data segments.
        core::arch::asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) 0x2b);
        core::arch::asm!("int3");
        libc::_exit(1);
    }
}

/// Maps the data window where nothing else is, with nothing around it.
///
/// # Safety
/// Only in the child.
unsafe fn map_window() {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
    );
    // SAFETY: NOREPLACE keeps what is mapped.
    let at = unsafe { libc::mmap(WINDOW as *mut _, WINDOW_SIZE, protection, flags, -1, 0) };
    if at as u64 != WINDOW {
        // SAFETY: always fine.
        unsafe { libc::_exit(2) };
    }
}

/// Any exception of the code under test.
extern "C" fn trapped(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: runs in the child only, on the alternate stack, with the kernel's frame; SHARED is
    // set. AC is cleared first because a case may have set it and Rust accesses may be misaligned; ID and NT
    // because the kernel leaves them as they are for the next case.
    unsafe {
        core::arch::asm!("pushfq", "and dword ptr [rsp], 0xffdbbfff", "popfq");
        let shared = &mut *SHARED;
        if let Some(slot) = shared.slots.get_mut(shared.current) {
            record(&mut *context, slot);
        }
        shared.current = shared.current.wrapping_add(1);
        if shared.current >= shared.count {
            libc::_exit(0);
        }
        install(&mut *context, &shared.slots[shared.current]);
    }
}

/// Signal frame slots of RAX, RCX, RDX ... R15.
const ORDER: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// # Safety
/// `context` is a live signal frame.
unsafe fn record(context: &mut libc::ucontext_t, slot: &mut Slot) {
    let registers = &context.uc_mcontext.gregs;
    let outcome = &mut slot.outcome;
    for (value, place) in outcome.after.gpr.iter_mut().zip(ORDER) {
        *value = registers[place as usize] as u64;
    }
    outcome.after.rflags = registers[libc::REG_EFL as usize] as u64;
    outcome.after.rip = registers[libc::REG_RIP as usize] as u64;
    outcome.vector = registers[libc::REG_TRAPNO as usize] as u64;
    outcome.error_code = registers[libc::REG_ERR as usize] as u64;
    outcome.address = if outcome.vector == 14 { registers[22] as u64 } else { 0 };
    if outcome.vector == DONE {
        outcome.after.rip = outcome.after.rip.wrapping_sub(1);
    }
    // SAFETY: the frame's FPU area holds at least the legacy and AVX parts (checked by MAGIC when
    // installing); the window is mapped.
    unsafe {
        let frame: *const u8 = context.uc_mcontext.fpregs.cast();
        ptr::copy_nonoverlapping(frame, outcome.after.image.as_mut_ptr(), IMAGE_SIZE);
        let window = outcome.after.window.as_mut_ptr();
        ptr::copy_nonoverlapping(WINDOW as *const u8, window, WINDOW_SIZE);
    }
    let present = outcome.after.image[512];
    if present & 2 == 0 {
        outcome.after.image[160..416].fill(0);
    }
    if present & 4 == 0 {
        outcome.after.image[576..832].fill(0);
    }
}

/// # Safety
/// `context` is a live signal frame, the window is mapped and CODE_ALIAS set.
unsafe fn install(context: &mut libc::ucontext_t, slot: &Slot) {
    let registers = &mut context.uc_mcontext.gregs;
    for (value, place) in slot.before.gpr.iter().zip(ORDER) {
        registers[place as usize] = *value as i64;
    }
    let flags = registers[libc::REG_EFL as usize] as u64;
    registers[libc::REG_EFL as usize] = (flags & !(FLAGS | AC) | slot.before.rflags & FLAGS) as i64;
    registers[libc::REG_RIP as usize] = slot.before.rip as i64;
    let selector: i64 = if slot.bitness == 64 { 0x33 } else { 0x23 };
    let selectors = &mut registers[libc::REG_CSGSFS as usize];
    *selectors = *selectors & !0xffff & 0x0000_ffff_ffff_ffff | selector | 0x2b << 48;
    // SAFETY: as the function's contract says; every copy stays within its areas.
    unsafe {
        let frame: *mut u8 = context.uc_mcontext.fpregs.cast();
        if frame.add(MAGIC_OFFSET).cast::<u32>().read_unaligned() != MAGIC {
            libc::_exit(3);
        }
        let image = slot.before.image.as_ptr();
        ptr::copy_nonoverlapping(image, frame, 416);
        ptr::copy_nonoverlapping(image.add(576), frame.add(576), 256);
        let present = frame.add(512).cast::<u64>();
        present.write_unaligned(present.read_unaligned() | 7);
        ptr::copy_nonoverlapping(slot.before.window.as_ptr(), WINDOW as *mut u8, WINDOW_SIZE);
        ptr::write_bytes(CODE_ALIAS, 0xcc, PAGE);
        ptr::copy_nonoverlapping(slot.code.as_ptr(), CODE_ALIAS.add(START), slot.length);
    }
}

/// A mapping that is undone when dropped.
struct Mapping {
    at: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(at: u64, length: usize, protection: i32, flags: i32, file: i32) -> Self {
        // SAFETY: a new mapping; with an address, NOREPLACE is among the flags.
        let got = unsafe { libc::mmap(at as *mut _, length, protection, flags, file, 0) };
        assert_ne!(got, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { at: got.cast(), length }
    }

    fn anonymous(length: usize) -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        Self::new(0, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and no reference into it outlives the owner.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// The code page: executable where cases expect it, writable elsewhere.
struct CodePage {
    alias: Mapping,
    _code: Mapping,
}

impl CodePage {
    fn new() -> Self {
        // SAFETY: the name is NUL-terminated; the descriptor is closed below.
        let file = unsafe { libc::memfd_create(c"cases".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: our descriptor.
        assert_eq!(unsafe { libc::ftruncate(file, PAGE as i64) }, 0);
        let (shared, write) = (libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE);
        let alias = Mapping::new(0, PAGE, write, shared, file);
        let fixed = shared | libc::MAP_FIXED_NOREPLACE;
        let code = Mapping::new(CODE, PAGE, libc::PROT_READ | libc::PROT_EXEC, fixed, file);
        // SAFETY: our descriptor; the mappings keep the memory.
        unsafe { libc::close(file) };
        Self { alias, _code: code }
    }
}
