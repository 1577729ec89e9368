//! The routing table (api.rst, KVM_SET_GSI_ROUTING): messages that KVM knows beforehand, because it
//! shall report their end (KVM_CAP_SPLIT_IRQCHIP) or send them for an event (KVM_IRQFD).
//!
//! ```text
//! GSI 0..64    level-triggered messages whose end is reported
//! GSI 64..     sources of messages, a vector each (`paths`)
//! ```
//!
//! The local APIC exits with KVM_EXIT_IOAPIC_EOI only for vectors that the routing table names as
//! level-triggered messages of the IOAPIC's pins. The machine's IOAPIC sends plain messages, so
//! each distinct level-triggered message gets a route before it is first sent. Messages change
//! when a guest reprograms a pin; the least recently used route makes room, of more routes than
//! pins, so that none with an end still to come is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Sources of messages, at most: with the others a quarter of what KVM allows.
const MOST_SOURCES: usize = 960;

/// The messages that have a route.
#[derive(Default)]
pub(crate) struct Routes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Level-triggered ones, the most recently used last.
    level: Vec<MsiMessage>,
    /// By source; `None`: it has sent none often enough.
    sources: Vec<Option<MsiMessage>>,
}

impl Routes {
    /// Sees to it that the end of this message's interrupt is reported.
    pub(crate) fn expect(&self, vm: &VmFd, message: MsiMessage) -> Result<(), EngineError> {
        let mut table = self.lock();
        if !touch(&mut table.level, message) {
            return Ok(());
        }
        table.tell(vm)
    }

    /// A further source's number; `None`: there are too many.
    pub(crate) fn add_source(&self) -> Option<usize> {
        let mut table = self.lock();
        let number = table.sources.len();
        (number < MOST_SOURCES).then(|| table.sources.push(None))?;
        Some(number)
    }

    /// From now on this source's event sends this message.
    pub(crate) fn set_source(
        &self,
        vm: &VmFd,
        source: usize,
        message: MsiMessage,
    ) -> Result<(), EngineError> {
        let mut table = self.lock();
        let before = table.sources[source].replace(message);
        table.tell(vm).inspect_err(|_| table.sources[source] = before)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let level = self.level.iter().enumerate().map(|(gsi, &message)| (gsi as u32, message));
        let sources = self.sources.iter().enumerate();
        let sources = sources.filter_map(|(source, message)| Some((gsi(source), (*message)?)));
        level.chain(sources).map(|(gsi, message)| entry(gsi, message)).collect()
    }

    fn tell(&self, vm: &VmFd) -> Result<(), EngineError> {
        let table = KvmIrqRouting::from_entries(&self.entries());
        let table = table.expect("1024 entries are within limits");
        vm.set_gsi_routing(&table).map_err(failed("KVM_SET_GSI_ROUTING"))
    }
}

/// The GSI of a source: behind those whose end KVM looks for.
pub(crate) fn gsi(source: usize) -> u32 {
    (ROUTES + source) as u32
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
    fn sources_have_their_own_interrupts_behind_those_whose_end_is_reported() {
        let routes = Routes::default();
        assert_eq!((routes.add_source(), routes.add_source()), (Some(0), Some(1)));
        let mut table = routes.lock();
        touch(&mut table.level, message(0x30));
        table.sources[1] = Some(message(0x41));
        let gsis: Vec<_> = table.entries().iter().map(|entry| entry.gsi).collect();
        assert_eq!(gsis, [0, 65], "a source without a message has no route");
        table.sources.resize(MOST_SOURCES, None);
        drop(table);
        assert_eq!(routes.add_source(), None);
    }

    #[test]
    fn extended_destinations_move_to_the_high_half() {
        let msi = signal(MsiMessage { address: 0xfee2_3020, data: 0x41 });
        assert_eq!((msi.address_lo, msi.address_hi), (0xfee2_3000, 0x100));
        let plain = signal(MsiMessage { address: 0xfee0_300c, data: 0x41 });
        assert_eq!((plain.address_lo, plain.address_hi), (0xfee0_300c, 0));
    }
}
