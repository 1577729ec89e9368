//! Instructions that are copied, with their registers and memory operand replaced where needed.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::asm::{Alu, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::{Fact, Kind, gpr_of};
use super::flags::{Place, Recipe, fate};
use super::memory::{Address, Data};
use super::registers::{S0, S1, is_taken};
use super::site::SiteKind;
use crate::cache::state::at;

/// A taken register and the scratch register that stands for it in one instruction.
type Stand = (u8, u8);

impl Emitter<'_> {
    /// Copies an instruction.
    pub(super) fn plain(&mut self, index: usize, fact: &Fact) {
        if let Some(recipe) = self.worth_keeping(index, fact) {
            self.compare_memory(index, fact, recipe);
            return;
        }
        if fact.access.is_none() && fact.reads_flags {
            self.want_native();
        }
        if self.on_slot(fact) {
            return;
        }
        let mut ins = fact.ins;
        let mut stands = stands(&ins, fact.access.is_some());
        if let Some(access) = fact.access {
            let mut data = self.data(index, Address::Operand(&fact.ins), access.write, access.size);
            let wants_flags = fact.reads_flags && !matches!(self.place, Place::Native { .. });
            match (&mut stands[0], data) {
                // S0 is free as well, and S1 leads to the window of what follows, too.
                (Some(stand), Data::Sum(base, _)) if base != S0 && !wants_flags => stand.1 = S0,
                (Some(stand), Data::Led(_)) if !wants_flags => stand.1 = S0,
                (Some(stand), Data::Table((index, _), _)) if index != S0 && !wants_flags => {
                    stand.1 = S0;
                }
                (None, _) if !wants_flags => {}
                _ => data = self.free_s1(data),
            }
            point(&mut ins, data);
            if wants_flags {
                self.want_native();
            }
        }
        if fact.access.is_none() && stands[0].is_none() {
            self.note_trap(index, fact);
            match self.is_wide() {
                true => self.copy(fact),
                // The bytes may mean something else in 64-bit mode.
                false if fact.ins.mnemonic() == Mnemonic::Vzeroupper => self.zero_low_uppers(),
                false => self.encode(&fact.ins),
            }
            return;
        }
        if let [Some(first), Some(second)] = &mut stands
            && first.1 == S0
            && self.is_in_s0(second.0)
        {
            std::mem::swap(&mut first.1, &mut second.1);
        }
        if stands.iter().flatten().any(|stand| stand.1 == S0) {
            self.held = None;
        }
        for (number, scratch) in stands.iter().flatten() {
            if fact.loads >> number & 1 != 0 {
                self.load_taken(*scratch, *number);
            }
        }
        replace(&mut ins, &stands);
        self.note_trap(index, fact);
        self.encode(&ins);
        for &(number, scratch) in stands.iter().flatten() {
            if fact.writes >> number & 1 != 0 {
                self.asm.note_change(scratch);
                self.store_taken(number, scratch);
            }
        }
    }

    /// A taken register = the value of another register, which may be S0.
    pub(super) fn store_taken(&mut self, number: u8, from: u8) {
        self.asm.store(Mem::Gs(at::reg(number)), from);
        if from == S0 {
            self.hold_in_s0(number);
        } else if self.stood == Some(number) {
            self.stood = None;
        }
    }

    /// S0's value is that of a taken register, until one of them changes.
    fn hold_in_s0(&mut self, number: u8) {
        self.stood = Some(number);
        self.asm.forget_changes(S0);
    }

    /// Whether a taken register's value is in S0.
    pub(super) fn is_in_s0(&self, number: u8) -> bool {
        self.stood == Some(number) && !self.asm.has_changed(S0)
    }

    /// A scratch register = a taken register's value.
    pub(super) fn load_taken(&mut self, scratch: u8, number: u8) {
        if scratch == S0 && self.is_in_s0(number) {
            return;
        }
        self.asm.load(scratch, Mem::Gs(at::reg(number)));
        if scratch == S0 {
            self.hold_in_s0(number);
        }
    }

    /// Behind an instruction of another kind: S0's value is no longer that of a register it wrote.
    pub(super) fn forget_stood(&mut self, fact: &Fact) {
        let stays = match fact.kind {
            Kind::Plain => true,
            Kind::Address | Kind::Push | Kind::Pop | Kind::Branch(_) | Kind::Nothing => {
                self.stood.is_some_and(|number| fact.writes >> number & 1 == 0)
            }
            _ => false,
        };
        if !stays {
            self.stood = None;
        }
    }

    /// The recipe of a CMP or TEST with memory whose flags outlive a check behind it.
    fn worth_keeping(&self, index: usize, fact: &Fact) -> Option<Recipe> {
        let access = fact.access.filter(|access| !access.write && !self.source.gates.windows)?;
        let recipe = Recipe::with_memory(&fact.ins)?;
        let fate = fate(self.facts, index + 1);
        let end = (fate.at + 1).min(self.facts.len());
        let checked = self.facts[index + 1..end].iter().any(|fact| fact.can_leave);
        (access.size == u32::from(recipe.size) && checked).then_some(recipe)
    }

    /// CMP or TEST with memory, keeping the value so that the flags can be made again.
    fn compare_memory(&mut self, index: usize, fact: &Fact, recipe: Recipe) {
        let access = fact.access.expect("it has a memory operand");
        let data = self.data(index, Address::Operand(&fact.ins), false, access.size);
        let data = self.free_s1(data).mem();
        self.load_sized(recipe.size, S1, data);
        self.keep_compared();
        self.compare_kept(recipe);
        self.copied = Some(recipe);
    }

    /// A register = so many bytes of memory.
    pub(super) fn load_sized(&mut self, size: u8, to: u8, from: Mem) {
        match size {
            1 => self.asm.rm(false, &[0x0f, 0xb6], to, from),
            2 => self.asm.rm(false, &[0x0f, 0xb7], to, from),
            4 => self.asm.load32(to, from),
            _ => self.asm.load(to, from),
        }
    }

    /// Keeps the value in S1 of a memory operand that makes the flags.
    pub(super) fn keep_compared(&mut self) {
        self.asm.store(Mem::Gs(at::KEPT), S1);
    }

    /// The instruction's own bytes, or what says the same with other registers.
    fn copy(&mut self, fact: &Fact) {
        match fact.code_at {
            None => self.encode(&fact.ins),
            Some(start) => {
                let start = start as usize;
                self.asm.bytes.extend(&self.source.bytes[start..start + fact.ins.len()]);
            }
        }
    }

    fn encode(&mut self, ins: &Instruction) {
        self.encoder.set_buffer(std::mem::take(&mut self.asm.bytes));
        self.encoder.encode(ins, 0).expect("a decoded instruction with simpler operands encodes");
        self.asm.bytes = self.encoder.take_buffer();
    }

    /// The host may raise a signal on what comes next.
    fn note_trap(&mut self, index: usize, fact: &Fact) {
        if self.touching.is_some() {
            self.touch();
        } else if fact.can_trap {
            let site = self.site(SiteKind::Trap, index);
            self.traps.push((self.asm.here() as u32, site));
        }
    }

    /// Loads vector and x87 state if the host does not hold it.
    pub(super) fn ready_units(&mut self, index: usize, fact: &Fact) {
        self.held = None;
        self.stood = None;
        self.clobber(index);
        if fact.vector && !self.vectors_ready {
            self.vectors_ready = true;
            self.ready_unit(at::VECTORS_LIVE, false);
        }
        if fact.x87 && !self.x87_ready {
            self.x87_ready = true;
            self.ready_unit(at::X87_LIVE, true);
        }
    }

    fn ready_unit(&mut self, live: i32, x87: bool) {
        self.asm.cmp_mem32(Mem::Gs(live), 0);
        let from = self.asm.jcc(cond::EQUAL);
        let back = self.asm.here();
        self.asm.note_change(S1);
        self.stubs.push(Stub::Unit { from, back, x87 });
    }

    /// BT and kin with a register as offset: the operand is as many words away as it says.
    pub(super) fn bit_string(&mut self, index: usize, fact: &Fact) {
        let mut ins = fact.ins;
        let (number, size) =
            gpr_of(ins.op1_register()).expect("word, doubleword or quadword registers");
        let access = fact.access.expect("the form with a memory operand");
        // Shifts and masks would destroy the flags before the check secures them.
        self.clobber(index);
        self.held = None;
        self.linear_address(&ins, 0);
        self.offset_register(number, size);
        let (shift, scale) = match size {
            2 => (4, 1),
            4 => (5, 2),
            _ => (6, 3),
        };
        self.asm.sar(S1, shift);
        let wide = self.is_wide();
        self.asm.lea(wide, S0, Some(S0), Some((S1, scale)), 0);
        if self.source.gates.windows {
            self.window_alone(index, access.write);
        } else {
            self.check_alone(index, access.write, access.size);
        }
        self.join_address();
        self.offset_register(number, size);
        self.asm.alu_imm(false, Alu::And, S1, i32::from(size) * 8 - 1);
        self.asm.store(Mem::Gs(at::TEMP), S1);
        // Only CF changes: the others must be there. This needs S1.
        self.want_native();
        self.asm.load(S1, Mem::Gs(at::TEMP));
        point(&mut ins, Data::At(0));
        ins.set_op1_register(sized(S1, u32::from(size)));
        self.touch();
        self.encode(&ins);
    }

    /// S1 = a register's value, sign-extended.
    fn offset_register(&mut self, number: u8, size: u8) {
        if is_taken(number) {
            self.asm.load(S1, Mem::Gs(at::reg(number)));
        } else {
            self.asm.mov(S1, number);
        }
        match size {
            2 => self.asm.rr(true, &[0x0f, 0xbf], S1, S1),
            4 => self.asm.rr(true, &[0x63], S1, S1),
            _ => {}
        }
    }
}

/// Points the memory operand at its data.
fn point(ins: &mut Instruction, data: Data) {
    let (base, index, scale, disp) = match data {
        Data::Pair => (S0, sized(S1, 8), 0, 0),
        Data::At(disp) => (S0, Register::None, 0, disp),
        Data::Sum(base, disp) => (base, sized(S1, 8), 0, disp),
        Data::Led(disp) => (S1, Register::None, 0, disp),
        Data::Scaled((index, scale), disp) => (S0, sized(index, 8), scale, disp),
        Data::Table((index, scale), disp) => (S1, sized(index, 8), scale, disp),
    };
    ins.set_segment_prefix(Register::None);
    ins.set_memory_base(sized(base, 8));
    ins.set_memory_index(index);
    ins.set_memory_index_scale(1 << scale);
    ins.set_memory_displacement64(disp as i64 as u64);
    ins.set_memory_displ_size(u32::from(disp != 0));
}

/// The taken registers among the register operands, with their stand-ins: S1 alone where there is
/// a memory operand (S0 points at it).
fn stands(ins: &Instruction, memory: bool) -> [Option<Stand>; 2] {
    let mut found: [Option<Stand>; 2] = [None; 2];
    let scratch = if memory { [S1, S1] } else { [S0, S1] };
    let mut used = 0;
    for index in 0..ins.op_count() {
        if ins.op_kind(index) != OpKind::Register {
            continue;
        }
        let Some((number, _)) = gpr_of(ins.op_register(index)) else { continue };
        if is_taken(number) && !found.iter().flatten().any(|stand| stand.0 == number) {
            found[used] = Some((number, scratch[used]));
            used += 1;
        }
    }
    found
}

/// Puts all stand-ins in at once: a taken register's number may be another one's scratch.
fn replace(ins: &mut Instruction, stands: &[Option<Stand>; 2]) {
    for index in 0..ins.op_count() {
        if ins.op_kind(index) == OpKind::Register
            && let Some((number, size)) = gpr_of(ins.op_register(index))
            && let Some((_, scratch)) = stands.iter().flatten().find(|stand| stand.0 == number)
        {
            ins.set_op_register(index, sized(*scratch, u32::from(size)));
        }
    }
}

/// A register by number and byte size.
fn sized(number: u8, size: u32) -> Register {
    let base = match size {
        1 => {
            return match number {
                10 => Register::R10L,
                11 => Register::R11L,
                _ => unreachable!("only scratch registers are named here"),
            };
        }
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + u32::from(number)
}
