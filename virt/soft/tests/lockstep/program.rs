//! Random guest programs: nests of loops over random steps, functions, and an end.

use iced_x86::{Code, Instruction, InstructionInfoFactory, OpKind, Register, RflagsBits};

use crate::code::{Goal, Label, Listing, branch};
use crate::layout::{COUNTERS, DATA, IMAGES, PAGE, TABLES, UNDEFINED_OF};
use crate::opcodes::Opcodes;
use crate::operand::{Address, Roles};
use crate::random::Random;

const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;
pub(crate) const FUNCTIONS: usize = 3;
/// So much code fits the code pages with every gap.
pub(crate) const MOST_INSTRUCTIONS: usize = 2400;
/// Slots of the code tables.
const SLOTS: u64 = PAGE / 8;

/// A program and what it expects of its surroundings.
pub(crate) struct Program {
    pub(crate) listing: Listing,
    pub(crate) start: Label,
    /// Code addresses to be written into the tables: slot, image, label.
    pub(crate) tables: Vec<(u64, u64, Label)>,
    /// CPL 3.
    pub(crate) user: bool,
    /// Stores into its own code.
    pub(crate) modifies: bool,
    /// Linear address of the image it begins in.
    pub(crate) image: u64,
}

/// Writes one program.
pub(crate) struct Writer<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) factory: InstructionInfoFactory,
    pub(crate) opcodes: &'a Opcodes,
    pub(crate) listing: Listing,
    pub(crate) roles: Roles,
    pub(crate) user: bool,
    pub(crate) tables: Vec<(u64, u64, Label)>,
    pub(crate) functions: Vec<Label>,
    /// Places in the tables that name each.
    pub(crate) function_slots: Vec<Vec<u64>>,
    /// Which of them take 16 bytes off the stack.
    pub(crate) pops: Vec<bool>,
    /// Functions from this one on may be called here.
    pub(crate) callable: usize,
    /// Immediates that stores may change: the instruction with four bytes at its end.
    pub(crate) patchable: Vec<Label>,
    /// What the program's random instructions lean to.
    pub(crate) leaning: u64,
    /// Stores into code.
    pub(crate) modifies: bool,
    /// Loop counters in registers, one for each depth.
    pub(crate) counters: [u32; 2],
    /// Status flags the last instructions left undefined.
    pub(crate) undefined: u32,
}

/// The program of a seed.
pub(crate) fn program(random: &mut Random, opcodes: &Opcodes) -> Program {
    let image = random.pick(&IMAGES);
    let user = random.once_in(2);
    let mut order: Vec<u32> = (0..16).filter(|&number| number != 4).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    let pointers = order[..3].to_vec();
    let counters = [order[3], order[4]];
    let kept = order[..5].iter().fold(1 << 4, |kept, number| kept | 1 << number);
    let leaning = random.below(4);
    let modifies = random.once_in(3);
    let mut writer = Writer {
        random,
        factory: InstructionInfoFactory::new(),
        opcodes,
        listing: Listing::default(),
        roles: Roles { pointers, kept, narrow: None },
        user,
        tables: Vec::new(),
        functions: Vec::new(),
        function_slots: vec![Vec::new(); FUNCTIONS],
        pops: Vec::new(),
        callable: 0,
        patchable: Vec::new(),
        leaning,
        modifies,
        counters,
        undefined: 0,
    };
    let start = writer.whole();
    let Writer { listing, tables, .. } = writer;
    Program { listing, start, tables, user, modifies, image }
}

impl Writer<'_> {
    fn whole(&mut self) -> Label {
        self.functions = (0..FUNCTIONS).map(|_| self.listing.label()).collect();
        self.pops = (0..FUNCTIONS).map(|_| self.random.once_in(4)).collect();
        // From the last on: a function calls only those behind it, so calls come to an end.
        for index in (0..FUNCTIONS).rev() {
            self.function(index);
        }
        self.callable = 0;
        let start = self.listing.label();
        self.gap();
        self.listing.here(start);
        self.point();
        for _ in 0..3 + self.random.below(4) {
            if self.listing.instructions > MOST_INSTRUCTIONS {
                break;
            }
            self.nest(0);
        }
        self.define_flags();
        self.plain(Instruction::with(Code::Ud2));
        start
    }

    /// Now and then what follows lies elsewhere, perhaps across the end of a page.
    pub(crate) fn gap(&mut self) {
        if self.random.once_in(2) {
            let before = self.random.below(60);
            self.listing.near_page_end(before);
        }
    }

    fn function(&mut self, index: usize) {
        self.callable = index + 1;
        self.gap();
        self.listing.here(self.functions[index]);
        self.undefined = 0;
        let label = self.functions[index];
        for _ in 0..2 {
            let slot = self.slots(&[label]).expect("functions come first");
            self.function_slots[index].push(slot);
        }
        let frame = self.random.once_in(3);
        if frame {
            self.framed();
        }
        for _ in 0..1 + self.random.below(4) {
            self.step(1);
        }
        self.define_flags();
        if self.pops[index] {
            self.plain(with1(Code::Retnq_imm16, 16));
        } else {
            self.plain(Instruction::with(Code::Retnq));
        }
    }

    /// One loop, perhaps with another inside.
    fn nest(&mut self, depth: usize) {
        if depth > 0 || self.random.once_in(2) {
            self.point();
        }
        let times = if depth == 0 { 12 + self.random.below(60) } else { 5 + self.random.below(40) };
        let way = self.random.below(5);
        let counter = self.counters[depth];
        let place = Goal::Offset(COUNTERS + depth as u64 * 64 + self.random.below(8) * 4);
        match way {
            0 => {
                let mut store = with2m(Code::Mov_rm32_imm32, OpKind::Immediate32);
                store.set_immediate32(times as u32);
                self.at(store, Address::relative(place));
            }
            1 => self.plain(with_reg_imm(Code::Mov_r32_imm32, Register::EAX + counter, 0)),
            _ => {
                let value = times as i64;
                self.plain(with_reg_imm(Code::Mov_r64_imm64, Register::RAX + counter, value));
            }
        }
        if self.random.once_in(3) {
            self.leave_by_jump();
        }
        let top = self.listing.label();
        self.listing.here(top);
        if self.random.once_in(3) {
            self.reads_flags_of_the_loop();
        }
        let steps = 2 + self.random.below(7);
        let inner = depth == 0 && self.random.once_in(3);
        for number in 0..steps {
            if inner && number == steps / 2 {
                self.nest(1);
            }
            self.step(depth);
        }
        if self.random.once_in(3) {
            self.point();
        }
        self.close(way, counter, place, times, top);
    }

    /// The end of a loop, one of many ways.
    fn close(&mut self, way: u64, counter: u32, place: Goal, times: u64, top: Label) {
        let register = Register::RAX + counter;
        let jump = match way {
            0 => {
                self.at(with2m(Code::Dec_rm32, OpKind::Memory), Address::relative(place));
                Code::Jne_rel32_64
            }
            1 => {
                self.plain(with_reg_imm(Code::Add_rm32_imm8, Register::EAX + counter, 1));
                self.between();
                let code = Code::Cmp_rm32_imm32;
                self.plain(with_reg_imm(code, Register::EAX + counter, times as i64));
                self.random.pick(&[Code::Jb_rel32_64, Code::Jl_rel8_64, Code::Jne_rel32_64])
            }
            2 => {
                self.plain(with1r(Code::Dec_rm64, register));
                self.random.pick(&[Code::Jne_rel32_64, Code::Jg_rel8_64])
            }
            3 => {
                self.plain(with_reg_imm(Code::Sub_rm64_imm8, register, 1));
                self.between();
                self.random.pick(&[Code::Ja_rel32_64, Code::Jne_rel8_64])
            }
            _ => {
                let mut lea = Instruction::new();
                lea.set_code(Code::Lea_r64_m);
                lea.set_op0_register(register);
                lea.set_op1_kind(OpKind::Memory);
                Address::based(counter, -1).apply(&mut lea);
                self.plain(lea);
                self.plain(with_regs(Code::Test_rm64_r64, register, register));
                self.between();
                Code::Jne_rel32_64
            }
        };
        self.define_flags_unless_whole();
        self.listing.add(branch(jump), Goal::Branch(top), 0);
    }

    /// Stores and address arithmetic between a compare and its branch: they keep the flags.
    fn between(&mut self) {
        for _ in 0..self.random.below(3) {
            self.quiet_access();
        }
    }

    /// Sets every pointer.
    pub(crate) fn point(&mut self) {
        for pointer in self.roles.pointers.clone() {
            let offset = self.pointed();
            if self.random.once_in(3) {
                let image = self.random.pick(&IMAGES);
                let register = Register::RAX + pointer;
                let address = (image + offset) as i64;
                self.plain(with_reg_imm(Code::Mov_r64_imm64, register, address));
            } else {
                let mut lea = with2m(Code::Lea_r64_m, OpKind::Memory);
                lea.set_op0_kind(OpKind::Register);
                lea.set_op0_register(Register::RAX + pointer);
                lea.set_op1_kind(OpKind::Memory);
                self.at(lea, Address::relative(Goal::Offset(offset)));
            }
        }
    }

    /// An offset in the data pages: mostly well inside one, sometimes about to cross into another.
    pub(crate) fn pointed(&mut self) -> u64 {
        let page = DATA + self.random.below(8) * PAGE;
        match self.random.below(16) {
            0 => page + PAGE - self.random.below(256),
            1 => page + self.random.below(PAGE),
            _ => DATA + self.random.below(4) * PAGE + self.random.below(PAGE / 32) * 32,
        }
    }

    /// Adds an instruction; first defines the flags it reads, or all where it goes elsewhere. It may
    /// fault while flags are undefined: the handler clears those.
    pub(crate) fn emit(&mut self, ins: Instruction, goal: Goal) {
        let shows = ins.rflags_read() & self.undefined != 0
            || ins.flow_control() != iced_x86::FlowControl::Next;
        if shows {
            self.define_flags_unless_whole();
        }
        self.listing.add(ins, goal, in_table(self.undefined));
        self.undefined = still_undefined(self.undefined, &ins);
    }

    pub(crate) fn plain(&mut self, ins: Instruction) {
        self.emit(ins, Goal::None);
    }

    /// An instruction whose operand lies there.
    pub(crate) fn at(&mut self, mut ins: Instruction, address: Address) {
        address.apply(&mut ins);
        self.emit(ins, address.goal);
    }

    pub(crate) fn define_flags_unless_whole(&mut self) {
        if self.undefined != 0 {
            self.define_flags();
        }
    }

    /// Gives every status flag a value.
    pub(crate) fn define_flags(&mut self) {
        let (a, b) = (self.random.below(16) as u32, self.random.below(16) as u32);
        if self.roles.narrow.is_some() {
            return self.define_flags_narrow(a & 7, b & 7);
        }
        let (first, code) = self.random.pick(&[
            (Register::RAX, Code::Cmp_rm64_r64),
            (Register::EAX, Code::Cmp_rm32_r32),
            (Register::AX, Code::Cmp_rm16_r16),
            (Register::RAX, Code::Test_rm64_r64),
            (Register::EAX, Code::Test_rm32_r32),
        ]);
        self.add_definer(with_regs(code, first + a, first + b));
    }

    /// Adds what gives every status flag a value.
    pub(crate) fn add_definer(&mut self, ins: Instruction) {
        let undefined = std::mem::take(&mut self.undefined);
        self.listing.add(ins, Goal::None, in_table(undefined));
    }

    /// Slots of the code tables for labels, in a row; `None` if there are no more.
    pub(crate) fn slots(&mut self, labels: &[Label]) -> Option<u64> {
        let first = self.tables.len() as u64;
        if first + labels.len() as u64 > SLOTS {
            return None;
        }
        let image = self.random.pick(self.roles.narrow.unwrap_or(&IMAGES));
        self.tables.extend((first..).zip(labels).map(|(slot, &label)| (slot, image, label)));
        Some(TABLES + first * 8)
    }
}

/// Flags as the handler's table has them.
fn in_table(undefined: u32) -> u8 {
    let pairs = [
        (RflagsBits::SF, 0x80),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::AF, 0x10),
        (RflagsBits::PF, 0x04),
        (RflagsBits::CF, 0x01),
        (RflagsBits::OF, UNDEFINED_OF),
    ];
    pairs.iter().filter(|(flag, _)| undefined & flag != 0).map(|(_, bit)| bit).sum()
}

/// Flags undefined after an instruction, given those before. AF after AND, OR, XOR, TEST is clear
/// on every processor; shifts may write none.
fn still_undefined(undefined: u32, ins: &Instruction) -> u32 {
    use iced_x86::Mnemonic as M;
    let shift = matches!(
        ins.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd | M::Rol | M::Ror | M::Rcl | M::Rcr
    );
    if matches!(ins.mnemonic(), M::And | M::Or | M::Xor | M::Test) {
        return 0;
    }
    let written = ins.rflags_written() | ins.rflags_cleared() | ins.rflags_set();
    let written = if shift { 0 } else { written };
    (undefined & !written | ins.rflags_undefined()) & STATUS
}

pub(crate) fn with_reg_imm(code: Code, register: Register, value: i64) -> Instruction {
    Instruction::with2(code, register, value).expect("a register and an immediate")
}

pub(crate) fn with_regs(code: Code, first: Register, second: Register) -> Instruction {
    Instruction::with2(code, first, second).expect("two registers")
}

pub(crate) fn with1r(code: Code, register: Register) -> Instruction {
    Instruction::with1(code, register).expect("a register")
}

pub(crate) fn with1(code: Code, value: i32) -> Instruction {
    Instruction::with1(code, value).expect("an immediate")
}

/// An instruction whose first operand is in memory, the second of this kind (none for `Memory`).
pub(crate) fn with2m(code: Code, second: OpKind) -> Instruction {
    let mut ins = Instruction::new();
    ins.set_code(code);
    ins.set_op0_kind(OpKind::Memory);
    if second != OpKind::Memory {
        ins.set_op1_kind(second);
    }
    ins
}
