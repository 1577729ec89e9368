//! 32-bit programs: loops over random steps, functions, and an end.

use iced_x86::{Code, Instruction, InstructionInfoFactory, OpKind, Register};

use super::{FLAT_SELECTOR, ODD_SELECTORS, World};
use crate::code::{Goal, Label, Listing};
use crate::layout::{DATA, PAGE};
use crate::opcodes::Opcodes;
use crate::operand::{self, Address, Roles, free};
use crate::program::{
    FUNCTIONS, MOST_INSTRUCTIONS, Program, Writer, with_reg_imm, with_regs, with1, with1r, with2m,
};
use crate::random::Random;

const ESP: u32 = 4;
const EBP: u32 = 5;

/// The program of a seed.
pub(crate) fn program(random: &mut Random, opcodes: &Opcodes, world: World) -> Program {
    let image = random.pick(world.images());
    // Without paging nothing keeps a user from the handler's stack.
    let user = world != World::Unpaged && random.once_in(2);
    let mut order: Vec<u32> = (0..8).filter(|&number| number != ESP).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    let kept = order[..3].iter().fold(0xff10, |kept, number| kept | 1 << number);
    let roles = Roles { pointers: order[..2].to_vec(), kept, narrow: Some(world.images()) };
    let leaning = random.below(4);
    let modifies = random.once_in(3);
    let mut writer = Writer {
        random,
        factory: InstructionInfoFactory::new(),
        opcodes,
        listing: Listing::narrow(image),
        roles,
        user,
        tables: Vec::new(),
        functions: Vec::new(),
        function_slots: vec![Vec::new(); FUNCTIONS],
        pops: Vec::new(),
        callable: 0,
        patchable: Vec::new(),
        leaning,
        modifies,
        counters: [order[2]; 2],
        undefined: 0,
    };
    let start = writer.whole_32();
    let Writer { listing, tables, .. } = writer;
    Program { listing, start, tables, user, modifies, image }
}

/// A random address.
pub(crate) fn address(
    random: &mut Random,
    roles: &Roles,
    images: &[u64],
    aligned: bool,
) -> Address {
    let step = if aligned { 16 } else { random.pick(&[1, 4, 4, 8]) };
    let near = (random.below(48) * step) as i64 - 64;
    let pointer = random.pick(&roles.pointers);
    let segment = random.pick(&[Register::FS, Register::GS]);
    let place = |random: &mut Random| {
        let image = random.pick(images);
        i64::from((image + DATA + random.below(4 * PAGE / step) * step) as i32)
    };
    match random.below(21) {
        0..=8 => based(pointer, near),
        9..=11 => {
            let Some(index) = free(random, roles) else { return based(pointer, near) };
            let scale = 1 << random.below(4);
            let index = Register::EAX + index;
            if random.once_in(6) {
                let displacement = place(random);
                Address { base: Register::None, index, scale, ..sized(based(0, displacement)) }
            } else {
                let small = Some(index as u32 - Register::EAX as u32);
                Address { index, scale, small, ..based(pointer, near) }
            }
        }
        12..=13 => absolute(place(random)),
        14 => Address { segment, ..absolute(random.below(2 * PAGE / step) as i64 * step as i64) },
        15 => Address { segment, ..based(pointer, near) },
        16..=17 => {
            // The same place by another segment, which is as flat.
            let segments = [Register::ES, Register::SS, Register::DS, Register::CS, Register::CS];
            let segment = random.pick(&segments);
            Address { segment, ..based(pointer, near) }
        }
        18 => sized(based(pointer, random.next() as i64 as i32 as i64)),
        19 => based(ESP, -8 - (random.below(24) * 4) as i64),
        _ if random.once_in(4) => based(free(random, roles).unwrap_or(pointer), near),
        _ => based(pointer, near),
    }
}

/// [base + displacement]
fn based(base: u32, displacement: i64) -> Address {
    Address { base: Register::EAX + base, ..Address::based(0, displacement) }
}

/// [disp32]
fn absolute(displacement: i64) -> Address {
    sized(Address { base: Register::None, ..based(0, displacement) })
}

/// With a whole displacement, of 32 bits.
fn sized(address: Address) -> Address {
    let displacement = i64::from(address.displacement as u32);
    Address { displacement, displacement_size: 4, ..address }
}

/// A branch whose goal is yet to be said.
fn branch(code: Code) -> Instruction {
    let mut ins = Instruction::new();
    ins.set_code(code);
    ins.set_op0_kind(OpKind::NearBranch32);
    ins
}

/// A Jcc of any condition, short or near.
fn any_jump(random: &mut Random) -> Instruction {
    let first = random.pick(&[Code::Jo_rel8_32, Code::Jo_rel32_32]);
    let code = Code::try_from(first as usize + 3 * random.below(16) as usize);
    branch(code.expect("sixteen in a row of threes"))
}

fn lea(register: u32, address: Address) -> Instruction {
    let mut ins = load(Code::Lea_r32_m, Register::EAX + register);
    address.apply(&mut ins);
    ins
}

/// An instruction with a register and then memory.
fn load(code: Code, register: Register) -> Instruction {
    let mut ins = Instruction::new();
    ins.set_code(code);
    ins.set_op0_register(register);
    ins.set_op1_kind(OpKind::Memory);
    ins
}

/// An instruction with memory and then a register.
fn store(code: Code, register: Register) -> Instruction {
    let mut ins = with2m(code, OpKind::Register);
    ins.set_op1_register(register);
    ins
}

impl Writer<'_> {
    fn whole_32(&mut self) -> Label {
        self.functions = (0..FUNCTIONS).map(|_| self.listing.label()).collect();
        self.pops = (0..FUNCTIONS).map(|_| self.random.once_in(4)).collect();
        for index in (0..FUNCTIONS).rev() {
            self.function_32(index);
        }
        self.callable = 0;
        let start = self.listing.label();
        self.gap();
        self.listing.here(start);
        for _ in 0..3 + self.random.below(4) {
            if self.listing.instructions < MOST_INSTRUCTIONS {
                self.nest_32();
            }
        }
        self.define_flags();
        self.plain(Instruction::with(Code::Ud2));
        start
    }

    fn function_32(&mut self, index: usize) {
        self.callable = index + 1;
        self.gap();
        let label = self.functions[index];
        self.listing.here(label);
        self.undefined = 0;
        let slot = self.slots(&[label]).expect("functions come first");
        self.function_slots[index].push(slot);
        for _ in 0..1 + self.random.below(4) {
            self.step_32();
        }
        self.define_flags();
        self.plain(match self.pops[index] {
            true => with1(Code::Retnd_imm16, 8),
            false => Instruction::with(Code::Retnd),
        });
    }

    /// A loop.
    fn nest_32(&mut self) {
        self.point_32();
        let times = 12 + self.random.below(60) as i64;
        let counter = Register::EAX + self.counters[0];
        let up = self.random.once_in(3);
        let from = if up { 0 } else { times };
        self.plain(with_reg_imm(Code::Mov_r32_imm32, counter, from));
        let top = self.listing.label();
        self.listing.here(top);
        for _ in 0..2 + self.random.below(7) {
            self.step_32();
        }
        if self.random.once_in(3) {
            self.point_32();
        }
        // INC and DEC keep CF.
        self.define_flags_if_undefined();
        if up {
            self.plain(with1r(Code::Inc_r32, counter));
            self.plain(with_reg_imm(Code::Cmp_rm32_imm32, counter, times));
        } else {
            self.plain(with1r(Code::Dec_r32, counter));
        }
        self.quiet_32();
        let jump = self.random.pick(&[Code::Jne_rel32_32, Code::Jne_rel8_32]);
        assert_eq!(self.undefined, 0, "what ends a loop defines its flags");
        self.listing.add(branch(jump), Goal::Branch(top), 0);
    }

    /// Gives every status flag a value.
    pub(crate) fn define_flags_narrow(&mut self, a: u32, b: u32) {
        let (first, code) = self.random.pick(&[
            (Register::EAX, Code::Cmp_rm32_r32),
            (Register::AX, Code::Cmp_rm16_r16),
            (Register::EAX, Code::Test_rm32_r32),
        ]);
        self.add_definer(with_regs(code, first + a, first + b));
    }

    /// Sets every pointer to a place of any image.
    fn point_32(&mut self) {
        let images = self.roles.narrow.expect("32-bit code");
        for pointer in self.roles.pointers.clone() {
            let place = (self.random.pick(images) + self.pointed()) & 0xffff_ffff;
            self.plain(with_reg_imm(
                Code::Mov_r32_imm32,
                Register::EAX + pointer,
                i64::from(place as i32),
            ));
        }
    }

    fn step_32(&mut self) {
        match self.random.below(32) {
            0..=9 => {
                for _ in 0..1 + self.random.below(5) {
                    self.random_instruction();
                }
            }
            10..=13 => self.neighbours_32(),
            14..=16 => self.pushed_32(),
            17 => self.framed_32(),
            18..=19 => self.call_32(),
            20..=22 => self.skip_32(),
            23 => self.switch_32(),
            24 => self.string_32(),
            25 => self.flags_word_32(),
            26 => self.patch_32(),
            27 => self.divide_32(),
            28 => self.load_segment(),
            29 => self.counted_32(),
            30 if !self.user => self.privileged_32(),
            _ => self.wrapping(),
        }
    }

    fn free_register(&mut self) -> Register {
        let all: Vec<u32> =
            (0..8).filter(|&number| operand::is_free(&self.roles, number)).collect();
        Register::EAX + self.random.pick(&all)
    }

    /// Several accesses at constant distances from one pointer, which may move meanwhile.
    fn neighbours_32(&mut self) {
        let pointer = self.random.pick(&self.roles.pointers.clone());
        let from = (self.random.below(32) * 4) as i64 - 64;
        for _ in 0..2 + self.random.below(7) {
            let near = from + self.random.below(40) as i64 * self.random.pick(&[1, 4, 8]);
            let address = match self.random.below(8) {
                0 => based(ESP, -4 - (self.random.below(12) * 4) as i64),
                1 => Address { segment: Register::GS, ..absolute(near.abs()) },
                _ => based(pointer, near),
            };
            let register = self.free_register();
            let ins = match self.random.below(6) {
                0 => load(Code::Mov_r32_rm32, register),
                1 => load(Code::Add_r32_rm32, register),
                2 => store(Code::Mov_rm32_r32, register),
                3 => store(Code::Cmp_rm32_r32, register),
                4 => store(Code::And_rm32_r32, register),
                _ => load(Code::Movzx_r32_rm16, register),
            };
            self.at(ins, address);
            if self.random.once_in(5) {
                self.move_pointer_32(Register::EAX + pointer);
            }
        }
    }

    fn move_pointer_32(&mut self, register: Register) {
        let by = self.random.pick(&[8, 16, -8, 1, 64, 100, -32]);
        let ins = match self.random.below(5) {
            0 => with_reg_imm(Code::Add_rm32_imm8, register, by),
            1 => with_reg_imm(Code::Sub_rm32_imm32, register, by),
            2 => with1r(Code::Inc_r32, register),
            3 => with1r(Code::Dec_rm32, register),
            _ => lea(register.number() as u32, based(register.number() as u32, by)),
        };
        self.plain(ins);
    }

    /// An access or an address that changes no flag.
    fn quiet_32(&mut self) {
        let pointer = self.random.pick(&self.roles.pointers.clone());
        let register = self.free_register();
        let near = based(pointer, self.random.below(40) as i64 * 4);
        match self.random.below(4) {
            0 => self.plain(lea(register.number() as u32, near)),
            1 => self.at(load(Code::Mov_r32_rm32, register), near),
            2 => self.at(store(Code::Mov_rm32_r32, register), near),
            _ => {
                self.plain(with1r(Code::Push_r32, register));
                self.plain(with1r(Code::Pop_r32, register));
            }
        }
    }

    /// Pushes, steps, and as many pops.
    fn pushed_32(&mut self) {
        let near = based(self.random.pick(&self.roles.pointers.clone()), 16);
        let count = 1 + self.random.below(4);
        for _ in 0..count {
            let register = Register::EAX + self.random.below(8) as u32;
            match self.random.below(6) {
                0 => self.plain(with1(Code::Pushd_imm8, -5)),
                1 => {
                    let value = self.random.next() as i32;
                    self.plain(with1(Code::Pushd_imm32, value));
                }
                2 => {
                    let mut push = with2m(Code::Push_rm32, OpKind::Memory);
                    near.apply(&mut push);
                    self.plain(push);
                }
                _ => self.plain(with1r(Code::Push_r32, register)),
            }
        }
        match self.random.below(4) {
            0 => self.random_instruction(),
            1 => self.quiet_32(),
            _ => {}
        }
        if self.random.once_in(4) {
            let by = 4 * count as i64;
            self.plain(with_reg_imm(Code::Add_rm32_imm8, Register::ESP, by));
            return;
        }
        for _ in 0..count {
            if self.random.once_in(8) {
                let mut pop = with2m(Code::Pop_rm32, OpKind::Memory);
                near.apply(&mut pop);
                self.plain(pop);
            } else {
                let register = self.free_register();
                self.plain(with1r(Code::Pop_r32, register));
            }
        }
    }

    /// A frame by EBP and LEAVE, or PUSHAD and POPAD, or a stack pointer from the stack.
    fn framed_32(&mut self) {
        let ebp = operand::is_free(&self.roles, EBP);
        match self.random.below(3) {
            0 if ebp => {
                let (esp, ebp) = (Register::ESP, Register::EBP);
                self.plain(with1r(Code::Push_r32, ebp));
                self.plain(with_regs(Code::Mov_rm32_r32, ebp, esp));
                self.plain(with_reg_imm(Code::Sub_rm32_imm8, esp, 24));
                for _ in 0..1 + self.random.below(4) {
                    let register = self.free_register();
                    let slot = based(EBP, 4 * self.random.below(8) as i64 - 24);
                    let code = self.random.pick(&[Code::Mov_rm32_r32, Code::Add_rm32_r32]);
                    self.at(store(code, register), slot);
                    if register == ebp {
                        break;
                    }
                }
                // Where EBP was lost, LEAVE goes astray, and what follows faults.
                self.plain(with_regs(Code::Mov_rm32_r32, ebp, esp));
                self.plain(with_reg_imm(Code::Add_rm32_imm8, ebp, 24));
                self.plain(Instruction::with(Code::Leaved));
            }
            1 => {
                self.plain(Instruction::with(Code::Pushad));
                self.quiet_32();
                self.plain(Instruction::with(Code::Popad));
            }
            _ => {
                self.plain(with1r(Code::Push_r32, Register::ESP));
                self.plain(with1r(Code::Pop_r32, Register::ESP));
            }
        }
    }

    /// A call, in one of many ways.
    fn call_32(&mut self) {
        if self.callable >= FUNCTIONS {
            return self.random_instruction();
        }
        let many = (FUNCTIONS - self.callable) as u64;
        let index = self.callable + self.random.below(many) as usize;
        let slot = absolute(0);
        let goal = Goal::Offset(self.function_slots[index][0]);
        let register = self.free_register();
        self.define_flags_if_undefined();
        if self.pops[index] {
            self.plain(with1(Code::Pushd_imm8, 1));
            self.plain(with1(Code::Pushd_imm8, 2));
        }
        match self.random.below(4) {
            0 => {
                let call = with2m(Code::Call_rm32, OpKind::Memory);
                self.at(call, Address { goal, ..slot });
            }
            1 => {
                self.at(load(Code::Mov_r32_rm32, register), Address { goal, ..slot });
                self.plain(with1r(Code::Call_rm32, register));
            }
            _ => {
                let function = self.functions[index];
                self.emit(branch(Code::Call_rel32_32), Goal::Branch(function));
            }
        }
    }

    fn define_flags_if_undefined(&mut self) {
        if self.undefined != 0 {
            self.define_flags();
        }
    }

    /// A branch forward over a few instructions.
    fn skip_32(&mut self) {
        let end = self.listing.label();
        for _ in 0..self.random.below(3) {
            self.quiet_32();
        }
        self.define_flags_if_undefined();
        let jump = any_jump(self.random);
        self.emit(jump, Goal::Branch(end));
        for _ in 0..self.random.below(4) {
            self.random_instruction();
        }
        self.define_flags_if_undefined();
        if self.random.once_in(4) {
            self.emit(branch(Code::Jmp_rel32_32), Goal::Branch(end));
            self.gap();
        }
        self.listing.here(end);
    }

    /// A jump through a table by a register's low bits.
    fn switch_32(&mut self) {
        let end = self.listing.label();
        let cases: Vec<Label> = (0..4).map(|_| self.listing.label()).collect();
        let (first, second) = (self.free_register(), self.free_register());
        if first == second {
            return self.random_instruction();
        }
        let Some(table) = self.slots(&cases) else { return self.random_instruction() };
        let goal = Goal::Offset(table);
        self.plain(with_reg_imm(Code::And_rm32_imm8, first, 3));
        self.at(load(Code::Lea_r32_m, second), Address { goal, ..absolute(0) });
        let mut jump = with2m(Code::Jmp_rm32, OpKind::Memory);
        jump.set_memory_base(second);
        jump.set_memory_index(first);
        jump.set_memory_index_scale(8);
        self.plain(jump);
        for case in cases {
            self.listing.here(case);
            self.random_instruction();
            self.define_flags_if_undefined();
            self.emit(branch(Code::Jmp_rel32_32), Goal::Branch(end));
        }
        self.listing.here(end);
    }

    /// String instructions over few elements, some of them around the end of the address space.
    fn string_32(&mut self) {
        if ![1, 6, 7].iter().all(|&number| operand::is_free(&self.roles, number)) {
            return self.random_instruction();
        }
        let images = self.roles.narrow.expect("32-bit code");
        for register in [Register::ESI, Register::EDI] {
            let image = self.random.pick(images);
            let place = match self.random.below(3) {
                0 => 0u64.wrapping_sub(self.random.below(64)),
                _ => image + DATA + self.random.below(8 * PAGE),
            };
            self.plain(with_reg_imm(Code::Mov_r32_imm32, register, i64::from(place as i32)));
        }
        let count = self.random.below(40) as i64;
        self.plain(with_reg_imm(Code::Mov_r32_imm32, Register::ECX, count));
        let backwards = self.random.once_in(4);
        if backwards {
            self.plain(Instruction::with(Code::Std));
        }
        use iced_x86::RepPrefixKind as R;
        let segment = self.random.pick(&[Register::None, Register::None, Register::GS]);
        let ins = match self.random.below(7) {
            0 => Instruction::with_movsb(32, segment, R::Repe),
            1 | 2 => Instruction::with_movsd(32, segment, R::Repe),
            3 => Instruction::with_stosd(32, R::Repe),
            4 => Instruction::with_stosb(32, R::Repe),
            5 => Instruction::with_cmpsb(32, segment, R::Repe),
            _ => Instruction::with_scasw(32, R::Repne),
        };
        self.plain(ins.expect("32-bit string instructions"));
        if backwards {
            self.plain(Instruction::with(Code::Cld));
        }
    }

    fn flags_word_32(&mut self) {
        self.define_flags_if_undefined();
        if self.random.once_in(2) {
            let status = (self.random.next() & 0x8d5) as i32 | 0x20_0002;
            self.plain(with1(Code::Pushd_imm32, status));
            self.plain(Instruction::with(Code::Popfd));
        } else {
            self.plain(Instruction::with(Code::Pushfd));
            let register = self.free_register();
            self.plain(with1r(Code::Pop_r32, register));
        }
    }

    /// Changes an immediate of the program's own code: one behind, or the one that comes next.
    fn patch_32(&mut self) {
        if !self.modifies {
            return self.random_instruction();
        }
        let register = self.free_register();
        let fresh = self.listing.label();
        let known = self.patchable.clone();
        let target = match known.len() {
            0 => fresh,
            count if self.random.once_in(2) => known[self.random.below(count as u64) as usize],
            _ => fresh,
        };
        let goal = Goal::BeforeEnd(target, 4);
        let ins = match self.random.below(2) {
            0 => store(Code::Mov_rm32_r32, register),
            _ => with2m(Code::Inc_rm32, OpKind::Memory),
        };
        self.at(ins, Address { goal, ..absolute(0) });
        self.define_flags_if_undefined();
        self.listing.here(fresh);
        let code = self.random.pick(&[Code::Mov_r32_imm32, Code::Xor_rm32_imm32]);
        let value = i64::from(self.random.next() as i32);
        self.plain(with_reg_imm(code, register, value));
        self.patchable.push(fresh);
    }

    /// DIV and IDIV that often fault.
    fn divide_32(&mut self) {
        if ![0, 2].iter().all(|&number| operand::is_free(&self.roles, number)) {
            return self.random_instruction();
        }
        let register = self.free_register();
        let code = self.random.pick(&[Code::Div_rm32, Code::Idiv_rm32]);
        if !self.random.once_in(4) {
            self.plain(with_reg_imm(Code::Or_rm32_imm8, register, 1));
            if register != Register::EDX {
                self.plain(with_regs(Code::Xor_r32_rm32, Register::EDX, Register::EDX));
            }
        }
        self.plain(with1r(code, register));
    }

    /// Another segment in DS, ES, FS or GS; those two keep it, the others get a flat one back.
    fn load_segment(&mut self) {
        let register = self.free_register();
        let (odd, flat) = (i64::from(self.random.pick(&ODD_SELECTORS)), i64::from(FLAT_SELECTOR));
        let segment = self.random.pick(&[Register::DS, Register::ES, Register::FS, Register::GS]);
        let word = Register::AX + register.number() as u32;
        let selector = if self.random.once_in(3) { flat } else { odd };
        self.plain(with_reg_imm(Code::Mov_r32_imm32, register, selector));
        self.plain(with_regs(Code::Mov_Sreg_rm16, segment, word));
        for _ in 0..self.random.below(4) {
            self.random_instruction();
        }
        if matches!(segment, Register::DS | Register::ES) || self.random.once_in(2) {
            let selector = if self.random.once_in(3) { 0x4b } else { flat };
            let back = if segment.number() < 4 { flat } else { selector };
            self.plain(with_reg_imm(Code::Mov_r32_imm32, register, back));
            self.plain(with_regs(Code::Mov_Sreg_rm16, segment, word));
        }
        self.plain(with_regs(Code::Mov_rm16_Sreg, word, segment));
    }

    /// LOOP, JECXZ.
    fn counted_32(&mut self) {
        if !operand::is_free(&self.roles, 1) {
            return self.random_instruction();
        }
        let top = self.listing.label();
        let count = 1 + self.random.below(9) as i64;
        self.plain(with_reg_imm(Code::Mov_r32_imm32, Register::ECX, count));
        self.listing.here(top);
        self.plain(Instruction::with(Code::Cwde));
        self.emit(branch(Code::Loop_rel8_32_ECX), Goal::Branch(top));
    }

    /// What only a kernel may do.
    fn privileged_32(&mut self) {
        let register = self.free_register();
        match self.random.below(4) {
            0 => {
                self.plain(with_regs(Code::Mov_r32_cr, register, Register::CR0));
                self.plain(with_reg_imm(Code::Or_rm32_imm8, register, 8));
                self.plain(with_regs(Code::Mov_cr_r32, Register::CR0, register));
            }
            1 => {
                self.plain(with_regs(Code::Mov_r32_cr, register, Register::CR3));
                self.plain(with_regs(Code::Mov_cr_r32, Register::CR3, register));
            }
            2 => {
                self.plain(Instruction::with(Code::Pushfd));
                self.plain(Instruction::with(Code::Cli));
                self.plain(Instruction::with(Code::Popfd));
            }
            _ => {
                let pointer = self.random.pick(&self.roles.pointers.clone());
                self.at(with2m(Code::Invlpg_m, OpKind::Memory), based(pointer, 0));
            }
        }
    }

    /// An address whose parts add up to more than 4 GiB.
    fn wrapping(&mut self) {
        let register = self.free_register();
        let images = self.roles.narrow.expect("32-bit code");
        let place = self.random.pick(images) + DATA + self.random.below(4 * PAGE);
        let part = self.random.next() as u32;
        self.plain(with_reg_imm(Code::Mov_r32_imm32, register, i64::from(part as i32)));
        let rest = (place as u32).wrapping_sub(part);
        let address = sized(based(register.number() as u32, i64::from(rest)));
        match self.random.below(4) {
            0 => self.plain(lea(register.number() as u32, address)),
            1 => self.at(load(Code::Mov_r32_rm32, register), address),
            2 => self.at(store(Code::Bts_rm32_r32, register), address),
            _ => self.at(store(Code::Mov_rm32_r32, register), address),
        }
    }
}
