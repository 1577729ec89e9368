//! What a running processor asks of the machine around it.

use x86::{Exception, GuestPhys};

/// A message-signalled interrupt as written to 0xFEEx_xxxx (SDM vol. 3, 10.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Address: destination in bits 19:12, mode bits 3:2; with extended destination ids in 11:5.
    pub address: u64,
    /// Data: vector 7:0, delivery mode 10:8, level 14, trigger 15.
    pub data: u32,
}

/// Something that happened to a processor between two instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEvent {
    /// Instructions retired before it.
    pub instructions: u64,
    /// RIP before it.
    pub rip: u64,
    /// What it was.
    pub kind: EventKind,
}

/// What happens between instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An interrupt is delivered.
    Interrupt {
        /// Its vector.
        vector: u8,
    },
    /// An NMI is delivered.
    Nmi,
    /// An exception is delivered.
    Exception(Exception),
    /// Halted, time jumps to here.
    Idle {
        /// Virtual time in nanoseconds.
        until_ns: u64,
    },
}

/// Port and MMIO accesses of one vCPU, borrowed for the length of one `run`.
///
/// `data.len()` is the access width: 1, 2, 4 for ports; 1, 2, 4, 8 for MMIO (a wider SIMD access
/// arrives in pieces of 8, a misaligned one as the guest made it). Unclaimed reads give all ones,
/// unclaimed writes vanish; neither fails.
pub trait GuestIo {
    /// IN.
    fn port_in(&mut self, port: u16, data: &mut [u8]);
    /// OUT.
    fn port_out(&mut self, port: u16, data: &[u8]);
    /// A load from an address that is not RAM.
    fn mmio_read(&mut self, address: GuestPhys, data: &mut [u8]);
    /// A store to an address that is not RAM.
    fn mmio_write(&mut self, address: GuestPhys, data: &[u8]);
    /// The local APIC ended a level-triggered interrupt and broadcasts its vector to IOAPICs.
    fn end_of_interrupt(&mut self, vector: u8);
    /// The interrupt-acknowledge cycle of an ExtINT: the 8259 pair's vector, if it has one.
    fn acknowledge_pic(&mut self) -> Option<u8>;
    /// In virtual time: something happened between two instructions. Most have no use for it.
    fn event(&mut self, _event: GuestEvent) {}
}
