//! The interpreter's bus on the software engine: RAM through the TLB, devices through `GuestIo`.

mod bound;
mod hypercall;
mod kvm_clock;
mod large;
mod memory;
mod msr;
pub(crate) mod peers;
mod platform;
mod strings;
mod time;
pub(crate) mod tlb;
mod translate;
mod windows;

use std::sync::Arc;

use ::memory::GuestMemory;
use engine::{EngineError, VirtualTime};
use iced_x86::Instruction;
use interp::vector::{Exchange, VectorHandle, VectorUnit};
use interp::{Bus, Context};
use x86::XsaveArea;

use crate::shared::{Shared, VcpuShared};
use crate::simd::HostVectors;
use crate::sys::io_slot::IoSlot;
use crate::vcpu::check::Recording;
use tlb::Tlb;
pub(crate) use translate::Place;

/// What one vCPU's instructions reach.
pub(crate) struct SoftBus {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) tlb: Tlb,
    pub(crate) context: Context,
    pub(crate) io: IoSlot,
    pub(crate) shared: Arc<Shared>,
    pub(crate) own: Arc<VcpuShared>,
    pub(crate) vectors: HostVectors,
    /// The running block must be left after this op: its code may have changed, or a device
    /// asked for attention.
    pub(crate) cut: bool,
    /// Pages of RAM (offset / 4096) whose decoded code was written over, to be dropped.
    pub(crate) stale_pages: Vec<u64>,
    /// Linear address and value of the last slow load for a read-modify-write that is under way.
    to_be_modified: Option<(u64, u64)>,
    watch: Watchpoints,
    /// Stores are noted, so that they can be undone.
    pub(crate) recording: Option<Recording>,
    /// Instructions executed since creation.
    pub(crate) retired: u64,
    /// Virtual time, if the VM lives in it, and what it has beyond `retired`.
    virtual_time: Option<Arc<VirtualTime>>,
    pub(crate) added_ns: u64,
    random_state: u64,
    large: large::Large,
}

/// DR0-3 and DR7 as the memory path needs them.
#[derive(Clone, Copy, Debug, Default)]
struct Watchpoints {
    dr: [u64; 4],
    dr7: u64,
    hits: u64,
}

impl SoftBus {
    pub(crate) fn new(shared: Arc<Shared>, own: Arc<VcpuShared>) -> Result<Self, EngineError> {
        Ok(Self {
            tlb: Tlb::new(&shared.memory, shared.vcpus.len())?,
            memory: shared.memory.clone(),
            context: Context::default(),
            io: IoSlot::default(),
            own,
            vectors: HostVectors::new()?,
            cut: false,
            stale_pages: Vec::new(),
            to_be_modified: None,
            watch: Watchpoints::default(),
            recording: None,
            retired: 0,
            added_ns: 0,
            random_state: shared.virtual_time.as_ref().map_or(0, |time| time.seed()),
            virtual_time: shared.virtual_time.clone(),
            large: large::Large::default(),
            shared,
        })
    }
}

impl VectorUnit for SoftBus {
    fn supports(&self, instruction: &Instruction) -> bool {
        self.vectors.supports(instruction)
    }

    fn prepare(&mut self, instruction: &Instruction) -> Option<VectorHandle> {
        self.vectors.prepare(instruction)
    }

    #[inline]
    fn execute(&mut self, handle: VectorHandle, area: &mut XsaveArea, exchange: &mut Exchange) {
        self.vectors.execute(handle, area, exchange);
    }
}

impl Bus for SoftBus {}
