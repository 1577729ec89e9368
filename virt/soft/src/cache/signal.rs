//! Host signals raised by translated instructions: SIGFPE, SIGSEGV, SIGBUS.
//!
//! Divide errors, unmasked floating-point exceptions and misaligned vector operands reach us as
//! signals. The handler only notes where, and continues at the shared `trap` code, which leaves
//! the block; the interpreter then executes that instruction and raises what the guest should see.
//! A SIGSEGV can also be a page that its window does not show yet: `fault` asks for it first.
//! Signals from anywhere else go to whoever handled them before.
//!
//! Invariant: while translated code runs, RSP is the guest's, so the thread has an alternate stack
//! (SS_AUTODISARM: a guest RSP may look like lying in it) and all other signals are blocked.

use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

use super::state::NativeState;

/// What the handler must know of the thread's vCPU.
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    trap: u64,
    fault: u64,
    state: *mut NativeState,
}

/// Where translated code lies, and what its signals lead to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guards {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Code that leaves for the interpreter.
    pub(crate) trap: u64,
    /// Code that asks for the memory that could not be accessed.
    pub(crate) fault: u64,
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

/// While this lives, signals raised between `start` and `end` on this thread leave the block.
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
        let Guards { start, end, trap, fault } = guards;
        Self { before: RANGE.replace(Some(Range { start, end, trap, fault, state })) }
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
        SIGNALS.map(|signal| {
            // SAFETY: zeroed `sigaction`s are valid; the handler is async-signal-safe: it reads a
            // thread-local without destructor and writes the context it is given.
            unsafe {
                let mut previous: libc::sigaction = std::mem::zeroed();
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, &mut previous);
                previous
            }
        })
    });
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
        for signal in SIGNALS.into_iter().chain([libc::SIGILL, libc::SIGTRAP, libc::SIGABRT]) {
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
        && pc >= range.start
        && pc < range.end
    {
        // SAFETY: `Guarded` keeps the state alive, and its thread is interrupted here.
        unsafe {
            (*range.state).trap_pc = pc;
            (*range.state).trap_flags = registers[libc::REG_EFL as usize] as u64;
            (*range.state).trap_address = (*info).si_addr() as u64;
        }
        let to = if signal == libc::SIGSEGV { range.fault } else { range.trap };
        registers[libc::REG_RIP as usize] = to as i64;
        return;
    }
    pass_on(signal, info, context);
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
