//! An emitter for the host instructions around the guest's own (SDM vol. 2, chapter 2).
//!
//! Registers are numbers in encoding order. Nothing here knows about guests but where jumps are looked up.

use crate::cache::layout::{JUMP_GRAIN, JUMP_SHIFT};

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mem {
    /// gs:[disp]
    Gs(i32),
    /// gs:[index + disp]
    GsIndex(u8, i32),
    /// gs:[index * 8 + disp]
    Table(u8, i32),
    /// gs:[(index * 8 + disp) & 0xffff_ffff]
    ShortTable(u8, i32),
    /// [base + disp]
    Base(u8, i32),
    /// [base + index + disp]
    Sum(u8, u8, i32),
    /// [base + index * 2^scale + disp]
    Scaled(u8, (u8, u8), i32),
}

/// Arithmetic with a /digit of the immediate group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alu {
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// A place in the code that a later one completes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hole(usize);

/// Condition codes as in Jcc.
pub(crate) mod cond {
    pub(crate) const ABOVE: u8 = 7;
    pub(crate) const EQUAL: u8 = 4;
    pub(crate) const NOT_EQUAL: u8 = 5;
    pub(crate) const SIGN: u8 = 8;
    pub(crate) const NOT_SIGN: u8 = 9;
}

/// Host code under construction.
#[derive(Debug, Default)]
pub(crate) struct Asm {
    pub(crate) bytes: Vec<u8>,
    /// Registers that code since the last `forget` may have changed, a bit each.
    changed: u16,
}

impl Asm {
    /// Code that goes on in a buffer of its own.
    pub(crate) fn with_buffer(bytes: Vec<u8>) -> Self {
        Self { bytes, changed: 0 }
    }

    /// Whether a register may have changed since it was last forgotten.
    pub(crate) fn has_changed(&self, register: u8) -> bool {
        self.changed >> register & 1 != 0
    }

    /// From here on, a register's changes are noted anew.
    pub(crate) fn forget_changes(&mut self, register: u8) {
        self.changed &= !(1 << register);
    }

    /// A register changes.
    pub(crate) fn note_change(&mut self, register: u8) {
        self.changed |= 1 << register;
    }

    pub(crate) fn here(&self) -> usize {
        self.bytes.len()
    }

    fn int32(&mut self, value: i32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn rex(&mut self, wide: bool, reg: u8, index: u8, base: u8, force: bool) {
        let bits = u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if bits != 0 || force {
            self.bytes.push(0x40 | bits);
        }
    }

    /// An opcode with a register and a memory operand.
    pub(crate) fn rm(&mut self, wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        self.rm_forced(wide, opcode, reg, mem, false);
    }

    /// The same, where the register may be a byte register: SPL to DIL need a REX prefix.
    pub(crate) fn rm_byte(&mut self, wide: bool, byte: bool, opcode: &[u8], reg: u8, mem: Mem) {
        self.rm_forced(wide, opcode, reg, mem, byte);
    }

    fn rm_forced(&mut self, wide: bool, opcode: &[u8], reg: u8, mem: Mem, force: bool) {
        let low = (reg & 7) << 3;
        if !matches!(opcode, [0x88 | 0x89]) {
            self.note_change(reg);
        }
        match mem {
            Mem::Gs(disp) => {
                self.bytes.push(0x65);
                self.rex(wide, reg, 0, 0, force);
                self.bytes.extend(opcode);
                self.bytes.extend([low | 4, 0x25]);
                self.int32(disp);
            }
            Mem::GsIndex(index, disp) => {
                self.bytes.push(0x65);
                self.rex(wide, reg, 0, index, force);
                self.bytes.extend(opcode);
                self.base_disp(low, index, disp);
            }
            Mem::Table(index, disp) | Mem::ShortTable(index, disp) => {
                self.bytes.push(0x65);
                if matches!(mem, Mem::ShortTable(..)) {
                    self.bytes.push(0x67);
                }
                self.rex(wide, reg, index, 0, force);
                self.bytes.extend(opcode);
                self.bytes.extend([low | 4, 0xc0 | (index & 7) << 3 | 5]);
                self.int32(disp);
            }
            Mem::Base(base, disp) => {
                self.rex(wide, reg, 0, base, force);
                self.bytes.extend(opcode);
                self.base_disp(low, base, disp);
            }
            Mem::Sum(base, index, disp) => {
                self.rm_forced(wide, opcode, reg, Mem::Scaled(base, (index, 0), disp), force);
            }
            Mem::Scaled(base, (index, scale), disp) => {
                self.rex(wide, reg, index, base, force);
                self.bytes.extend(opcode);
                assert!(index != 4, "RSP is never an index");
                self.sib_disp(low, scale << 6 | (index & 7) << 3, base, disp);
            }
        }
    }

    fn base_disp(&mut self, low: u8, base: u8, disp: i32) {
        let short = i8::try_from(disp).ok();
        let mode = match short {
            Some(0) if base & 7 != 5 => 0,
            Some(_) => 0x40,
            None => 0x80,
        };
        self.bytes.push(mode | low | base & 7);
        if base & 7 == 4 {
            self.bytes.push(0x24);
        }
        match short {
            _ if mode == 0 => {}
            Some(short) => self.bytes.push(short as u8),
            None => self.int32(disp),
        }
    }

    /// ModRM, SIB and displacement of [base + what `sib` says + disp].
    fn sib_disp(&mut self, low: u8, sib: u8, base: u8, disp: i32) {
        let short = i8::try_from(disp).ok();
        let mode = match short {
            Some(0) if base & 7 != 5 => 0,
            Some(_) => 0x40,
            None => 0x80,
        };
        self.bytes.extend([mode | low | 4, sib | base & 7]);
        match short {
            _ if mode == 0 => {}
            Some(short) => self.bytes.push(short as u8),
            None => self.int32(disp),
        }
    }

    /// An opcode with two registers.
    pub(crate) fn rr(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        self.note_change(reg);
        self.note_change(rm);
        self.rex(wide, reg, 0, rm, false);
        self.bytes.extend(opcode);
        self.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    pub(crate) fn mov(&mut self, to: u8, from: u8) {
        self.rr(true, &[0x89], from, to);
    }

    pub(crate) fn mov32(&mut self, to: u8, from: u8) {
        self.rr(false, &[0x89], from, to);
    }

    pub(crate) fn load(&mut self, to: u8, from: Mem) {
        self.rm(true, &[0x8b], to, from);
    }

    pub(crate) fn load32(&mut self, to: u8, from: Mem) {
        self.rm(false, &[0x8b], to, from);
    }

    pub(crate) fn store(&mut self, to: Mem, from: u8) {
        self.rm(true, &[0x89], from, to);
    }

    /// Stores a sign-extended immediate, 64 bits wide.
    pub(crate) fn store_imm(&mut self, to: Mem, value: i32) {
        self.rm(true, &[0xc7], 0, to);
        self.int32(value);
    }

    pub(crate) fn store_imm32(&mut self, to: Mem, value: i32) {
        self.rm(false, &[0xc7], 0, to);
        self.int32(value);
    }

    /// Loads a constant in the shortest form.
    pub(crate) fn constant(&mut self, to: u8, value: u64) {
        self.note_change(to);
        if let Ok(small) = u32::try_from(value) {
            self.rex(false, 0, 0, to, false);
            self.bytes.push(0xb8 | to & 7);
            self.bytes.extend(small.to_le_bytes());
        } else if let Ok(signed) = i32::try_from(value as i64) {
            self.rex(true, 0, 0, to, false);
            self.bytes.extend([0xc7, 0xc0 | to & 7]);
            self.int32(signed);
        } else {
            self.rex(true, 0, 0, to, false);
            self.bytes.push(0xb8 | to & 7);
            self.bytes.extend(value.to_le_bytes());
        }
    }

    /// LEA to, [base + index * 2^scale + disp], 64 or 32 bits wide; changes no flag.
    pub(crate) fn lea(
        &mut self,
        wide: bool,
        to: u8,
        base: Option<u8>,
        index: Option<(u8, u8)>,
        disp: i32,
    ) {
        self.note_change(to);
        let low = (to & 7) << 3;
        let index_bits = index.map_or(4, |(register, _)| register);
        self.rex(wide, to, index_bits & 8, base.unwrap_or(0), false);
        self.bytes.push(0x8d);
        match (base, index) {
            (Some(base), None) => self.base_disp(low, base, disp),
            (base, index) => {
                let (register, scale) = index.unwrap_or((4, 0));
                let sib = scale << 6 | (register & 7) << 3;
                match base {
                    None => {
                        self.bytes.extend([low | 4, sib | 5]);
                        self.int32(disp);
                    }
                    Some(base) => self.sib_disp(low, sib, base, disp),
                }
            }
        }
    }

    /// Adds a constant without touching flags.
    pub(crate) fn add_quietly(&mut self, to: u8, disp: i32) {
        self.lea(true, to, Some(to), None, disp);
    }

    /// NOT, which changes no flag.
    pub(crate) fn not(&mut self, register: u8) {
        self.rr(true, &[0xf7], 2, register);
    }

    pub(crate) fn shr(&mut self, register: u8, bits: u8) {
        self.note_change(register);
        self.rex(true, 0, 0, register, false);
        self.bytes.extend([0xc1, 0xe8 | register & 7, bits]);
    }

    pub(crate) fn shl(&mut self, register: u8, bits: u8) {
        self.note_change(register);
        self.rex(true, 0, 0, register, false);
        self.bytes.extend([0xc1, 0xe0 | register & 7, bits]);
    }

    pub(crate) fn sar(&mut self, register: u8, bits: u8) {
        self.note_change(register);
        self.rex(true, 0, 0, register, false);
        self.bytes.extend([0xc1, 0xf8 | register & 7, bits]);
    }

    /// RORX: rotates without touching flags (BMI2).
    pub(crate) fn rorx(&mut self, to: u8, from: u8, bits: u8) {
        self.note_change(to);
        let r = u8::from(to < 8) << 7;
        let b = u8::from(from < 8) << 5;
        self.bytes.extend([0xc4, r | 0x40 | b | 3, 0xfb, 0xf0]);
        self.bytes.extend([0xc0 | (to & 7) << 3 | from & 7, bits]);
    }

    /// An operation with an immediate on a register.
    pub(crate) fn alu_imm(&mut self, wide: bool, what: Alu, register: u8, value: i32) {
        self.note_change(register);
        self.rex(wide, 0, 0, register, false);
        let modrm = 0xc0 | (what as u8) << 3 | register & 7;
        match i8::try_from(value) {
            Ok(short) => self.bytes.extend([0x83, modrm, short as u8]),
            Err(_) => {
                self.bytes.extend([0x81, modrm]);
                self.int32(value);
            }
        }
    }

    /// CMP dword mem, imm8.
    pub(crate) fn cmp_mem32(&mut self, mem: Mem, value: i8) {
        self.rm(false, &[0x83], 7, mem);
        self.bytes.push(value as u8);
    }

    /// An operation of the given width (1, 2, 4, 8 bytes) between registers: `register OP= operand`.
    /// `base_opcode` is that of the 8-bit "r/m, r" form.
    pub(crate) fn sized_rr(&mut self, size: u8, base_opcode: u8, register: u8, operand: u8) {
        self.note_change(register);
        if size == 2 {
            self.bytes.push(0x66);
        }
        self.rex(size == 8, operand, 0, register, size == 1);
        self.bytes.push(base_opcode | u8::from(size != 1));
        self.bytes.push(0xc0 | (operand & 7) << 3 | register & 7);
    }

    /// The same with an immediate, by the immediate group's digit.
    pub(crate) fn sized_imm(&mut self, size: u8, digit: u8, register: u8, value: i32) {
        self.note_change(register);
        if size == 2 {
            self.bytes.push(0x66);
        }
        self.rex(size == 8, 0, 0, register, size == 1);
        let modrm = 0xc0 | digit << 3 | register & 7;
        match size {
            1 => self.bytes.extend([0x80, modrm, value as u8]),
            2 => {
                self.bytes.extend([0x81, modrm]);
                self.bytes.extend((value as i16).to_le_bytes());
            }
            _ => {
                self.bytes.extend([0x81, modrm]);
                self.int32(value);
            }
        }
    }

    /// TEST with an immediate.
    pub(crate) fn test_imm(&mut self, size: u8, register: u8, value: i32) {
        if size == 2 {
            self.bytes.push(0x66);
        }
        self.rex(size == 8, 0, 0, register, size == 1);
        self.bytes.extend([0xf6 | u8::from(size != 1), 0xc0 | register & 7]);
        match size {
            1 => self.bytes.push(value as u8),
            2 => self.bytes.extend((value as i16).to_le_bytes()),
            _ => self.int32(value),
        }
    }

    /// Jcc rel32 to a place that is not known yet.
    pub(crate) fn jcc(&mut self, condition: u8) -> Hole {
        self.bytes.extend([0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Hole(self.bytes.len())
    }

    /// JMP rel32 to a place that is not known yet.
    pub(crate) fn jmp(&mut self) -> Hole {
        self.bytes.extend([0xe9, 0, 0, 0, 0]);
        Hole(self.bytes.len())
    }

    /// LEA register, [RIP + 5]: what follows the JMP rel32 that comes next.
    pub(crate) fn point_behind_jump(&mut self, register: u8) {
        self.note_change(register);
        self.rex(true, register, 0, 0, true);
        self.bytes.extend([0x8d, (register & 7) << 3 | 5]);
        self.int32(5);
    }

    pub(crate) fn jmp_mem(&mut self, mem: Mem) {
        self.rm(false, &[0xff], 4, mem);
    }

    pub(crate) fn jmp_reg(&mut self, register: u8) {
        self.rr(false, &[0xff], 4, register);
    }

    pub(crate) fn call_mem(&mut self, mem: Mem) {
        self.rm(false, &[0xff], 2, mem);
    }

    /// LAHF; SETO AL.
    pub(crate) fn flags_to_ax(&mut self) {
        self.bytes.extend([0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// ADD AL, 0x7F; SAHF.
    pub(crate) fn flags_from_ax(&mut self) {
        self.bytes.extend([0x04, 0x7f, 0x9e]);
    }

    /// JRCXZ to a place that is not known yet, less than 128 bytes away.
    pub(crate) fn jrcxz(&mut self) -> Hole {
        self.bytes.extend([0xe3, 0]);
        Hole(self.bytes.len())
    }

    /// Completes a JRCXZ: it goes to here.
    pub(crate) fn land_short(&mut self, hole: Hole) {
        let distance = i8::try_from(self.here() - hole.0).expect("what it skips is short");
        self.bytes[hole.0 - 1] = distance as u8;
    }

    /// Jumps to a place that is not known yet unless RCX is 0.
    pub(crate) fn jump_unless_rcx_is_0(&mut self) -> Hole {
        let goes_on = self.jrcxz();
        let from = self.jmp();
        self.land_short(goes_on);
        from
    }

    /// Completes a jump: it goes to here.
    pub(crate) fn land(&mut self, hole: Hole) {
        self.land_far(hole, self.here() as i64);
    }

    /// Completes a jump: it goes to a place relative to this code's start.
    pub(crate) fn land_far(&mut self, hole: Hole, place: i64) {
        let relative = place - hole.0 as i64;
        let relative = i32::try_from(relative).expect("code is smaller than 2 GiB");
        self.bytes[hole.0 - 4..hole.0].copy_from_slice(&relative.to_le_bytes());
    }

    /// Where the four bytes of a jump's distance lie.
    pub(crate) fn distance_at(hole: Hole) -> usize {
        hole.0 - 4
    }
}

/// Sequences of several instructions.
impl Asm {
    /// WRGSBASE.
    pub(crate) fn write_gs_base(&mut self, register: u8) {
        self.bytes.extend([0xf3, 0x48 | register >> 3, 0x0f, 0xae, 0xd8 | register & 7]);
    }

    /// A register, which holds the same address as another one = place of its entry in the jump
    /// cache; changes the flags.
    pub(crate) fn jump_entry(&mut self, register: u8, address: u8) {
        self.shr(register, JUMP_SHIFT);
        self.rr(false, &[0x01], address, register);
        self.shr(register, JUMP_GRAIN);
        self.rr(false, &[0x0f, 0xb7], register, register);
        self.shl(register, 4);
    }

    /// Jumps where an address is not canonical; changes the register.
    pub(crate) fn unless_canonical(&mut self, register: u8) -> Hole {
        self.sar(register, 47);
        self.add_quietly(register, 1);
        self.alu_imm(true, Alu::Cmp, register, 1);
        self.jcc(cond::ABOVE)
    }
}
