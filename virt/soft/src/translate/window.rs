//! Accesses through windows (see `cache::windows`): no check, no flags, the host's MMU decides.
//!
//! What leads to the window of an address serves all addresses near it, so S1 keeps it from one
//! access to the next while both are at known distances from the same symbol.
//!
//! Invariant: whatever the registers hold, S1 is the table's entry for an address within a guard of
//! the one that S1 is added to.

use iced_x86::{Instruction, Register};

use super::asm::{Alu, Mem, cond};
use super::emit::{Emitter, Stub};
use super::flags::{Place, fate};
use super::forecast::Stretch;
use super::memory::{Address, Data};
use super::registers::{RSP, S0, S1, is_taken};
use super::site::SiteKind;
use super::values::Value;
use crate::cache::layout::{WINDOWS, WINDOWS_MIDDLE, window_entry};
use crate::cache::state::at;
use crate::cache::windows::{INDEX_BITS, REACH};

/// RBP.
const RBP: u8 = 5;

impl Emitter<'_> {
    /// Tells where an access's data is in its window. Changes S1, and S0 where the address is no
    /// register and a displacement.
    pub(super) fn window(&mut self, index: usize, address: Address<'_>, write: bool) -> Data {
        self.slot = self.leads.slot(index, address);
        let fact = &self.facts[index];
        self.expected = match address {
            Address::Operand(_) => fact.stretch.filter(|_| fact.is_chained).map(|at| (index, at)),
            _ => None,
        };
        let data = match address {
            Address::Stack(disp) => self.near_register(RSP, disp),
            Address::Frame => self.near_register(RBP, 0),
            Address::Operand(ins) => self.window_of_operand(ins, fact.stretch),
        };
        // The flags may have moved.
        let site = self.site(SiteKind::Window { write }, index);
        self.touching = Some(site);
        data
    }

    /// S1 = what leads from the address in S0, of which nothing is known, to its window.
    pub(super) fn window_alone(&mut self, index: usize, write: bool) {
        let site = self.site(SiteKind::Window { write }, index);
        (self.slot, self.expected) = (None, None);
        self.lead(S0, None, 0);
        self.touching = Some(site);
    }

    /// The next host instruction is the access.
    pub(super) fn touch(&mut self) {
        if let Some(site) = self.touching.take() {
            assert!(!self.is_cold, "accesses are in line");
            self.traps.push((self.asm.here() as u32, site));
        }
    }

    fn window_of_operand(&mut self, ins: &Instruction, stretch: Option<Stretch>) -> Data {
        if let Some(linear) = self.known_address(ins) {
            return self.known_place(linear);
        }
        let disp = ins.memory_displacement64() as i32;
        let plain = !matches!(ins.memory_segment(), Register::FS | Register::GS);
        if plain && let Some(data) = self.window_of_table(ins, stretch) {
            return data;
        }
        let base = ins.memory_base();
        if plain && ins.memory_index() == Register::None && base.is_gpr64() {
            let number = base.number() as u8;
            if !is_taken(number) {
                return self.near_register(number, disp);
            }
        }
        if plain && let Some(data) = self.window_of_base(ins) {
            return data;
        }
        let value = self.values.operand(ins);
        let bare = base == Register::None && ins.memory_index() == Register::None;
        let segment = match ins.memory_segment() {
            Register::FS => Some(0),
            Register::GS => Some(1),
            _ => None,
        };
        match segment {
            Some(segment) if bare && ins.memory_displ_size() != 4 => {
                // S1 keeps what leads from the segment's base to its window.
                self.asm.load(S0, Mem::Gs(at::segment_base(segment)));
                self.lead(S0, value, disp);
                Data::Sum(S0, disp)
            }
            None if is_wide(ins) => {
                let mut moved = *ins;
                moved.set_memory_displacement64(0);
                // Loading a taken index changes S1.
                self.linear_address(&moved, 0);
                self.lead(S0, value, disp);
                Data::Sum(S0, disp)
            }
            _ => {
                self.linear_address(ins, 0);
                self.lead(S0, value, 0);
                Data::Sum(S0, 0)
            }
        }
    }

    /// An operand whose index is known to be so small that what leads to the base's window serves:
    /// one look-up for a whole table, which does not wait for the index.
    fn window_of_base(&mut self, ins: &Instruction) -> Option<Data> {
        let (base, index) = (ins.memory_base(), ins.memory_index());
        if !base.is_gpr64() || !index.is_gpr64() {
            return None;
        }
        let (mut base, mut index) = (base.number() as u8, index.number() as u8);
        let scale = ins.memory_index_scale().ilog2() as u8;
        if self.values.width(index) + scale > INDEX_BITS {
            if scale != 0 || self.values.width(base) > INDEX_BITS {
                return None;
            }
            std::mem::swap(&mut base, &mut index);
        }
        if is_taken(index) || index == RSP {
            return None;
        }
        let value = self.values.register(base, 0);
        let from = if is_taken(base) { S0 } else { base };
        if from == S0 {
            self.load_taken(S0, base);
        }
        self.lead(from, Some(value), 0);
        self.asm.lea(true, S0, Some(from), Some((S1, 0)), 0);
        Some(Data::Scaled((index, scale), ins.memory_displacement64() as i32))
    }

    /// An operand whose register is known to hold a small number, so that the displacement's window serves: an element of a
    /// table at a known place.
    fn window_of_table(&mut self, ins: &Instruction, stretch: Option<Stretch>) -> Option<Data> {
        let (register, scale) = match (ins.memory_base(), ins.memory_index()) {
            (Register::None, index) => (index, ins.memory_index_scale().ilog2() as u8),
            (base, Register::None) => (base, 0),
            _ => return None,
        };
        if !register.is_gpr64() || register == Register::RSP {
            return None;
        }
        let (number, disp) = (register.number() as u8, ins.memory_displacement64() as i32);
        let table = i64::from(disp) as u64;
        let bits = self.values.width(number) + scale;
        let is_there = stretch.map(|stretch| stretch == (table >> 32) as u32);
        // What fits in more bits may be an address, and what is in front of a table at 0 another one.
        let is_element = bits < 32 && disp >= 0 && is_there != Some(false)
            || bits <= INDEX_BITS && is_there == Some(true);
        if !is_element {
            return None;
        }
        let index = if is_taken(number) { S0 } else { number };
        if index == S0 {
            self.load_taken(S0, number);
        }
        self.lead_to_known(table);
        Some(Data::Table((index, scale), disp))
    }

    fn near_register(&mut self, register: u8, disp: i32) -> Data {
        let value = self.values.register(register, disp);
        self.lead(register, Some(value), disp);
        let lag = if register == RSP { self.lag } else { 0 };
        Data::Sum(register, disp + lag)
    }

    /// S1 = what leads from a register's address to its window; `value` is that of the address
    /// moved by `disp`.
    fn lead(&mut self, register: u8, value: Option<Value>, disp: i32) {
        let start = value.map(|value| Value { offset: value.offset - i64::from(disp), ..value });
        if self.leads_from(start) {
            return;
        }
        if self.load_lead(self.slot, start) {
            return;
        }
        match self.expected {
            Some((index, stretch)) if register != RSP && self.spares_flags(index) => {
                self.look_up_expecting(register, index, stretch);
            }
            _ => self.look_up(register),
        }
        self.hold(start);
        self.keep_lead(self.slot, start);
    }

    /// S1 = the table's entry for the address in a register.
    pub(super) fn look_up(&mut self, register: u8) {
        self.asm.rorx(S1, register, 32);
        self.find_window();
    }

    /// S1 = the table's entry for bits 63:32 in S1.
    pub(super) fn find_window(&mut self) {
        self.asm.load(S1, Mem::ShortTable(S1, WINDOWS_MIDDLE as i32));
    }

    /// The same as `look_up` for an address that is probably in one stretch: what leads there is loaded without waiting for
    /// the address, which only the branch waits for. An access behind a pointer that was just loaded then takes
    /// as long as on the host itself, where a look-up doubles it.
    fn look_up_expecting(&mut self, register: u8, index: usize, stretch: Stretch) {
        self.clobber(index);
        self.asm.rorx(S1, register, 32);
        self.asm.alu_imm(false, Alu::Cmp, S1, stretch as i32);
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.load_entry(stretch);
        self.stubs.push(Stub::LookUp { from, back: self.asm.here() });
    }

    /// S1 = the table's entry for a known stretch.
    fn load_entry(&mut self, stretch: Stretch) {
        let entry = WINDOWS + window_entry(stretch as u16) * 8;
        self.asm.load(S1, Mem::Gs(entry as i32));
    }

    /// Whether a comparison of ours before an instruction costs no more than one of the guest's made again.
    fn spares_flags(&self, index: usize) -> bool {
        let dead = || !fate(self.facts, index).read;
        match self.place {
            Place::Native { saved: true, .. } => dead(),
            Place::Native { .. } => !self.would_save(index) && !self.facts[index].reads_flags,
            Place::Saved | Place::Recipe(_) => true,
        }
    }

    /// Whether S1 leads from an address to its window.
    fn leads_from(&self, value: Option<Value>) -> bool {
        are_near(self.lead, value) && !self.asm.has_changed(S1)
    }

    pub(super) fn hold(&mut self, value: Option<Value>) {
        self.lead = value;
        self.asm.forget_changes(S1);
    }

    /// The linear address of an operand that is the same each time.
    fn known_address(&self, ins: &Instruction) -> Option<u64> {
        let page = self.source.page?;
        if matches!(ins.memory_segment(), Register::FS | Register::GS) {
            return None;
        }
        if ins.is_ip_rel_memory_operand() && ins.memory_base() == Register::RIP {
            return Some(page.wrapping_add(ins.memory_displacement64()));
        }
        let bare = ins.memory_base() == Register::None && ins.memory_index() == Register::None;
        (bare && ins.memory_displ_size() != 4)
            .then(|| ins.memory_displacement64() as i32 as i64 as u64)
    }

    fn known_place(&mut self, linear: u64) -> Data {
        self.lead_to_known(linear);
        match i32::try_from(linear as i64).ok() {
            Some(disp) => Data::Led(disp),
            None => {
                self.asm.constant(S0, linear);
                Data::Sum(S0, 0)
            }
        }
    }

    /// S1 = what leads from a known address to its window.
    fn lead_to_known(&mut self, linear: u64) {
        let value = Some(Value { symbol: super::values::RIP, offset: linear as i64 });
        if !self.leads_from(value) {
            self.load_entry((linear >> 32) as u32);
            self.hold(value);
        }
    }
}

/// Whether what leads to the window of one address serves another one.
pub(super) fn are_near(lead: Option<Value>, value: Option<Value>) -> bool {
    let (Some(lead), Some(value)) = (lead, value) else { return false };
    lead.symbol == value.symbol
        && lead.offset.abs_diff(value.offset) <= u64::from(REACH.unsigned_abs())
}

/// Whether an operand's address is 64 bits wide and its displacement can be taken out.
fn is_wide(ins: &Instruction) -> bool {
    let wide = |register: Register| register == Register::None || register.is_gpr64();
    wide(ins.memory_base()) && wide(ins.memory_index()) && ins.memory_index() != Register::None
        || ins.memory_base().is_gpr64() && ins.memory_index() == Register::None
}
