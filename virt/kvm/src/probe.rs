//! Whether this host's /dev/kvm is virtualization hardware.
//!
//! Some hosts' /dev/kvm runs guest kernels in software: some hundred times slower, and with
//! instructions missing (LOCK CMPXCHG16B at CPL 0 ends in KVM_EXIT_INTERNAL_ERROR). Three looks
//! tell: can /dev/kvm be had, does the processor show VMX or SVM, and does a guest of a few
//! instructions, in long mode at CPL 0, run correctly and at a processor's speed. Where the first
//! two say no, the third, which takes tens of milliseconds in software, is not taken.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use engine::{Budget, Engine, EngineError, Exit, GuestIo, Kick, VmConfig};
use memory::{GuestMemory, GuestPhys};
use x86::segment::attr;
use x86::{CpuState, Cr0, Cr4, Efer, Segment};

use crate::engine::KvmEngine;
use crate::error::KvmError;

/// Iterations of the timed loop, two instructions each.
const ITERATIONS: u32 = 20_000;
/// Hardware takes well under 1 ns per instruction of the loop, nested hardware no more; software
/// that emulates kernel code some 100 ns.
const SLOW: Duration = Duration::from_nanos(30 * 2 * ITERATIONS as u64);
/// The guest takes well below 1 ms on hardware and some 20 ms in software.
const GIVE_UP: Duration = Duration::from_secs(2);

const TABLES: u64 = 0x1000;
const CODE: u64 = 0x8000;
const DATA: u64 = 0x9000;
const RAM: u64 = 0x20_0000;
const STORED: [u64; 2] = [0x1111_1111, 0x2222_2222];

const BEGIN: u16 = 0x80;
const END: u16 = 0x81;
const DONE: u16 = 0x82;

#[rustfmt::skip]
const GUEST: &[u8] = &[
    0xbe, 0x04, 0x00, 0x00, 0x00,                               // mov esi, 4
    0xe6, 0x80,                                                 // out 0x80, al
    0xb9, 0x20, 0x4e, 0x00, 0x00,                               // mov ecx, 20000
    0xff, 0xc9,                                                 // dec ecx
    0x75, 0xfc,                                                 // jnz -4
    0xe6, 0x81,                                                 // out 0x81, al
    0xff, 0xce,                                                 // dec esi
    0x75, 0xef,                                                 // jnz -17, to the first out
    0x31, 0xc0,                                                 // xor eax, eax
    0x31, 0xd2,                                                 // xor edx, edx
    0xbb, 0x11, 0x11, 0x11, 0x11,                               // mov ebx, 0x11111111
    0xb9, 0x22, 0x22, 0x22, 0x22,                               // mov ecx, 0x22222222
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x90, 0x00, 0x00, // lock cmpxchg16b [0x9000]
    0xe6, 0x82,                                                 // out 0x82, al
    0xeb, 0xfe,                                                 // jmp $
];

/// What this host's /dev/kvm is worth.
#[derive(Debug)]
pub enum Verdict {
    /// Virtualization hardware runs guests.
    Hardware,
    /// Guest kernels are emulated in software: slow, and some fail.
    Emulated {
        /// How it shows.
        why: String,
    },
    /// No VM can be made.
    Unavailable {
        /// Why not.
        error: KvmError,
    },
}

impl Verdict {
    /// Whether the KVM engine is the right choice here.
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Hardware)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware => f.write_str("KVM runs guests on this processor's own hardware"),
            Self::Emulated { why } => write!(f, "this host's KVM is not hardware: {why}"),
            Self::Unavailable { error } => write!(f, "no KVM: {error}"),
        }
    }
}

/// Looks at this host; takes some milliseconds.
pub fn probe() -> Verdict {
    if let Err(error) = crate::host::open() {
        return Verdict::Unavailable { error };
    }
    if !shows_extensions() {
        return Verdict::Emulated { why: "the processor shows neither VMX nor SVM".into() };
    }
    let memory = match GuestMemory::new(&[(GuestPhys(0), RAM)]) {
        Ok(memory) => Arc::new(memory),
        Err(error) => {
            let source = std::io::Error::other(error);
            return Verdict::Unavailable {
                error: KvmError::Host { call: "mapping the probe's memory", source },
            };
        }
    };
    let engine = match KvmEngine::new(VmConfig { memory: memory.clone(), cpus: 1 }) {
        Ok(engine) => engine,
        Err(error) => return Verdict::Unavailable { error },
    };
    match run_guest(&engine, &memory) {
        Ok(Ok(took)) if took < SLOW => Verdict::Hardware,
        Ok(Ok(took)) => Verdict::Emulated { why: describe(took) },
        Ok(Err(why)) => Verdict::Emulated { why },
        Err(error @ EngineError::Internal { .. }) => Verdict::Emulated {
            why: format!("kernel code that every processor runs fails ({error})"),
        },
        Err(error) => Verdict::Unavailable { error: error.into() },
    }
}

fn describe(took: Duration) -> String {
    let each = took.as_nanos() / u128::from(2 * ITERATIONS);
    format!("kernel code takes {each} ns per instruction")
}

/// CPUID: VMX on Intel and kin, SVM on AMD and kin.
fn shows_extensions() -> bool {
    use core::arch::x86_64::__cpuid;
    let vmx = __cpuid(1).ecx >> 5 & 1 != 0;
    let extended = __cpuid(0x8000_0000).eax >= 0x8000_0001;
    vmx || extended && __cpuid(0x8000_0001).ecx >> 2 & 1 != 0
}

/// The loop's shortest duration (the host may take the processor away meanwhile), or what went wrong in the guest.
fn run_guest(
    engine: &KvmEngine,
    memory: &GuestMemory,
) -> Result<Result<Duration, String>, EngineError> {
    let mut state = CpuState::reset(0);
    enter_long_mode(&mut state, memory);
    memory.write_physical(GuestPhys(CODE), GUEST).expect("the guest lies in RAM");
    state.rip = CODE;
    let mut vcpu = engine.create_vcpu(0)?;
    vcpu.set_state(&state)?;

    let mut io = ProbeIo { kick: vcpu.kicker(), begun: None, took: None, done: false };
    let (finished, wait) = mpsc::channel::<()>();
    let guard = vcpu.kicker();
    let watch = threads::spawn("kvm-probe", move || {
        if wait.recv_timeout(GIVE_UP) == Err(mpsc::RecvTimeoutError::Timeout) {
            guard.kick();
        }
    });
    let watch = watch.map_err(|source| EngineError::Host { call: "pthread_create", source })?;
    let exit = vcpu.run(&mut io, Budget::Unlimited);
    drop(finished);
    watch.join().expect("the watch does not panic");
    let exit = exit?;
    let mut stored = [0; 16];
    memory.read_physical(GuestPhys(DATA), &mut stored).expect("the data lies in RAM");
    let wanted = u128::from(STORED[0]) | u128::from(STORED[1]) << 64;
    Ok(match io.took {
        Some(took) if io.done && u128::from_le_bytes(stored) == wanted => Ok(took),
        _ if io.done => Err("LOCK CMPXCHG16B in kernel mode stores something else".into()),
        _ if exit == Exit::Interrupted => Err(format!("a few instructions took {GIVE_UP:?}")),
        _ => Err(format!("the probe's guest ended with {exit:?}")),
    })
}

/// 64-bit mode at CPL 0 with the first 2 MiB mapped to themselves; the tables are written to RAM.
pub(crate) fn enter_long_mode(state: &mut CpuState, memory: &GuestMemory) {
    for (table, entry) in [
        (TABLES, (TABLES + 0x1000) | 3),
        (TABLES + 0x1000, (TABLES + 0x2000) | 3),
        (TABLES + 0x2000, 0x83),
    ] {
        let at = GuestPhys(table);
        memory.write_physical(at, &u64::to_le_bytes(entry)).expect("the tables lie in RAM");
    }
    let common = attr::PRESENT | attr::S | attr::ACCESSED | attr::WRITE_READ | attr::GRANULAR;
    let flat = Segment { base: 0, limit: u32::MAX, selector: 16, attributes: common | attr::DB };
    state.segments = [flat; 6];
    let code = common | attr::CODE | attr::LONG;
    state.segments[1] = Segment { selector: 8, attributes: code, ..flat };
    state.cr0 = (Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG).bits();
    state.cr3 = TABLES;
    state.cr4 = (Cr4::PAE | Cr4::OSFXSR).bits();
    state.msrs.efer = (Efer::LME | Efer::LMA).bits();
}

struct ProbeIo {
    kick: Arc<dyn Kick>,
    begun: Option<Instant>,
    took: Option<Duration>,
    done: bool,
}

impl GuestIo for ProbeIo {
    fn port_in(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn port_out(&mut self, port: u16, _: &[u8]) {
        match port {
            BEGIN => self.begun = Some(Instant::now()),
            END => {
                let took = self.begun.map(|begun| begun.elapsed());
                self.took = self.took.min(took).or(took);
            }
            DONE => {
                self.done = true;
                self.kick.kick();
            }
            _ => {}
        }
    }

    fn mmio_read(&mut self, _: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _: GuestPhys, _: &[u8]) {}

    fn end_of_interrupt(&mut self, _: u8) {}

    fn acknowledge_pic(&mut self) -> Option<u8> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_a_sentence() {
        let verdict = probe();
        println!("verdict: {verdict}");
        assert!(verdict.to_string().contains("KVM"));
        if let Verdict::Hardware = verdict {
            assert!(shows_extensions());
        }
    }
}
