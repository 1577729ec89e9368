//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages with a mask each, and pending bits.
//!
//! ```text
//! entry  0 address low   4 address high   8 data   12 control (bit 0: masked)
//! ```
//!
//! Invariant: a vector that is raised while it or the whole function is masked, or while MSI-X is
//! off, is pending; it is sent once when it can be.

use crate::state::MessageV1;

/// A vector that is none (virtio 1.2, 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;
/// Bytes of a table entry.
pub(crate) const ENTRY_BYTES: u64 = 16;

/// Message control, the capability's third and fourth byte: bit 15 enable, 14 function mask.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const MASKED: u32 = 1;

/// What is written to the interrupt controllers' address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// The table and the pending bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Msix {
    /// Dwords, four an entry.
    table: Vec<[u32; 4]>,
    pending: Vec<bool>,
    control: u16,
}

impl Msix {
    /// All entries masked, as at reset.
    pub(crate) fn new(vectors: usize) -> Self {
        Self { table: vec![[0, 0, 0, MASKED]; vectors], pending: vec![false; vectors], control: 0 }
    }

    /// The table and pending bits to save; the control word belongs to configuration space.
    pub(crate) fn save(&self) -> Vec<MessageV1> {
        let messages = self.table.iter().zip(&self.pending);
        messages.map(|(&entry, &pending)| MessageV1 { entry, pending }).collect()
    }

    /// The table in a saved state, under this control word.
    pub(crate) fn restore(messages: &[MessageV1], control: u16) -> Self {
        let entry = |[low, high, data, control]: [u32; 4]| [low, high, data, control & MASKED];
        let table = messages.iter().map(|message| entry(message.entry)).collect();
        let pending = messages.iter().map(|message| message.pending).collect();
        Self { table, pending, control }
    }

    pub(crate) fn vectors(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// The driver wrote message control.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.control = control;
    }

    /// Makes a vector pending; none if there is no such vector.
    pub(crate) fn raise(&mut self, vector: u16) {
        if let Some(pending) = self.pending.get_mut(usize::from(vector)) {
            *pending = true;
        }
    }

    /// Sends every pending message that is not masked, with its vector.
    pub(crate) fn flush(&mut self, send: &mut dyn FnMut(usize, Message)) {
        if !self.enabled() || self.control & FUNCTION_MASK != 0 {
            return;
        }
        let entries = self.pending.iter_mut().zip(&self.table).enumerate();
        for (vector, (pending, [low, high, data, control])) in entries {
            if *pending && control & MASKED == 0 {
                *pending = false;
                let address = u64::from(*low) | u64::from(*high) << 32;
                send(vector, Message { address, data: *data });
            }
        }
    }

    pub(crate) fn forget_pending(&mut self) {
        self.pending.fill(false);
    }

    /// Reads the table; `data` is a part of one entry or of two.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let dword = self.table.get((at / ENTRY_BYTES) as usize);
            let dword = dword.map_or(0, |entry| entry[(at % ENTRY_BYTES / 4) as usize]);
            *byte = dword.to_le_bytes()[(at % 4) as usize];
        }
    }

    /// Writes the table: aligned dwords or quadwords; others are undefined, and ignored.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let (dwords, _) = data.as_chunks::<4>();
        for (dword, at) in dwords.iter().zip((offset..).step_by(4)) {
            if let Some(entry) = self.table.get_mut((at / ENTRY_BYTES) as usize) {
                let place = (at % ENTRY_BYTES / 4) as usize;
                let value = u32::from_le_bytes(*dword);
                entry[place] = if place == 3 { value & MASKED } else { value };
            }
        }
    }

    /// Reads the pending bits.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let bits = self.pending.iter().skip(at as usize * 8).take(8).enumerate();
            *byte = bits.fold(0, |byte, (bit, pending)| byte | u8::from(*pending) << bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushed(msix: &mut Msix) -> Vec<u32> {
        let mut sent = Vec::new();
        msix.flush(&mut |_, message| sent.push(message.data));
        sent
    }

    fn with_vectors() -> Msix {
        let mut msix = Msix::new(10);
        for vector in 0..10 {
            let at = vector * ENTRY_BYTES;
            msix.write_table(at, &0xfee0_1000_u64.to_le_bytes());
            msix.write_table(at + 8, &(0x40 + vector as u32).to_le_bytes());
            msix.write_table(at + 12, &0_u32.to_le_bytes());
        }
        msix
    }

    #[test]
    fn masked_vectors_wait_and_are_sent_once() {
        let mut msix = with_vectors();
        msix.raise(1);
        assert_eq!(flushed(&mut msix), [], "off");
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.raise(9);
        assert_eq!(flushed(&mut msix), [], "the function is masked");
        let mut pending = [0; 3];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [2, 2, 0]);
        msix.write_table(ENTRY_BYTES + 12, &1_u32.to_le_bytes());
        msix.set_control(ENABLE);
        assert_eq!(flushed(&mut msix), [0x49]);
        msix.write_table(ENTRY_BYTES + 12, &[0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(flushed(&mut msix), [0x41]);
        assert_eq!(flushed(&mut msix), []);
        msix.raise(NO_VECTOR);
        msix.raise(10);
        assert_eq!(flushed(&mut msix), []);
    }

    #[test]
    fn the_table_reads_back_and_has_an_end() {
        let mut msix = with_vectors();
        let mut data = [0; 8];
        msix.read_table(8, &mut data);
        assert_eq!(data, [0x40, 0, 0, 0, 0, 0, 0, 0]);
        msix.read_table(10 * ENTRY_BYTES - 4, &mut data);
        assert_eq!(data, [0; 8]);
        let before = msix.clone();
        msix.write_table(10 * ENTRY_BYTES, &[0xff; 8]);
        msix.write_table(2, &[0xff; 4]);
        msix.write_table(4, &[0xff; 8]);
        msix.write_table(0, &[0xff; 2]);
        assert_eq!(msix, before);
    }
}
