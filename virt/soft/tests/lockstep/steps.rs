//! What a program does in its loops, one method for each kind of step.

use iced_x86::{Code, Instruction, OpKind, Register};

use crate::code::{Goal, Label, branch};
use crate::layout::{DATA, PAGE};
use crate::operand::{self, Address, free};
use crate::program::{Writer, with_reg_imm, with_regs, with1, with1r, with2m};

const RSP: Register = Register::RSP;
const RBP: Register = Register::RBP;

/// Jcc rel8 and rel32 of every condition.
const JUMPS: [Code; 32] = [
    Code::Jo_rel8_64,
    Code::Jno_rel8_64,
    Code::Jb_rel8_64,
    Code::Jae_rel8_64,
    Code::Je_rel8_64,
    Code::Jne_rel8_64,
    Code::Jbe_rel8_64,
    Code::Ja_rel8_64,
    Code::Js_rel8_64,
    Code::Jns_rel8_64,
    Code::Jp_rel8_64,
    Code::Jnp_rel8_64,
    Code::Jl_rel8_64,
    Code::Jge_rel8_64,
    Code::Jle_rel8_64,
    Code::Jg_rel8_64,
    Code::Jo_rel32_64,
    Code::Jno_rel32_64,
    Code::Jb_rel32_64,
    Code::Jae_rel32_64,
    Code::Je_rel32_64,
    Code::Jne_rel32_64,
    Code::Jbe_rel32_64,
    Code::Ja_rel32_64,
    Code::Js_rel32_64,
    Code::Jns_rel32_64,
    Code::Jp_rel32_64,
    Code::Jnp_rel32_64,
    Code::Jl_rel32_64,
    Code::Jge_rel32_64,
    Code::Jle_rel32_64,
    Code::Jg_rel32_64,
];

/// Flags in, registers out.
const READERS: [Code; 8] = [
    Code::Adc_r64_rm64,
    Code::Sbb_r32_rm32,
    Code::Cmovb_r64_rm64,
    Code::Cmovle_r32_rm32,
    Code::Setp_rm8,
    Code::Seto_rm8,
    Code::Rcl_rm64_1,
    Code::Cmova_r64_rm64,
];

impl Writer<'_> {
    /// One step of a loop or function.
    pub(crate) fn step(&mut self, depth: usize) {
        match self.random.below(32) {
            0..=9 => {
                for _ in 0..1 + self.random.below(5) {
                    self.random_instruction();
                }
            }
            10..=13 => self.neighbours(),
            14..=15 => self.pushed(depth),
            16 => self.framed(),
            17..=18 => self.call(),
            19..=22 => self.skip(depth),
            23 => self.leave_by_jump(),
            24 => self.switch(depth),
            25 => self.string(),
            26 => self.flags_word(),
            27 => self.patch(),
            28 => self.divide(),
            29 => self.segment_base(),
            30 if !self.user => self.privileged(),
            30 => self.counted_jump(),
            _ => self.bump(),
        }
    }

    pub(crate) fn random_instruction(&mut self) {
        for _ in 0..8 {
            let code = self.opcodes.pick(self.random, self.leaning);
            let (random, factory) = (&mut *self.random, &mut self.factory);
            if let Some((ins, at)) = operand::instruction(random, &self.roles, factory, code) {
                self.with_small(at);
                self.emit(ins, at.map_or(Goal::None, |at| at.goal));
                return;
            }
        }
    }

    /// Makes an index register small, without touching the flags.
    pub(crate) fn with_small(&mut self, at: Option<Address>) {
        if let Some(index) = at.and_then(|at| at.small)
            && !self.random.once_in(24)
        {
            let (to, from) = (Register::EAX + index, operand::byte_register(self.random, index));
            let from = match index {
                0..4 => Register::AL + index,
                // 32-bit code has no SPL to DIL.
                _ if self.roles.narrow.is_some() => Register::AL + (index & 3),
                _ => from,
            };
            self.plain(with_regs(Code::Movzx_r32_rm8, to, from));
        }
    }

    /// Several accesses at constant distances from one pointer, which may move meanwhile.
    fn neighbours(&mut self) {
        let pointer = self.random.pick(&self.roles.pointers.clone());
        let from = (self.random.below(32) * 8) as i64 - 64;
        for _ in 0..2 + self.random.below(7) {
            let near = from + self.random.below(40) as i64 * self.random.pick(&[1, 4, 8]);
            let address = match self.random.below(12) {
                0 => Address::based(4, -8 - (self.random.below(12) * 8) as i64),
                1 => Address::relative(Goal::Offset(DATA + 0x100 + self.random.below(40) * 8)),
                _ => Address::based(pointer, near),
            };
            let Some(number) = free(self.random, &self.roles) else { return };
            let ins = self.accessor(number, address);
            self.at(ins, address);
            match self.random.below(10) {
                0 => self.move_pointer(pointer),
                1 => self.copy_pointer(pointer),
                2 => self.random_instruction(),
                _ => {}
            }
        }
    }

    /// A small instruction on memory with a register.
    fn accessor(&mut self, number: u32, address: Address) -> Instruction {
        let load = [
            (Code::Mov_r64_rm64, Register::RAX),
            (Code::Mov_r32_rm32, Register::EAX),
            (Code::Add_r64_rm64, Register::RAX),
            (Code::Cmp_r32_rm32, Register::EAX),
            (Code::Xor_r64_rm64, Register::RAX),
            (Code::Movzx_r32_rm16, Register::EAX),
            (Code::Movdqu_xmm_xmmm128, Register::XMM0),
        ];
        let store = [
            (Code::Mov_rm64_r64, Register::RAX),
            (Code::Mov_rm32_r32, Register::EAX),
            (Code::Add_rm32_r32, Register::EAX),
            (Code::Test_rm64_r64, Register::RAX),
            (Code::And_rm64_r64, Register::RAX),
            (Code::Mov_rm16_r16, Register::AX),
            (Code::Movdqu_xmmm128_xmm, Register::XMM0),
        ];
        let mut ins = Instruction::new();
        let memory = if self.random.once_in(2) {
            let (code, first) = self.random.pick(&load);
            ins.set_code(code);
            ins.set_op0_register(first + number);
            1
        } else {
            let (code, first) = self.random.pick(&store);
            ins.set_code(code);
            ins.set_op1_kind(OpKind::Register);
            ins.set_op1_register(first + number);
            0
        };
        ins.set_op_kind(memory, OpKind::Memory);
        address.apply(&mut ins);
        ins
    }

    /// Moves a pointer by a constant in one of the ways that can be followed, or that cannot.
    fn move_pointer(&mut self, pointer: u32) {
        let register = Register::RAX + pointer;
        let by = self.random.pick(&[8, 16, -8, 1, 64, 100, -32]);
        let ins = match self.random.below(6) {
            0 => with_reg_imm(Code::Add_rm64_imm8, register, by),
            1 => with_reg_imm(Code::Sub_rm64_imm32, register, by),
            2 => with1r(Code::Inc_rm64, register),
            3 => with1r(Code::Dec_rm64, register),
            4 => with_reg_imm(Code::Xor_rm64_imm8, register, 8),
            _ => lea(register, Address::based(pointer, by)),
        };
        self.plain(ins);
    }

    /// A copy of a pointer in a free register, used at once.
    fn copy_pointer(&mut self, pointer: u32) {
        let Some(copy) = free(self.random, &self.roles) else { return };
        let (to, from) = (Register::RAX + copy, Register::RAX + pointer);
        let by = self.random.below(100) as i64;
        let ins = match self.random.below(3) {
            0 => with_regs(Code::Mov_r64_rm64, to, from),
            1 => with_regs(Code::Mov_rm64_r64, to, from),
            _ => lea(to, Address::based(pointer, by)),
        };
        self.plain(ins);
        for _ in 0..1 + self.random.below(3) {
            let address = Address::based(copy, self.random.below(30) as i64 * 8);
            let Some(number) = free(self.random, &self.roles) else { return };
            let ins = self.accessor(number, address);
            self.at(ins, address);
            if number == copy {
                return;
            }
        }
    }

    fn bump(&mut self) {
        let pointer = self.random.pick(&self.roles.pointers.clone());
        self.move_pointer(pointer);
    }

    /// An access or an address that changes no flag.
    pub(crate) fn quiet_access(&mut self) {
        let pointer = self.random.pick(&self.roles.pointers.clone());
        let Some(number) = free(self.random, &self.roles) else { return };
        let register = Register::RAX + number;
        let address = Address::based(pointer, self.random.below(40) as i64 * 8);
        match self.random.below(4) {
            0 => self.plain(lea(register, address)),
            1 => self.at(load(register), address),
            2 => {
                let mut store = with2m(Code::Mov_rm64_r64, OpKind::Register);
                store.set_op1_register(register);
                self.at(store, address);
            }
            _ => {
                self.plain(with1r(Code::Push_r64, register));
                self.plain(with1r(Code::Pop_r64, register));
            }
        }
    }

    /// The loop's own flags, first hidden by an access, then read.
    pub(crate) fn reads_flags_of_the_loop(&mut self) {
        for _ in 0..self.random.below(3) {
            self.quiet_access();
        }
        let code = self.random.pick(&READERS);
        let (random, factory) = (&mut *self.random, &mut self.factory);
        if let Some((ins, at)) = operand::instruction(random, &self.roles, factory, code) {
            self.with_small(at);
            self.emit(ins, at.map_or(Goal::None, |at| at.goal));
        }
    }

    /// Something on the stack meanwhile.
    fn pushed(&mut self, depth: usize) {
        let count = 1 + self.random.below(3);
        for _ in 0..count {
            let any = Register::RAX + self.random.below(16) as u32;
            let value = self.random.next() as i32;
            match self.random.below(5) {
                0 => self.plain(with1(Code::Pushq_imm8, value >> 25)),
                1 => self.plain(with1(Code::Pushq_imm32, value)),
                2 => {
                    let address = Address::relative(Goal::Offset(DATA + self.random.below(PAGE)));
                    self.at(with2m(Code::Push_rm64, OpKind::Memory), address);
                }
                _ => self.plain(with1r(Code::Push_r64, any)),
            }
        }
        if self.random.once_in(2) {
            self.random_instruction();
        } else if depth > 0 {
            self.quiet_access();
        } else {
            self.step(2);
        }
        for _ in 0..count {
            match free(self.random, &self.roles) {
                Some(number) if !self.random.once_in(8) => {
                    self.plain(with1r(Code::Pop_r64, Register::RAX + number));
                }
                _ if self.random.once_in(2) => {
                    self.plain(lea(RSP, Address::based(4, 8)));
                }
                _ => self.plain(with_reg_imm(Code::Add_rm64_imm8, RSP, 8)),
            }
        }
    }

    /// A stack frame: PUSH RBP; MOV RBP, RSP; ...; LEAVE.
    pub(crate) fn framed(&mut self) {
        if self.roles.kept >> 5 & 1 != 0 {
            return;
        }
        self.roles.kept |= 1 << 5;
        let size = 16 + self.random.below(8) * 8;
        self.plain(with1r(Code::Push_r64, RBP));
        self.plain(with_regs(Code::Mov_r64_rm64, RBP, RSP));
        self.plain(with_reg_imm(Code::Sub_rm64_imm8, RSP, size as i64));
        for _ in 0..1 + self.random.below(4) {
            if self.random.once_in(4) {
                self.random_instruction();
                continue;
            }
            let Some(number) = free(self.random, &self.roles) else { break };
            let address = match self.random.below(3) {
                0 => Address::based(4, self.random.below(size / 8 - 1) as i64 * 8),
                _ => Address::based(5, -16 - self.random.below(size / 8 - 1) as i64 * 8),
            };
            let ins = self.accessor(number, address);
            self.at(ins, address);
        }
        self.plain(Instruction::with(Code::Leaveq));
        self.roles.kept &= !(1 << 5);
    }

    /// A call of one of the functions.
    fn call(&mut self) {
        let count = self.functions.len();
        if self.callable >= count {
            return self.random_instruction();
        }
        let index = self.callable + self.random.below((count - self.callable) as u64) as usize;
        let target = self.functions[index];
        if self.pops[index] {
            self.plain(with1(Code::Pushq_imm8, 1));
            self.plain(with1r(Code::Push_r64, Register::RDX));
        }
        let slot = self.random.pick(&self.function_slots[index].clone());
        if !self.pops[index] && self.random.once_in(4) {
            return self.call_by_flags(target);
        }
        match self.random.below(5) {
            0 => {
                let mut call = Instruction::new();
                call.set_code(Code::Call_rm64);
                call.set_op0_kind(OpKind::Memory);
                self.at(call, Address::relative(Goal::Offset(slot)));
            }
            1 | 2 if let Some(number) = free(self.random, &self.roles) => {
                let register = Register::RAX + number;
                if self.random.once_in(2) {
                    self.at(load(register), Address::relative(Goal::Offset(slot)));
                } else {
                    self.at(
                        lea(register, Address::based(0, 0)),
                        Address::relative(Goal::At(target)),
                    );
                }
                self.plain(with1r(Code::Call_rm64, register));
            }
            _ => self.emit(branch(Code::Call_rel32_64), Goal::Branch(target)),
        }
    }

    /// A call of a function or, by the flags, of another one or of what is not canonical: then nothing
    /// may be pushed.
    fn call_by_flags(&mut self, target: Label) {
        let (first, second) = (free(self.random, &self.roles), free(self.random, &self.roles));
        let (Some(first), Some(second)) = (first, second) else { return };
        if first == second {
            return;
        }
        let (register, other) = (Register::RAX + first, Register::RAX + second);
        let nowhere = self.random.pick(&[0x1234_5678_9abc_def0, 1 << 47, -1 << 48]);
        let alike: Vec<_> = (self.callable..self.functions.len())
            .filter(|&index| !self.pops[index])
            .map(|index| self.functions[index])
            .collect();
        self.define_flags_unless_whole();
        if self.random.once_in(2) {
            self.plain(with_reg_imm(Code::Mov_r64_imm64, other, nowhere));
        } else {
            let another = Address::relative(Goal::At(self.random.pick(&alike)));
            self.at(lea(other, Address::based(0, 0)), another);
        }
        self.at(lea(register, Address::based(0, 0)), Address::relative(Goal::At(target)));
        let code = self.random.pick(&[Code::Cmovb_r64_rm64, Code::Cmove_r64_rm64]);
        self.plain(with_regs(code, register, other));
        if self.random.once_in(2) {
            return self.plain(with1r(Code::Call_rm64, register));
        }
        // From where the call is about to push.
        let mut store = with2m(Code::Mov_rm64_r64, OpKind::Register);
        store.set_op1_register(register);
        self.at(store, Address::based(4, -8));
        self.at(with2m(Code::Call_rm64, OpKind::Memory), Address::based(4, -8));
    }

    /// A branch over some steps.
    fn skip(&mut self, depth: usize) {
        let over = self.listing.label();
        if self.random.once_in(2) {
            self.define_flags();
            for _ in 0..self.random.below(2) {
                self.quiet_access();
            }
        }
        let code = self.random.pick(&JUMPS);
        self.emit(branch(code), Goal::Branch(over));
        self.inner(depth);
        if self.random.once_in(3) {
            let end = self.listing.label();
            let code = self.random.pick(&[Code::Jmp_rel8_64, Code::Jmp_rel32_64]);
            self.emit(branch(code), Goal::Branch(end));
            self.meet(over);
            self.inner(depth);
            self.meet(end);
        } else {
            self.meet(over);
        }
    }

    /// A label that is reached from elsewhere, too: with all flags defined.
    fn meet(&mut self, label: Label) {
        self.define_flags_unless_whole();
        self.listing.here(label);
    }

    fn inner(&mut self, depth: usize) {
        for _ in 0..1 + self.random.below(2) {
            if depth < 2 { self.step(2) } else { self.random_instruction() }
        }
    }

    /// JRCXZ, LOOP and kin: the interpreter's.
    fn counted_jump(&mut self) {
        let over = self.listing.label();
        let mut codes = vec![Code::Jrcxz_rel8_64, Code::Jecxz_rel8_64];
        if operand::is_free(&self.roles, 1) {
            codes.extend([Code::Loop_rel8_64_RCX, Code::Loopne_rel8_64_RCX]);
        }
        let code = self.random.pick(&codes);
        self.emit(branch(code), Goal::Branch(over));
        self.plain(with_regs(Code::Test_rm64_r64, Register::RCX, Register::RDX));
        self.listing.here(over);
    }

    /// An indirect jump to what lies elsewhere, perhaps in another image.
    pub(crate) fn leave_by_jump(&mut self) {
        let next = self.listing.label();
        self.define_flags_unless_whole();
        match (self.random.below(4), free(self.random, &self.roles)) {
            (0 | 1, Some(number)) => {
                let register = Register::RAX + number;
                if let Some(slot) = self.slots(&[next]).filter(|_| self.random.once_in(2)) {
                    self.at(load(register), Address::relative(Goal::Offset(slot)));
                } else {
                    self.at(lea(register, Address::based(0, 0)), Address::relative(Goal::At(next)));
                }
                self.plain(with1r(Code::Jmp_rm64, register));
                self.elsewhere();
            }
            (2, _) if let Some(slot) = self.slots(&[next]) => {
                let mut jump = Instruction::new();
                jump.set_code(Code::Jmp_rm64);
                jump.set_op0_kind(OpKind::Memory);
                self.at(jump, Address::relative(Goal::Offset(slot)));
                // Skipped, if the table cannot be read.
                self.emit(branch(Code::Jmp_rel32_64), Goal::Branch(next));
                self.elsewhere();
            }
            _ => {
                self.emit(branch(Code::Jmp_rel32_64), Goal::Branch(next));
                self.elsewhere();
            }
        }
        self.listing.here(next);
    }

    fn elsewhere(&mut self) {
        if self.random.once_in(3) {
            let before = self.random.below(48);
            self.listing.near_page_end(before);
        }
    }

    /// A jump through a table by a register's low bits.
    fn switch(&mut self, depth: usize) {
        let Some(number) = free(self.random, &self.roles) else { return };
        let Some(other) = free(self.random, &self.roles).filter(|&other| other != number) else {
            return;
        };
        let register = Register::RAX + number;
        let end = self.listing.label();
        let cases: Vec<Label> = (0..4).map(|_| self.listing.label()).collect();
        let Some(table) = self.slots(&cases) else { return };
        self.plain(with_reg_imm(Code::And_rm64_imm8, register, 3));
        self.at(
            lea(Register::RAX + other, Address::based(0, 0)),
            Address::relative(Goal::Offset(table)),
        );
        let mut jump = Instruction::new();
        jump.set_code(Code::Jmp_rm64);
        jump.set_op0_kind(OpKind::Memory);
        jump.set_memory_base(Register::RAX + other);
        jump.set_memory_index(register);
        jump.set_memory_index_scale(8);
        self.plain(jump);
        self.emit(branch(Code::Jmp_rel32_64), Goal::Branch(end));
        for case in cases {
            self.listing.here(case);
            self.inner(depth);
            self.define_flags_unless_whole();
            self.emit(branch(Code::Jmp_rel32_64), Goal::Branch(end));
        }
        self.listing.here(end);
    }

    /// REP MOVS, STOS, CMPS, SCAS over few elements.
    fn string(&mut self) {
        if ![1, 6, 7].iter().all(|&number| operand::is_free(&self.roles, number)) {
            return self.random_instruction();
        }
        let (from, to) = (self.random.below(6 * PAGE), self.random.below(6 * PAGE));
        for (register, offset) in [(Register::RSI, from), (Register::RDI, to)] {
            self.at(
                lea(register, Address::based(0, 0)),
                Address::relative(Goal::Offset(DATA + offset)),
            );
        }
        let count = self.random.below(40) as i64;
        self.plain(with_reg_imm(Code::Mov_r32_imm32, Register::ECX, count));
        let backwards = self.random.once_in(4);
        if backwards {
            self.plain(Instruction::with(Code::Std));
        }
        use iced_x86::RepPrefixKind as R;
        let ins = match self.random.below(5) {
            0 => Instruction::with_movsb(64, Register::None, R::Repe),
            1 => Instruction::with_movsq(64, Register::None, R::Repe),
            2 => Instruction::with_stosd(64, R::Repe),
            3 => Instruction::with_cmpsb(64, Register::None, R::Repe),
            _ => Instruction::with_scasw(64, R::Repne),
        };
        self.plain(ins.expect("64-bit string instructions"));
        if backwards {
            self.plain(Instruction::with(Code::Cld));
        }
    }

    /// RFLAGS as a whole, in and out; LAHF and SAHF.
    fn flags_word(&mut self) {
        match self.random.below(3) {
            0 => {
                let status = (self.random.next() & 0x8d5) as i32 | 0x20_0002;
                self.plain(with1(Code::Pushq_imm32, status));
                self.plain(Instruction::with(Code::Popfq));
            }
            1 => {
                self.plain(Instruction::with(Code::Pushfq));
                match free(self.random, &self.roles) {
                    Some(number) => self.plain(with1r(Code::Pop_r64, Register::RAX + number)),
                    None => self.plain(lea(RSP, Address::based(4, 8))),
                }
            }
            _ if operand::is_free(&self.roles, 0) => {
                self.define_flags_unless_whole();
                let code = self.random.pick(&[Code::Lahf, Code::Sahf]);
                self.plain(Instruction::with(code));
            }
            _ => self.define_flags(),
        }
    }

    /// Changes an immediate of the program's own code: one behind, or the one that comes next.
    fn patch(&mut self) {
        let Some(number) = free(self.random, &self.roles) else { return };
        if !self.modifies {
            return self.random_instruction();
        }
        let known = self.patchable.clone();
        let fresh = self.listing.label();
        let target = match known.len() {
            0 => fresh,
            count if self.random.once_in(2) => known[self.random.below(count as u64) as usize],
            _ => fresh,
        };
        let address = Address::relative(Goal::BeforeEnd(target, 4));
        let ins = match self.random.below(3) {
            0 => {
                let mut store = with2m(Code::Mov_rm32_r32, OpKind::Register);
                store.set_op1_register(Register::EAX + number);
                store
            }
            1 => {
                let mut store = with2m(Code::Xor_rm8_r8, OpKind::Register);
                store.set_op1_register(operand::byte_register(self.random, number));
                store
            }
            _ => with2m(Code::Inc_rm32, OpKind::Memory),
        };
        self.at(ins, address);
        for _ in 0..self.random.below(3) {
            self.quiet_access();
        }
        self.define_flags_unless_whole();
        self.listing.here(fresh);
        let code =
            self.random.pick(&[Code::Add_rm32_imm32, Code::Mov_r32_imm32, Code::Xor_rm64_imm32]);
        let first = if code == Code::Xor_rm64_imm32 { Register::RAX } else { Register::EAX };
        let value = self.random.next() as i32;
        self.plain(with_reg_imm(code, first + number, i64::from(value)));
        self.patchable.push(fresh);
    }

    /// DIV and IDIV that often fault.
    fn divide(&mut self) {
        if ![0, 2].iter().all(|&number| operand::is_free(&self.roles, number)) {
            return self.random_instruction();
        }
        let number = free(self.random, &self.roles).unwrap_or(0);
        let code =
            self.random.pick(&[Code::Div_rm64, Code::Idiv_rm32, Code::Div_rm8, Code::Div_rm16]);
        let first = match code {
            Code::Div_rm64 => Register::RAX,
            Code::Idiv_rm32 => Register::EAX,
            Code::Div_rm16 => Register::AX,
            _ => Register::None,
        };
        let register = match first {
            Register::None => operand::byte_register(self.random, number),
            first => first + number,
        };
        if !self.random.once_in(6) {
            self.plain(with_reg_imm(Code::Or_rm32_imm8, Register::EAX + number, 1));
            if number != 2 {
                self.plain(with_regs(Code::Xor_r32_rm32, Register::EDX, Register::EDX));
            }
        }
        self.plain(with1r(code, register));
    }

    /// Another base for FS or GS.
    fn segment_base(&mut self) {
        let Some(number) = free(self.random, &self.roles) else { return };
        let register = Register::RAX + number;
        let offset = DATA + self.random.below(4 * PAGE);
        self.at(lea(register, Address::based(0, 0)), Address::relative(Goal::Offset(offset)));
        let code = self.random.pick(&[Code::Wrfsbase_r64, Code::Wrgsbase_r64, Code::Rdfsbase_r64]);
        self.plain(with1r(code, register));
    }

    /// What only a kernel may do: takes the units away, flushes the TLB.
    fn privileged(&mut self) {
        let Some(number) = free(self.random, &self.roles) else { return };
        let register = Register::RAX + number;
        match self.random.below(3) {
            0 => {
                self.plain(with_regs(Code::Mov_r64_cr, register, Register::CR0));
                self.plain(with_reg_imm(Code::Or_rm64_imm8, register, 8));
                self.plain(with_regs(Code::Mov_cr_r64, Register::CR0, register));
            }
            1 => {
                self.plain(with_regs(Code::Mov_r64_cr, register, Register::CR3));
                self.plain(with_regs(Code::Mov_cr_r64, Register::CR3, register));
            }
            _ => {
                let pointer = self.random.pick(&self.roles.pointers.clone());
                let invlpg = with2m(Code::Invlpg_m, OpKind::Memory);
                self.at(invlpg, Address::based(pointer, 0));
            }
        }
    }
}

/// LEA to a register.
pub(crate) fn lea(register: Register, address: Address) -> Instruction {
    let mut ins = Instruction::new();
    ins.set_code(Code::Lea_r64_m);
    ins.set_op0_register(register);
    ins.set_op1_kind(OpKind::Memory);
    address.apply(&mut ins);
    ins
}

/// MOV from memory to a register.
fn load(register: Register) -> Instruction {
    let mut ins = Instruction::new();
    ins.set_code(Code::Mov_r64_rm64);
    ins.set_op0_register(register);
    ins.set_op1_kind(OpKind::Memory);
    ins
}
