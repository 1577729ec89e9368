//! The inline look-up in the software TLB, and flags around it.

use iced_x86::Instruction;

use super::asm::{Alu, Mem, cond};
use super::emit::{Emitter, Stub};
use super::flags::{KEPT, Maker, Recipe, Source};
use super::registers::{RAX, RSP, S0, S1, is_taken};
use super::site::SiteKind;
use crate::cache::layout::{TLB, TLB_ENTRIES, TLB_ENTRY_SHIFT, TLB_HOST};
use crate::cache::state::at;

/// Mask for a page's entry, in bytes.
pub(super) const INDEX_MASK: i32 = ((TLB_ENTRIES - 1) << TLB_ENTRY_SHIFT) as i32;

/// RBP.
const RBP: u8 = 5;

/// What an access is at.
#[derive(Clone, Copy)]
pub(super) enum Address<'a> {
    /// The explicit memory operand.
    Operand(&'a Instruction),
    /// RSP plus a constant.
    Stack(i32),
    /// RBP.
    Frame,
}

/// Where an access's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// [S0 + S1]
    Pair,
    /// [S0 + disp]; S1 is free.
    At(i32),
    /// [register + S1 + disp]
    Sum(u8, i32),
    /// [S1 + disp]
    Led(i32),
    /// [S0 + index * 2^scale + disp]; S1 is free.
    Scaled((u8, u8), i32),
    /// [S1 + index * 2^scale + disp]
    Table((u8, u8), i32),
}

impl Data {
    /// As an operand of ours.
    pub(super) fn mem(self) -> Mem {
        match self {
            Self::Pair => Mem::Sum(S0, S1, 0),
            Self::At(disp) => Mem::Base(S0, disp),
            Self::Sum(base, disp) => Mem::Sum(base, S1, disp),
            Self::Led(disp) => Mem::Base(S1, disp),
            Self::Scaled(index, disp) => Mem::Scaled(S0, index, disp),
            Self::Table(index, disp) => Mem::Scaled(S1, index, disp),
        }
    }
}

/// The tag of an entry for one kind of access.
pub(super) fn tag(kind: usize) -> i32 {
    (TLB + kind * 8) as i32
}

impl Emitter<'_> {
    /// S1 = byte index of the TLB entry for the address in S0.
    pub(super) fn tlb_index(&mut self) {
        self.asm.mov(S1, S0);
        self.asm.shr(S1, 12 - TLB_ENTRY_SHIFT);
        self.asm.alu_imm(false, Alu::And, S1, INDEX_MASK);
    }

    /// Checks an instruction's access and tells where its data is. Changes S0 and S1.
    pub(super) fn data(
        &mut self,
        index: usize,
        address: Address<'_>,
        write: bool,
        size: u32,
    ) -> Data {
        if self.source.gates.windows {
            return self.window(index, address, write);
        }
        let Some(member) = self.groups.members.get(index).copied().flatten() else {
            self.held = None;
            self.form(address, 0);
            self.check(index, write, size, false);
            return Data::Pair;
        };
        let group = self.groups.groups[member.group];
        if group.first == index {
            self.form(address, group.low);
            self.check(index, group.write, group.size, true);
            self.join_address();
            self.asm.store(Mem::Gs(at::group(member.group)), S0);
        } else if self.held != Some(member.group) {
            self.asm.load(S0, Mem::Gs(at::group(member.group)));
        }
        self.held = Some(member.group);
        Data::At(member.offset)
    }

    /// S0 = a linear address, moved by a constant.
    fn form(&mut self, address: Address<'_>, by: i32) {
        match address {
            Address::Operand(ins) => self.linear_address(ins, by + self.lag_in(ins)),
            Address::Stack(disp) => {
                let wide = self.is_wide();
                self.asm.lea(wide, S0, Some(RSP), None, disp + by + self.lag);
            }
            Address::Frame => {
                let wide = self.is_wide();
                self.asm.lea(wide, S0, Some(RBP), None, by);
            }
        }
    }

    /// Checks an access at the linear address in S0; after it, [S0 + S1] is the data.
    fn check(&mut self, index: usize, write: bool, size: u32, grouped: bool) {
        self.clobber(index);
        let site = self.site(SiteKind::Access { write, size, grouped }, index);
        let back = self.asm.here();
        self.tlb_index();
        self.asm.rm(true, &[0x33], S0, Mem::GsIndex(S1, tag(usize::from(write))));
        self.asm.alu_imm(true, Alu::Cmp, S0, 4096 - size as i32);
        let from = self.asm.jcc(cond::ABOVE);
        self.asm.load(S1, Mem::GsIndex(S1, (TLB + TLB_HOST) as i32));
        self.stubs.push(Stub::Miss { from, back, site, write });
    }

    /// Checks the address in S0, which no group knows.
    pub(super) fn check_alone(&mut self, index: usize, write: bool, size: u32) {
        self.held = None;
        self.check(index, write, size, false);
    }

    /// Data at [S0 + disp], so that S1 is free.
    pub(super) fn free_s1(&mut self, data: Data) -> Data {
        match data {
            Data::Pair => self.join_address(),
            Data::Sum(base, disp) => self.asm.lea(true, S0, Some(base), Some((S1, 0)), disp),
            Data::Led(disp) => self.asm.lea(true, S0, Some(S1), None, disp),
            Data::Table(index, disp) => self.asm.lea(true, S0, Some(S1), Some(index), disp),
            Data::At(_) | Data::Scaled(..) => return data,
        }
        Data::At(0)
    }

    /// S0 = S0 + S1: frees S1.
    pub(super) fn join_address(&mut self) {
        self.asm.lea(true, S0, Some(S0), Some((S1, 0)), 0);
    }

    /// Checks that the page after the block's is where it was: the block's only instruction ends
    /// in it.
    pub(super) fn check_second_page(&mut self, host: u64) {
        self.clobber(0);
        let site = self.site(SiteKind::SecondPage, 0);
        self.load_rip(S0, 4096);
        self.tlb_index();
        self.asm.rm(true, &[0x3b], S0, Mem::GsIndex(S1, tag(2)));
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.stubs.push(Stub::Leave { from, site });
        self.asm.constant(S0, host);
        self.asm.rm(true, &[0x3b], S0, Mem::GsIndex(S1, (TLB + TLB_HOST) as i32));
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.stubs.push(Stub::Leave { from, site });
    }

    /// Saves the host's flags; changes S1.
    pub(super) fn save_flags(&mut self) {
        self.asm.mov(S1, RAX);
        self.asm.flags_to_ax();
        self.asm.store(Mem::Gs(at::FLAGS), RAX);
        self.asm.mov(RAX, S1);
    }

    /// Loads saved flags into the host's; changes S1.
    pub(super) fn restore_flags(&mut self) {
        self.asm.mov(S1, RAX);
        self.asm.load32(RAX, Mem::Gs(at::FLAGS));
        self.asm.flags_from_ax();
        self.asm.mov(RAX, S1);
    }

    /// Makes flags again; changes S1.
    pub(super) fn cook(&mut self, recipe: Recipe) {
        let Recipe { maker, size, dst, src, drift } = recipe;
        let unchanged = matches!(maker, Maker::Cmp | Maker::Test | Maker::Logic);
        let drift = if dst == RSP { drift - self.lag } else { drift };
        let register = if unchanged && dst != KEPT && !is_taken(dst) && drift == 0 {
            dst
        } else {
            if dst == KEPT {
                self.asm.load(S1, Mem::Gs(at::KEPT));
            } else if is_taken(dst) {
                self.asm.load(S1, Mem::Gs(at::reg(dst)));
            } else {
                self.asm.lea(true, S1, Some(dst), None, -drift);
            }
            S1
        };
        match maker {
            Maker::Cmp => self.operate(7, size, register, src),
            Maker::Test => self.test(size, register, src),
            Maker::Logic => self.asm.sized_rr(size, 0x84, register, register),
            Maker::Add => {
                self.operate(5, size, register, src);
                self.operate(0, size, register, src);
            }
            Maker::Sub => {
                self.operate(0, size, register, src);
                self.operate(5, size, register, src);
            }
        }
    }

    /// CMP or TEST with the kept value in S1.
    pub(super) fn compare_kept(&mut self, recipe: Recipe) {
        let Recipe { maker, size, dst, src, .. } = recipe;
        let (register, source) = match src {
            Source::Kept => (dst, Source::Register(S1)),
            other => (S1, other),
        };
        // S1 is a scratch register here, not the guest's register of that number.
        match (maker, source) {
            (Maker::Test, Source::Register(other)) => {
                self.asm.sized_rr(size, 0x84, register, other);
            }
            (Maker::Test, source) => self.test(size, register, source),
            (_, Source::Register(other)) => self.asm.sized_rr(size, 0x38, register, other),
            (_, source) => self.operate(7, size, register, source),
        }
    }

    /// One of the eight basic operations by its digit: register OP= source.
    fn operate(&mut self, digit: u8, size: u8, register: u8, source: Source) {
        match source {
            Source::Immediate(value) => self.asm.sized_imm(size, digit, register, value),
            Source::Kept => self.slot_operand(digit << 3 | 2, size, register, at::KEPT),
            Source::Register(other) if is_taken(other) => {
                self.slot_operand(digit << 3 | 2, size, register, at::reg(other));
            }
            Source::Register(other) => self.asm.sized_rr(size, digit << 3, register, other),
        }
    }

    fn test(&mut self, size: u8, register: u8, source: Source) {
        match source {
            Source::Immediate(value) => self.asm.test_imm(size, register, value),
            Source::Kept => self.slot_operand(0x84, size, register, at::KEPT),
            Source::Register(other) if is_taken(other) => {
                self.slot_operand(0x84, size, register, at::reg(other));
            }
            Source::Register(other) => self.asm.sized_rr(size, 0x84, register, other),
        }
    }

    /// An operation whose source is a slot; `opcode` is that of its 8-bit form.
    pub(super) fn slot_operand(&mut self, opcode: u8, size: u8, register: u8, slot: i32) {
        if size == 2 {
            self.asm.bytes.push(0x66);
        }
        let opcode = [opcode | u8::from(size != 1)];
        self.asm.rm_byte(size == 8, size == 1, &opcode, register, Mem::Gs(slot));
    }
}
