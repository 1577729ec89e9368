//! Host signals raised by translated instructions (SIGFPE, SIGSEGV, SIGBUS), and the one by which
//! other threads get a vCPU out of translated code.
//!
//! Divide errors, unmasked floating-point exceptions and misaligned vector operands reach us as
//! signals. The handler only notes where, and continues at the shared `trap` code, which leaves
//! the block; the interpreter then executes that instruction and raises what the guest should see.
//! A SIGSEGV can also be a page that its window does not show yet: `fault` asks for it first. Or the look-up of a
//! window met an address that is not canonical: then it is given what leads nowhere, and its access faults.
//! Signals from anywhere else go to whoever handled them before.
//!
//! A kick takes so much off the budget that the next poll leaves: in R9 if translated or shared
//! code runs, and in the state page, where R9 comes from after a call out of such code. One of the
//! two counts, whatever the moment; what is taken off is given back by whoever reads the budget
//! ([`was_kicked`]).
//!
//! Invariant: while translated code runs, RSP is the guest's, so the thread has an alternate stack
//! (SS_AUTODISARM: a guest RSP may look like lying in it) and all other signals are blocked. R9 is
//! the budget in all translated code; in shared code it is, or nobody needs it.

use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

use super::layout::WINDOWS_MIDDLE;
use super::state::NativeState;
use super::windows::entry;

/// Where a vCPU's code lies, and what its signals lead to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guards {
    /// Where the code that all blocks share begins.
    pub(crate) shared: u64,
    /// Where blocks begin.
    pub(crate) blocks: u64,
    /// Where they end.
    pub(crate) end: u64,
    /// Code that leaves for the interpreter.
    pub(crate) trap: u64,
    /// Code that asks for the memory that could not be accessed.
    pub(crate) fault: u64,
}

/// What the handlers must know of the thread's vCPU.
#[derive(Clone, Copy)]
struct Range {
    guards: Guards,
    state: *mut NativeState,
}

/// What a kick takes off the budget: more than any budget, and no more than bits below 48 hold, by
/// whose sign translated code knows (`translate::quiet`).
pub(crate) const KICKED: i64 = 1 << 46;

/// Whether a kick came since this budget was given.
#[inline]
pub(crate) fn was_kicked(budget: i64) -> bool {
    budget < -(KICKED / 2)
}

thread_local! {
    static RANGE: Cell<Option<Range>> = const { Cell::new(None) };
    static READY: Cell<bool> = const { Cell::new(false) };
}

const SIGNALS: [i32; 3] = [libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS];
const ALTERNATE_STACK: usize = 64 << 10;
/// Not in libc's bindings for every target.
const SS_AUTODISARM: i32 = 1 << 31;

static PREVIOUS: OnceLock<[libc::sigaction; 3]> = OnceLock::new();

/// While this lives, signals raised by blocks on this thread leave the block.
pub(crate) struct Guarded {
    before: Option<Range>,
}

impl Guarded {
    /// Guards this thread's translated code.
    pub(crate) fn new(guards: Guards, state: &mut NativeState) -> Self {
        if !READY.get() {
            prepare_thread();
            READY.set(true);
        }
        Self { before: RANGE.replace(Some(Range { guards, state })) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        RANGE.set(self.before);
    }
}

/// Installs the handlers once for the process.
pub(crate) fn install() {
    PREVIOUS.get_or_init(|| {
        install_kick();
        SIGNALS.map(|signal| {
            // SAFETY: zeroed `sigaction`s are valid; the handler is async-signal-safe: it reads a
            // thread-local without destructor and writes the context it is given.
            unsafe {
                let mut previous: libc::sigaction = std::mem::zeroed();
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&mut action.sa_mask);
                // A kick waits until the handler has returned: R9 is the budget again then.
                libc::sigaddset(&mut action.sa_mask, kick_signal());
                libc::sigaction(signal, &action, &mut previous);
                previous
            }
        })
    });
}

/// The third real-time signal: the first is the C library's favourite for users, the second the
/// KVM engine's.
fn kick_signal() -> i32 {
    libc::SIGRTMIN() + 2
}

fn install_kick() {
    // SAFETY: a zeroed `sigaction` is valid; the handler is async-signal-safe, as is the others'.
    // SA_RESTART keeps a late kick from ending system calls.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = kicked as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(kick_signal(), &action, ptr::null_mut())
    };
    assert_eq!(result, 0, "sigaction of a real-time signal cannot fail");
}

/// Names this thread to [`kick`].
pub(crate) fn this_thread() -> i32 {
    // SAFETY: gettid has no precondition.
    unsafe { libc::gettid() }
}

/// Makes a thread of this process leave translated code at its next poll.
pub(crate) fn kick(thread: i32) {
    // SAFETY: plain numbers. Should the thread have ended, nobody gets the signal or somebody whose
    // handler finds no vCPU.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
}

unsafe extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(range) = RANGE.get() else { return };
    // SAFETY: the kernel passes a valid context to SA_SIGINFO handlers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let pc = registers[libc::REG_RIP as usize] as u64;
    let take_off = |budget: i64| if was_kicked(budget) { budget } else { budget - KICKED };
    // SAFETY: `Guarded` keeps the state alive, and its thread is interrupted here.
    unsafe {
        let budget = &raw mut (*range.state).budget;
        budget.write_volatile(take_off(budget.read_volatile()));
    }
    if (range.guards.shared..range.guards.end).contains(&pc) {
        let r9 = &mut registers[libc::REG_R9 as usize];
        *r9 = take_off(*r9);
    }
}

/// Gives the thread an alternate stack and blocks what could interrupt translated code otherwise.
fn prepare_thread() {
    // The stack lives as long as the thread may run translated code: for good.
    let stack = Box::leak(vec![0u8; ALTERNATE_STACK].into_boxed_slice());
    // SAFETY: the stack is ours and never freed; masks are local values.
    unsafe {
        let stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: SS_AUTODISARM,
            ss_size: ALTERNATE_STACK,
        };
        libc::sigaltstack(&stack, ptr::null_mut());
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut mask);
        let own = [kick_signal(), libc::SIGILL, libc::SIGTRAP, libc::SIGABRT];
        for signal in SIGNALS.into_iter().chain(own) {
            libc::sigdelset(&mut mask, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &mask, ptr::null_mut());
    }
}

unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context to SA_SIGINFO handlers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let pc = registers[libc::REG_RIP as usize] as u64;
    if let Some(range) = RANGE.get()
        && (range.guards.blocks..range.guards.end).contains(&pc)
    {
        if signal == libc::SIGSEGV && looks_up(pc, range.guards.end) {
            let r11 = &mut registers[libc::REG_R11 as usize];
            // SAFETY: `Guarded` keeps the state alive.
            let nowhere = unsafe { (*range.state).nowhere };
            *r11 = entry(*r11 as u16, nowhere) as i64;
            registers[libc::REG_RIP as usize] = (pc + LOOK_UP.len() as u64 + 4) as i64;
            return;
        }
        // SAFETY: `Guarded` keeps the state alive, and its thread is interrupted here.
        unsafe {
            (*range.state).trap_pc = pc;
            (*range.state).trap_flags = registers[libc::REG_EFL as usize] as u64;
            (*range.state).trap_address = (*info).si_addr() as u64;
        }
        let Guards { fault, trap, .. } = range.guards;
        let to = if signal == libc::SIGSEGV { fault } else { trap };
        registers[libc::REG_RIP as usize] = to as i64;
        return;
    }
    pass_on(signal, info, context);
}

/// MOV R11, GS:[R11D * 8 + disp32].
const LOOK_UP: [u8; 6] = [0x65, 0x67, 0x4e, 0x8b, 0x1c, 0xdd];

/// Whether the instruction at a place in translated code looks up a window (`translate::window`).
fn looks_up(pc: u64, end: u64) -> bool {
    let length = LOOK_UP.len() + 4;
    if end - pc < length as u64 {
        return false;
    }
    // SAFETY: so many bytes of code lie there, which this thread was running.
    let bytes = unsafe { std::slice::from_raw_parts(pc as *const u8, length) };
    let (code, disp) = bytes.split_at(LOOK_UP.len());
    code == LOOK_UP && disp == (WINDOWS_MIDDLE as i32).to_le_bytes()
}

/// Lets the previous handler have it; the default is to die of it.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let index = SIGNALS.iter().position(|&other| other == signal).unwrap_or(0);
    let Some(previous) = PREVIOUS.get().map(|all| all[index]) else { return };
    // SAFETY: calls or restores what was installed before us, with what we were given.
    unsafe {
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // Returning runs the instruction again, now without us.
                libc::sigaction(signal, &previous, ptr::null_mut());
            }
            action if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let action: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(action);
                action(signal, info, context);
            }
            action => {
                let action: extern "C" fn(i32) = std::mem::transmute(action);
                action(signal);
            }
        }
    }
}
