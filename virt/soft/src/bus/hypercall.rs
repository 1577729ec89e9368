//! KVM hypercalls: the few that spare a guest with several processors time (Linux
//! Documentation/virt/kvm/x86/hypercalls.rst).
//!
//! Invariant: exactly these are announced in the KVM feature leaf; every other number answers
//! -KVM_ENOSYS.

use std::sync::atomic::Ordering;

use interp::bus::KVM_ENOSYS;
use irqchip::{DeliveryMode, Ipi};

use super::SoftBus;
use crate::shared::attention;

const KICK_CPU: u64 = 5;
const SEND_IPI: u64 = 10;
const SCHED_YIELD: u64 = 11;
/// -KVM_EINVAL.
const INVALID: i64 = -22;
/// ICR bits 19:18 and 31:20: shorthand and reserved, which a hypercall cannot carry.
const ICR_REFUSED: u64 = 0xfffc_0000;

impl SoftBus {
    /// `wide`: the caller is in 64-bit mode, so that bitmaps have 64 bits.
    pub(super) fn serve_hypercall(&mut self, number: u64, arguments: [u64; 4], wide: bool) -> i64 {
        match number {
            KICK_CPU => self.end_halt(arguments[1]),
            SEND_IPI => self.send_ipis(arguments, wide),
            SCHED_YIELD => {
                // The named processor is a thread that waits for this host's scheduler.
                std::thread::yield_now();
                0
            }
            _ => KVM_ENOSYS,
        }
    }

    /// Ends a processor's HLT, or its next one, whatever its interrupt flag.
    fn end_halt(&self, apic_id: u64) -> i64 {
        if let Some(vcpu) = self.shared.vcpus.get(apic_id as usize) {
            vcpu.unhalted.store(true, Ordering::Release);
            vcpu.notify(attention::INTERRUPT);
        }
        0
    }

    /// An IPI to each processor in a bitmap that begins at an APIC id; answers to how many.
    fn send_ipis(&self, [low, high, first, icr]: [u64; 4], wide: bool) -> i64 {
        if icr & ICR_REFUSED != 0 {
            return INVALID;
        }
        let width = if wide { 64 } else { 32 };
        let bitmap = u128::from(low) | u128::from(high) << width;
        let mut sent = 0;
        for (apic_id, _) in self.shared.vcpus.iter().enumerate() {
            let Some(bit) = (apic_id as u64).checked_sub(first & 0xffff_ffff) else { continue };
            if bit < 2 * width && bitmap >> bit & 1 != 0 {
                let delivery = DeliveryMode::from_bits((icr >> 8) as u32);
                let ipi = Ipi { delivery, ..Ipi::fixed(icr as u8, apic_id as u32) };
                self.shared.deliver(Some(self.own.index as usize), ipi);
                sent += 1;
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::SoftOptions;
    use crate::shared::Shared;

    fn bus(cpus: u32) -> SoftBus {
        let memory = Arc::new(
            memory::GuestMemory::new(&[(memory::GuestPhys(0), 1 << 20)]).expect("a mebibyte"),
        );
        let shared = Arc::new(Shared::new(memory, Vec::new(), cpus, &SoftOptions::default()));
        let own = shared.vcpus[0].clone();
        SoftBus::new(shared, own).expect("code memory")
    }

    #[test]
    fn ipis_go_where_the_bitmap_says() {
        let mut bus = bus(3);
        for vcpu in &bus.shared.vcpus {
            let now = bus.shared.at(vcpu, 0);
            // SVR: software-enabled.
            assert_eq!(vcpu.lapic().write(0xf0, 0x1ff, now), irqchip::Effect::None);
        }
        assert_eq!(bus.serve_hypercall(SEND_IPI, [0b11, 0, 1, 0x41], true), 2);
        let pending = |index: usize| bus.shared.vcpus[index].lapic().pending();
        assert_eq!((pending(0), pending(1), pending(2)), (None, Some(0x41), Some(0x41)));
        assert_eq!(bus.serve_hypercall(SEND_IPI, [!0, !0, 3, 0x41], true), 0);
        assert_eq!(bus.serve_hypercall(SEND_IPI, [1, 0, 0, 0x4_0041], true), INVALID);
    }

    #[test]
    fn a_kick_is_kept_for_the_next_halt() {
        let mut bus = bus(2);
        assert_eq!(bus.serve_hypercall(KICK_CPU, [0, 1, 0, 0], true), 0);
        assert!(bus.shared.vcpus[1].unhalted.load(Ordering::Relaxed));
        assert_eq!(bus.serve_hypercall(KICK_CPU, [0, 9, 0, 0], true), 0);
        assert_eq!(bus.serve_hypercall(99, [0; 4], true), KVM_ENOSYS);
    }
}
