//! One processor of the software engine: the engine seam over interpreter, bus and block cache.

mod blocks;
pub(crate) mod check;
mod code;
mod events;
mod gate;
mod library;
mod links;
mod native;
mod rest;
mod run;
mod runs;
mod sides;
mod sites;
pub(crate) mod superblock;
mod virtual_time;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::{Budget, EngineError, Exit, GuestIo, Kick, Vcpu};
use interp::{Cpu, Op};
use irqchip::Lapic;
use x86::CpuState;

use crate::block::{BlockCache, CACHE_OPS, FEW_CACHE_OPS};
use crate::bus::SoftBus;
use crate::engine::Execution;
use crate::shared::{Shared, VcpuShared, attention};
use crate::translate::announced::Announced;
use library::Library;

/// One processor.
pub(crate) struct SoftVcpu {
    cpu: Cpu<SoftBus>,
    cache: BlockCache,
    /// Where blocks are decoded.
    decoded: Vec<Op<SoftBus>>,
    /// Translated code, where the host allows it.
    native: Option<Library>,
    /// How often what is not translated ran.
    runs: runs::Runs,
    announced: Announced,
    /// Interpreter and translator run in lockstep.
    checking: bool,
    /// The next translated block must not share checks.
    ungrouped: bool,
    /// A branch that translated code was just left through.
    pending_link: Option<native::PendingLink>,
    /// How often each block was found running.
    heat: superblock::Heat,
    /// Superblocks made since creation.
    superblocks: u32,
    /// When the next sample of what runs is due, in instructions executed.
    next_sample: u64,
    /// Budget given to translated code last.
    native_budget: i64,
    shared: Arc<Shared>,
    own: Arc<VcpuShared>,
    /// The local APIC or the 8259 pair has something deliverable, IF and shadows apart.
    interrupt_ready: bool,
    /// Another NMI waits behind the pending one.
    second_nmi: bool,
    /// Host TSC at which the local APIC's timer is due; `u64::MAX` when it is not counting.
    timer_due: u64,
    /// Instructions retired beyond which nothing may run before the run loop has looked around.
    stop_at: u64,
    /// Blocks until the timer is looked at again.
    until_timer_check: u32,
    rest: rest::Rest,
}

impl SoftVcpu {
    pub(crate) fn new(shared: Arc<Shared>, index: u32) -> Result<Self, EngineError> {
        let own = shared.vcpus[index as usize].clone();
        let bus = SoftBus::new(shared.clone(), own.clone())?;
        let native = native_library(&shared)?;
        let most_ops = if native.is_some() { FEW_CACHE_OPS } else { CACHE_OPS };
        Ok(Self {
            cpu: Cpu::new(CpuState::reset(index), bus),
            cache: BlockCache::new(most_ops),
            decoded: Vec::new(),
            native,
            runs: runs::Runs::new(),
            announced: Announced::new(),
            checking: shared.execution == Execution::Check,
            ungrouped: false,
            pending_link: None,
            heat: superblock::Heat::default(),
            superblocks: 0,
            next_sample: 0,
            native_budget: 0,
            shared,
            own,
            interrupt_ready: false,
            second_nmi: false,
            timer_due: u64::MAX,
            stop_at: 0,
            until_timer_check: 0,
            rest: rest::Rest::new(),
        })
    }
}

/// Room for translated code, if the host lets user space use GS as it needs.
fn native_library(shared: &Shared) -> Result<Option<Library>, EngineError> {
    if shared.execution == Execution::Interpret || !crate::cache::enter::has_fsgsbase() {
        return Ok(None);
    }
    crate::cache::signal::install();
    Library::new(shared.code_bytes).map(Some)
}

/// Takes the borrowed `GuestIo` back whatever way `run` is left.
struct Lent<'a>(&'a mut SoftVcpu);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.cpu.bus.io.take_back();
        self.0.own.presence.go_outside();
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, io: &mut dyn GuestIo, until: Budget) -> Result<Exit, EngineError> {
        self.cpu.bus.io.lend(io);
        let lent = Lent(self);
        let _guard = lent.0.guard();
        lent.0.cpu.bus.begin_run();
        let exit = lent.0.run_until(until);
        lent.0.cpu.bus.publish_time();
        Ok(exit)
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        let now = self.cpu.bus.now();
        let mut state = self.cpu.export().clone();
        let lapic = self.own.lapic();
        state.lapic = lapic.save(now);
        state.msrs.apic_base = lapic.apic_base();
        Ok(state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.own.tsc_offset.store(state.msrs.tsc_offset, Ordering::Relaxed);
        let now = self.cpu.bus.now();
        *self.own.lapic() =
            Lapic::from_state(&state.lapic, state.msrs.apic_base, self.own.index, now);
        self.cpu.import(state);
        self.cpu.bus.tlb.flush_all();
        self.own.attention.fetch_or(attention::INTERRUPT, Ordering::AcqRel);
        Ok(())
    }

    fn retired(&self) -> Option<u64> {
        Some(self.cpu.bus.retired)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(Kicker(self.own.clone()))
    }
}

struct Kicker(Arc<VcpuShared>);

impl Kick for Kicker {
    fn kick(&self) {
        self.0.notify(attention::KICK);
    }
}
