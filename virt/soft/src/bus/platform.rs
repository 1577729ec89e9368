//! Ports, CPUID, time, task priority, and what the interpreter tells about translation.

use std::sync::atomic::Ordering;

use ::memory::GuestPhys;
use interp::{Context, Flush, Platform, PortIo, Translation};
use irqchip::Effect;
use x86::CpuState;
use x86::cpuid::{CpuidResult, lookup};

use super::SoftBus;
use crate::shared::attention;

impl SoftBus {
    /// Whether the xAPIC's register page is there. Only asked outside RAM, which goes first.
    pub(super) fn is_lapic_page(&self, at: GuestPhys) -> bool {
        self.own.lapic().page() == Some(at.page_base())
    }

    pub(super) fn lapic_mmio_read(&mut self, offset: u32, _width: usize) -> u64 {
        let now = self.now();
        u64::from(self.own.lapic().read(offset, now))
    }

    pub(super) fn lapic_mmio_write(&mut self, offset: u32, value: u32) {
        let now = self.now();
        let effect = self.own.lapic().write(offset, value, now);
        self.apply(effect);
    }

    /// Carries out what a local-APIC register write asked for.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(ipi) => self.shared.deliver(Some(self.own.index as usize), ipi),
            Effect::EndOfInterrupt(vector) => {
                self.with_io(|io| io.end_of_interrupt(vector));
            }
        }
        self.look_at_lapic();
    }

    /// Own local APIC changed: look again before the next block; in virtual time, which has to be
    /// the same for blocks of any length, before the next instruction.
    pub(super) fn look_at_lapic(&mut self) {
        self.cut |= self.is_virtual();
        self.own.attention.fetch_or(attention::INTERRUPT, Ordering::Relaxed);
    }
}

impl PortIo for SoftBus {
    fn port_in(&mut self, port: u16, width: u8) -> u32 {
        let mut bytes = [0xff; 4];
        let data = &mut bytes[..usize::from(width).clamp(1, 4)];
        self.with_io(|io| io.port_in(port, data));
        bytes[usize::from(width).clamp(1, 4)..].fill(0);
        u32::from_le_bytes(bytes)
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) {
        let bytes = value.to_le_bytes();
        self.with_io(|io| io.port_out(port, &bytes[..usize::from(width).clamp(1, 4)]));
    }
}

impl Translation for SoftBus {
    fn set_context(&mut self, context: Context) {
        self.context = context;
        if self.recording.is_some() {
            // The TLB is blind until the recording ends.
            return;
        }
        self.tlb.switch(&context);
        self.revalidate();
    }

    fn flush(&mut self, what: Flush) {
        match what {
            Flush::All | Flush::AllNonGlobal => self.tlb.flush_all(),
            Flush::NonGlobal => self.tlb.flush_current_space(&self.context),
            Flush::Page(linear) | Flush::PcidPage(_, linear) => self.tlb.flush_page(linear),
            Flush::Pcid(id) => self.tlb.flush_pcid(id),
        }
        if self.recording.is_none() {
            self.tlb.switch(&self.context);
        }
        self.revalidate();
    }

    fn pdptes_valid(&mut self, cr3: u64) -> bool {
        x86::paging::pdptes_valid(&mut self.tables(), cr3)
    }

    fn set_watchpoints(&mut self, dr: [u64; 4], dr7: u64) {
        self.watch.dr = dr;
        self.watch.dr7 = dr7;
    }

    fn take_watch_hits(&mut self) -> u64 {
        std::mem::take(&mut self.watch.hits)
    }
}

impl Platform for SoftBus {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        let mut result = lookup(&self.shared.cpuid, leaf, subleaf);
        crate::cpuid::patch_apic_id(leaf, self.own.index, &mut result);
        result
    }

    fn read_msr(&mut self, state: &CpuState, index: u32) -> Option<u64> {
        self.own.tsc_offset.store(state.msrs.tsc_offset, Ordering::Relaxed);
        self.msr_read(state, index)
    }

    fn write_msr(&mut self, state: &mut CpuState, index: u32, value: u64) -> Option<()> {
        self.own.tsc_offset.store(state.msrs.tsc_offset, Ordering::Relaxed);
        self.msr_write(state, index, value)
    }

    #[inline]
    fn host_tsc(&mut self) -> u64 {
        self.raw_tsc()
    }

    fn random(&mut self) -> u64 {
        if self.is_virtual() {
            return self.next_random();
        }
        let mut bytes = [0; 8];
        // Entropy is there from boot on a running host; a short read can only be a signal.
        while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .is_ok_and(|read| read < bytes.len())
        {}
        u64::from_le_bytes(bytes)
    }

    fn hypercall(&mut self, number: u64, arguments: [u64; 4], wide: bool) -> i64 {
        self.serve_hypercall(number, arguments, wide)
    }

    fn task_priority(&mut self, write: Option<u8>) -> u8 {
        if let Some(priority) = write {
            self.own.lapic().set_cr8(priority);
            self.look_at_lapic();
        }
        self.own.lapic().cr8()
    }

    #[inline]
    fn attention(&mut self) -> bool {
        self.own.attention.load(Ordering::Relaxed) != 0
    }
}
