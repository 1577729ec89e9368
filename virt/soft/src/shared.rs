//! What vCPU threads, devices and the machine share: local APICs, mailboxes, routing.
//!
//! A vCPU looks at one atomic word between blocks. Whoever wants something of it sets a bit there
//! after putting the details where they belong, and wakes it if it sleeps. Invariant: no two
//! local APICs are locked at once.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use engine::{Capabilities, MsiMessage, VirtualTime};
use irqchip::{Accepted, Identity, Ipi, Lapic, Lint, Msi, Now};
use memory::GuestMemory;
use x86::cpuid::CpuidEntry;

use crate::clock::Clock;
use crate::cross::Presence;
use crate::engine::{Execution, SoftOptions};
use crate::vcpu::superblock::Pace;

/// Bound on a vCPU's translated code, unless another is asked for.
const CODE_BYTES: usize = 64 << 20;

/// Reasons to look up between blocks.
pub(crate) mod attention {
    /// The local APIC may have something deliverable.
    pub(crate) const INTERRUPT: u32 = 1 << 0;
    /// Another thread wants `run` to return.
    pub(crate) const KICK: u32 = 1 << 1;
    /// An NMI.
    pub(crate) const NMI: u32 = 1 << 2;
    /// INIT.
    pub(crate) const INIT: u32 = 1 << 3;
    /// A start-up IPI; its vector is in `sipi_vector`.
    pub(crate) const SIPI: u32 = 1 << 4;
    /// Others changed code or decoded it: see `cross`.
    pub(crate) const CODE: u32 = 1 << 5;
}

/// One vCPU as others see it.
pub(crate) struct VcpuShared {
    pub(crate) index: u32,
    pub(crate) attention: AtomicU32,
    pub(crate) sipi_vector: AtomicU8,
    /// NMIs that came: one can be served and one more wait, others merge with it.
    pub(crate) nmis: AtomicU8,
    /// Guest TSC - host TSC, for readers of the local APIC's timer.
    pub(crate) tsc_offset: AtomicU64,
    /// A KVM kick came: the present HLT ends, or the next one does.
    pub(crate) unhalted: AtomicBool,
    lapic: Mutex<Lapic>,
    pub(crate) presence: Presence,
    asleep: Mutex<bool>,
    wake: Condvar,
}

impl VcpuShared {
    fn new(index: u32, pages: u64) -> Self {
        Self {
            index,
            attention: AtomicU32::new(0),
            sipi_vector: AtomicU8::new(0),
            nmis: AtomicU8::new(0),
            tsc_offset: AtomicU64::new(0),
            unhalted: AtomicBool::new(false),
            lapic: Mutex::new(Lapic::new(index)),
            presence: Presence::new(pages),
            asleep: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    pub(crate) fn lapic(&self) -> MutexGuard<'_, Lapic> {
        self.lapic.lock().expect("models never panic")
    }

    /// Sets attention bits, and makes translated code leave for them.
    pub(crate) fn notify_awake(&self, bits: u32) {
        let before = self.attention.fetch_or(bits, Ordering::SeqCst);
        if before & bits != bits {
            self.presence.interrupt();
        }
    }

    /// Likewise, and ends a sleep.
    pub(crate) fn notify(&self, bits: u32) {
        self.notify_awake(bits);
        if *self.asleep.lock().expect("no holder panics") {
            self.wake.notify_one();
        }
    }

    /// Sends an NMI.
    pub(crate) fn notify_nmi(&self) {
        // Two that race are still two.
        let another = |count: u8| (count < 2).then_some(count + 1);
        let _ = self.nmis.fetch_update(Ordering::AcqRel, Ordering::Relaxed, another);
        self.notify(attention::NMI);
    }

    /// Sleeps until a bit is set or the time is over.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) {
        let mut asleep = self.asleep.lock().expect("no holder panics");
        if self.attention.load(Ordering::Acquire) != 0 {
            return;
        }
        *asleep = true;
        let mut asleep = match at_most {
            Some(time) => self.wake.wait_timeout(asleep, time).expect("no holder panics").0,
            None => self.wake.wait(asleep).expect("no holder panics"),
        };
        *asleep = false;
    }

    fn react(&self, accepted: Accepted) {
        match accepted {
            Accepted::Nothing => {}
            Accepted::Wake | Accepted::ExtInt => self.notify(attention::INTERRUPT),
            Accepted::Nmi => self.notify_nmi(),
            Accepted::Init => self.notify(attention::INIT),
            Accepted::Sipi(vector) => {
                self.sipi_vector.store(vector, Ordering::Release);
                self.notify(attention::SIPI);
            }
        }
    }
}

/// One VM on the software engine.
pub(crate) struct Shared {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) clock: Clock,
    pub(crate) cpuid: Vec<CpuidEntry>,
    pub(crate) execution: Execution,
    /// Bound on each vCPU's translated code.
    pub(crate) code_bytes: usize,
    pub(crate) pace: Pace,
    pub(crate) capabilities: Capabilities,
    pub(crate) vcpus: Vec<Arc<VcpuShared>>,
    /// Level of the 8259 pair's output.
    pub(crate) pic_output: AtomicBool,
    /// Held for locked operations that no single host instruction can do.
    pub(crate) split_lock: Mutex<()>,
    /// Held while a page's bit in `memory.code()` changes: see `cross`.
    pub(crate) code_changes: Mutex<()>,
    /// vCPUs that only another processor or the outside can wake.
    dead_halted: AtomicU32,
    /// The time, where instructions make it.
    pub(crate) virtual_time: Option<Arc<VirtualTime>>,
}

impl Shared {
    pub(crate) fn new(
        memory: Arc<GuestMemory>,
        cpuid: Vec<CpuidEntry>,
        cpus: u32,
        options: &SoftOptions,
    ) -> Self {
        let virtual_time = options.virtual_time.clone();
        let clock = Clock::of(virtual_time.is_some());
        let pages = memory.size() >> 12;
        Self {
            execution: options.execution,
            code_bytes: options.code_bytes.unwrap_or(CODE_BYTES),
            pace: if options.hurried { Pace::HURRIED } else { Pace::USUAL },
            memory,
            clock,
            cpuid,
            capabilities: Capabilities {
                name: "soft",
                tsc_khz: clock.khz(),
                instruction_budget: true,
            },
            vcpus: (0..cpus).map(|index| Arc::new(VcpuShared::new(index, pages))).collect(),
            pic_output: AtomicBool::new(false),
            split_lock: Mutex::new(()),
            code_changes: Mutex::new(()),
            dead_halted: AtomicU32::new(0),
            virtual_time,
        }
    }

    /// The time for a vCPU's local APIC when the TSC without its offset shows `tsc`.
    pub(crate) fn at(&self, vcpu: &VcpuShared, tsc: u64) -> Now {
        Now {
            ns: self.clock.ns_at(tsc),
            tsc: tsc.wrapping_add(vcpu.tsc_offset.load(Ordering::Relaxed)),
        }
    }

    /// Delivers an interrupt message; `source` is the sending vCPU, `None` for devices.
    pub(crate) fn deliver(&self, source: Option<usize>, ipi: Ipi) {
        let identities: Vec<Identity> =
            self.vcpus.iter().map(|vcpu| vcpu.lapic().identity()).collect();
        for index in ipi.targets(source, identities.iter().copied()) {
            let accepted = self.vcpus[index].lapic().accept(&ipi);
            self.vcpus[index].react(accepted);
        }
    }

    pub(crate) fn deliver_msi(&self, message: MsiMessage) {
        self.deliver(None, Msi { address: message.address, data: message.data }.decode());
    }

    /// Drives LINT0 of vCPU 0 with the 8259 pair's output.
    pub(crate) fn set_pic_output(&self, high: bool) {
        self.pic_output.store(high, Ordering::Release);
        let accepted = self.vcpus[0].lapic().set_lint(Lint::Lint0, high);
        self.vcpus[0].react(accepted);
    }

    /// Counts a vCPU that waits with interrupts off or for a start-up IPI; true if now all do, so
    /// that nothing inside the guest can ever happen again (the count is then taken back).
    pub(crate) fn enter_dead_halt(&self) -> bool {
        let asleep = self.dead_halted.fetch_add(1, Ordering::AcqRel) + 1;
        // A message on its way to a sleeper means that something still happens, unless it is about
        // code, which wakes nobody.
        let busy =
            |vcpu: &Arc<VcpuShared>| vcpu.attention.load(Ordering::Acquire) & !attention::CODE != 0;
        let all = asleep == self.vcpus.len() as u32 && !self.vcpus.iter().any(busy);
        if all {
            self.leave_dead_halt();
        }
        all
    }

    /// The vCPU no longer waits.
    pub(crate) fn leave_dead_halt(&self) {
        self.dead_halted.fetch_sub(1, Ordering::AcqRel);
    }
}
