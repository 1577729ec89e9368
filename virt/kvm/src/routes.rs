//! Making KVM report the end of level-triggered interrupts (api.rst, KVM_CAP_SPLIT_IRQCHIP).
//!
//! The local APIC exits with KVM_EXIT_IOAPIC_EOI only for vectors that the routing table names as
//! level-triggered messages of the IOAPIC's pins. The machine's IOAPIC sends plain messages, so
//! each distinct level-triggered message gets a route before it is first sent. Messages change
//! when a guest reprograms a pin; the least recently used route makes room, of more routes than
//! pins, so that none with an end still to come is lost.

use std::sync::{Mutex, PoisonError};

use engine::{EngineError, MsiMessage};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::VmFd;

use crate::error::failed;

/// Routes kept, and IOAPIC pins announced to KVM.
pub(crate) const ROUTES: usize = 64;
/// Level trigger and assert, in a message's data.
pub(crate) const LEVEL: u32 = 1 << 15 | 1 << 14;

/// The messages that have a route, the most recently used last.
#[derive(Default)]
pub(crate) struct Routes {
    messages: Mutex<Vec<MsiMessage>>,
}

impl Routes {
    /// Sees to it that the end of this message's interrupt is reported.
    pub(crate) fn expect(&self, vm: &VmFd, message: MsiMessage) -> Result<(), EngineError> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if !touch(&mut messages, message) {
            return Ok(());
        }
        let entries: Vec<_> =
            messages.iter().enumerate().map(|(gsi, &message)| entry(gsi as u32, message)).collect();
        let table = KvmIrqRouting::from_entries(&entries).expect("64 entries are within limits");
        vm.set_gsi_routing(&table).map_err(failed("KVM_SET_GSI_ROUTING"))
    }
}

/// Moves a message to the end; true if it is new.
fn touch(messages: &mut Vec<MsiMessage>, message: MsiMessage) -> bool {
    let known = messages.iter().position(|&known| known == message);
    match known {
        Some(at) => {
            messages.remove(at);
        }
        None if messages.len() == ROUTES => {
            messages.remove(0);
        }
        None => {}
    }
    messages.push(message);
    known.is_none()
}

/// The message as KVM_SIGNAL_MSI takes it: destination bits 14:8 move from address bits 11:5 to
/// the high half, where the x2APIC interface has them.
pub(crate) fn signal(message: MsiMessage) -> kvm_msi {
    let (address_lo, address_hi) = split(message.address);
    kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() }
}

fn split(address: u64) -> (u32, u32) {
    let low = address as u32;
    (low & !0xfe0, (low >> 5 & 0x7f) << 8)
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = split(message.address);
    let msi = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: message.data,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(vector: u32) -> MsiMessage {
        MsiMessage { address: 0xfee0_0000, data: vector | LEVEL }
    }

    #[test]
    fn the_least_recently_used_route_makes_room() {
        let mut messages = vec![];
        for vector in 0..ROUTES as u32 {
            assert!(touch(&mut messages, message(vector)));
        }
        assert!(!touch(&mut messages, message(0)));
        assert!(touch(&mut messages, message(100)));
        assert!(messages.contains(&message(0)));
        assert!(!messages.contains(&message(1)));
        assert_eq!(messages.len(), ROUTES);
    }

    #[test]
    fn extended_destinations_move_to_the_high_half() {
        let msi = signal(MsiMessage { address: 0xfee2_3020, data: 0x41 });
        assert_eq!((msi.address_lo, msi.address_hi), (0xfee2_3000, 0x100));
        let plain = signal(MsiMessage { address: 0xfee0_300c, data: 0x41 });
        assert_eq!((plain.address_lo, plain.address_hi), (0xfee0_300c, 0));
    }
}
