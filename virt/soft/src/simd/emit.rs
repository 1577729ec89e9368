//! Machine code around one guest instruction.
//!
//! ```text
//! RDI   the guest's XSAVE image           RSI   the exchange area; [RSI] is the memory operand
//! RAX   the general-register operand      RCX, RDX   implied operands of PCMPxSTRx
//! ```
//!
//! SIMD floating point runs with the guest's rounding and denormal control but every exception
//! masked and no flag set, so that the flags tell what it raised; if the guest does not mask one of
//! those, nothing is stored. With underflow unmasked, flush-to-zero is set: then a tiny result
//! raises the flag whether or not it is exact, as the unmasked exception asks.

use std::collections::BTreeSet;
use std::mem::offset_of;

use iced_x86::{
    Code, CodeSize, Encoder, EncodingKind, IcedError, Instruction, InstructionInfoFactory,
    MemoryOperand, Mnemonic, OpAccess, OpKind, Register,
};
use interp::vector::{Exchange, STATUS_FLAGS};
use x86::xsave::{MXCSR_MASK, MXCSR_RESET, XMM_OFFSET, YMM_HI_OFFSET};

const FOP: i64 = 6;
const FIP: i64 = 8;
const FDP: i64 = 16;
const MXCSR: i64 = 24;
const RAX: i64 = offset_of!(Exchange, rax) as i64;
const RCX: i64 = offset_of!(Exchange, rcx) as i64;
const RDX: i64 = offset_of!(Exchange, rdx) as i64;
const RFLAGS: i64 = offset_of!(Exchange, rflags) as i64;
const UNMASKED: i64 = offset_of!(Exchange, unmasked) as i64;
const RAISED: i64 = offset_of!(Exchange, raised) as i64;
const SCRATCH: i64 = offset_of!(Exchange, scratch) as i64;

/// The instruction with its operands where routines have them: memory at [RSI], a general register
/// in RAX. Two guest instructions with the same normal form share a routine.
pub(super) fn normalise(instruction: &Instruction) -> Instruction {
    let mut normal = *instruction;
    normal.set_code_size(CodeSize::Code64);
    normal.set_len(0);
    normal.set_next_ip(0);
    normal.set_segment_prefix(Register::None);
    for index in 0..normal.op_count() {
        match normal.op_kind(index) {
            OpKind::Memory => {
                normal.set_memory_base(Register::RSI);
                normal.set_memory_index(Register::None);
                normal.set_memory_index_scale(1);
                normal.set_memory_displacement64(0);
                normal.set_memory_displ_size(0);
            }
            OpKind::Register => {
                let register = normal.op_register(index);
                let place = match register.size() {
                    2 => Register::AX,
                    4 => Register::EAX,
                    _ => Register::RAX,
                };
                if register.is_gpr() {
                    normal.set_op_register(index, place);
                }
            }
            _ => {}
        }
    }
    normal
}

/// The routine for a normal form; `None` if it cannot be encoded in 64-bit code.
pub(super) fn routine(normal: &Instruction) -> Option<Vec<u8>> {
    let class = |test: fn(Register) -> bool| {
        (0..normal.op_count()).any(|index| test(normal.op_register(index)))
    };
    // With a memory operand CVTSS2SI and kin name no vector register.
    let vector = class(|r| r.is_xmm() || r.is_ymm()) || class(Register::is_gpr);
    let emitter = Emitter::default();
    let code = if vector && !class(Register::is_mm) {
        vector_routine(emitter, normal)
    } else {
        legacy_routine(emitter, normal)
    };
    code.ok()
}

/// XMM and YMM: only the registers concerned are loaded and stored.
fn vector_routine(mut code: Emitter, normal: &Instruction) -> Result<Vec<u8>, IcedError> {
    let used = Registers::of(normal);
    let float = is_float(normal.mnemonic());
    for &number in &used.read {
        code.load_vector(number, used.vex, used.wide)?;
    }
    if float {
        code.begin_float()?;
    }
    code.execute(normal)?;
    let mut stores = Emitter::default();
    for &number in &used.written {
        stores.store_vector(number, used.vex)?;
    }
    if float {
        code.end_float()?;
        stores.push(Instruction::with2(Code::Or_rm32_r32, image(MXCSR), Register::ECX))?;
        code.skip_if_not_zero(&stores.bytes);
    }
    code.bytes.extend(stores.bytes);
    if used.vex {
        code.push(Ok(Instruction::with(Code::VEX_Vzeroupper)))?;
    }
    code.push(Ok(Instruction::with(Code::Retnq)))?;
    Ok(code.bytes)
}

/// x87 and MMX: the whole legacy image is loaded and stored; FOP, FIP and FDP stay the guest's.
fn legacy_routine(mut code: Emitter, normal: &Instruction) -> Result<Vec<u8>, IcedError> {
    let mmx = (0..normal.op_count()).any(|index| normal.op_register(index).is_mm());
    let float = mmx && is_float(normal.mnemonic());
    code.push(Instruction::with2(Code::And_rm32_imm32, image(MXCSR), MXCSR_MASK))?;
    code.push(Instruction::with2(Code::Movzx_r32_rm16, Register::R8D, image(FOP)))?;
    code.push(Instruction::with2(Code::Mov_r64_rm64, Register::R9, image(FIP)))?;
    code.push(Instruction::with2(Code::Mov_r64_rm64, Register::R10, image(FDP)))?;
    code.push(Instruction::with1(Code::Fxrstor64_m512byte, image(0)))?;
    if float {
        code.begin_float()?;
    }
    code.execute(normal)?;
    let mut stores = Emitter::default();
    stores.push(Instruction::with1(Code::Fxsave64_m512byte, image(0)))?;
    if float {
        code.end_float()?;
        stores.push(Instruction::with2(Code::Or_r32_rm32, Register::ECX, Register::R11D))?;
        stores.push(Instruction::with2(Code::Mov_rm32_r32, image(MXCSR), Register::ECX))?;
    }
    stores.push(Instruction::with2(Code::Mov_rm32_imm32, image(MXCSR + 4), MXCSR_MASK))?;
    stores.push(Instruction::with2(Code::Mov_rm16_r16, image(FOP), Register::R8W))?;
    stores.push(Instruction::with2(Code::Mov_rm64_r64, image(FIP), Register::R9))?;
    stores.push(Instruction::with2(Code::Mov_rm64_r64, image(FDP), Register::R10))?;
    if float {
        code.skip_if_not_zero(&stores.bytes);
    }
    code.bytes.extend(stores.bytes);
    code.load_mxcsr(MXCSR_RESET)?;
    // FNINIT: a pending exception must not stay behind.
    code.push(Ok(Instruction::with(Code::Fninit)))?;
    code.push(Ok(Instruction::with(Code::Retnq)))?;
    Ok(code.bytes)
}

/// Vector registers by number, and how they are encoded.
struct Registers {
    read: BTreeSet<u32>,
    written: BTreeSet<u32>,
    vex: bool,
    wide: bool,
}

impl Registers {
    fn of(normal: &Instruction) -> Self {
        let mut factory = InstructionInfoFactory::new();
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        for used in factory.info(normal).used_registers() {
            if !used.register().is_vector_register() {
                continue;
            }
            let number = used.register().number() as u32;
            // Whatever is not surely overwritten whole is loaded too.
            if used.access() != OpAccess::Write {
                read.insert(number);
            }
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                written.insert(number);
            }
        }
        let wide = (0..normal.op_count()).any(|index| normal.op_register(index).is_ymm());
        Self { read, written, vex: normal.encoding() == EncodingKind::VEX, wide }
    }
}

/// Whether MXCSR controls an instruction or receives its exceptions. Integer instructions begin
/// with P, moves and shuffles with none of these.
fn is_float(mnemonic: Mnemonic) -> bool {
    const FLOAT: [&str; 19] = [
        "Add", "Sub", "Mul", "Div", "Min", "Max", "Sqrt", "Cmp", "Comis", "Ucomis", "Cvt", "Rcp",
        "Rsqrt", "Round", "Dpp", "Hadd", "Hsub", "Fm", "Fnm",
    ];
    let name = format!("{mnemonic:?}");
    let plain = name.strip_prefix('V').map_or_else(|| name.clone(), capitalised);
    FLOAT.iter().any(|start| plain.starts_with(start))
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

fn image(offset: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RDI, offset)
}

fn exchange(offset: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RSI, offset)
}

fn xmm(number: u32) -> Register {
    Register::XMM0 + number
}

fn ymm(number: u32) -> Register {
    Register::YMM0 + number
}

fn xmm_place(number: u32) -> MemoryOperand {
    image(XMM_OFFSET as i64 + i64::from(number) * 16)
}

fn ymm_place(number: u32) -> MemoryOperand {
    image(YMM_HI_OFFSET as i64 + i64::from(number) * 16)
}

/// Appends encoded instructions. Nothing here is relative to RIP, so position does not matter.
struct Emitter {
    encoder: Encoder,
    bytes: Vec<u8>,
}

impl Default for Emitter {
    fn default() -> Self {
        Self { encoder: Encoder::new(64), bytes: Vec::new() }
    }
}

impl Emitter {
    fn push(&mut self, instruction: Result<Instruction, IcedError>) -> Result<(), IcedError> {
        self.encoder.encode(&instruction?, 0)?;
        self.bytes.extend(self.encoder.take_buffer());
        Ok(())
    }

    fn load_vector(&mut self, number: u32, vex: bool, wide: bool) -> Result<(), IcedError> {
        let code = if vex { Code::VEX_Vmovups_xmm_xmmm128 } else { Code::Movups_xmm_xmmm128 };
        self.push(Instruction::with2(code, xmm(number), xmm_place(number)))?;
        if vex && wide {
            let insert = Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8;
            let (low, high) = (ymm(number), ymm_place(number));
            self.push(Instruction::with4(insert, low, low, high, 1))?;
        }
        Ok(())
    }

    /// VEX forms have defined the whole YMM register, legacy forms only its low half.
    fn store_vector(&mut self, number: u32, vex: bool) -> Result<(), IcedError> {
        let code = if vex { Code::VEX_Vmovups_xmmm128_xmm } else { Code::Movups_xmmm128_xmm };
        self.push(Instruction::with2(code, xmm_place(number), xmm(number)))?;
        if vex {
            let extract = Code::VEX_Vextractf128_xmmm128_ymm_imm8;
            self.push(Instruction::with3(extract, ymm_place(number), ymm(number), 1))?;
        }
        Ok(())
    }

    /// The instruction itself, between its general registers and flags.
    fn execute(&mut self, normal: &Instruction) -> Result<(), IcedError> {
        let general = (0..normal.op_count()).any(|index| normal.op_register(index).is_gpr());
        let string = format!("{:?}", normal.mnemonic()).to_lowercase().contains("pcmpestr")
            || format!("{:?}", normal.mnemonic()).to_lowercase().contains("pcmpistr");
        if general || string {
            self.push(Instruction::with2(Code::Mov_r64_rm64, Register::RAX, exchange(RAX)))?;
        }
        if string {
            self.push(Instruction::with2(Code::Mov_r64_rm64, Register::RCX, exchange(RCX)))?;
            self.push(Instruction::with2(Code::Mov_r64_rm64, Register::RDX, exchange(RDX)))?;
        }
        if normal.rflags_read() & STATUS_FLAGS != 0 {
            self.push(Instruction::with1(Code::Push_rm64, exchange(RFLAGS)))?;
            self.push(Ok(Instruction::with(Code::Popfq)))?;
        }
        self.push(Ok(*normal))?;
        if normal.rflags_modified() & STATUS_FLAGS != 0 {
            self.push(Ok(Instruction::with(Code::Pushfq)))?;
            self.push(Instruction::with1(Code::Pop_rm64, exchange(RFLAGS)))?;
        }
        if general {
            self.push(Instruction::with2(Code::Mov_rm64_r64, exchange(RAX), Register::RAX))?;
        }
        if string {
            self.push(Instruction::with2(Code::Mov_rm64_r64, exchange(RCX), Register::RCX))?;
        }
        Ok(())
    }

    fn load_mxcsr(&mut self, value: u32) -> Result<(), IcedError> {
        self.push(Instruction::with2(Code::Mov_rm32_imm32, exchange(SCRATCH), value))?;
        self.push(Instruction::with1(Code::Ldmxcsr_m32, exchange(SCRATCH)))
    }

    /// R11D keeps the guest's MXCSR; the host's gets its controls, all masks and no flags.
    fn begin_float(&mut self) -> Result<(), IcedError> {
        use Register::{ECX, EDX, R11D};
        self.push(Instruction::with2(Code::Mov_r32_rm32, R11D, image(MXCSR)))?;
        self.push(Instruction::with2(Code::Mov_r32_rm32, ECX, R11D))?;
        self.push(Instruction::with2(Code::And_rm32_imm32, ECX, 0xffc0))?;
        self.push(Instruction::with2(Code::Or_rm32_imm32, ECX, MXCSR_RESET))?;
        // UM clear: set FZ (bit 11 inverted to bit 15).
        self.push(Instruction::with2(Code::Mov_r32_rm32, EDX, R11D))?;
        self.push(Instruction::with1(Code::Not_rm32, EDX))?;
        self.push(Instruction::with2(Code::And_rm32_imm32, EDX, 1 << 11))?;
        self.push(Instruction::with2(Code::Shl_rm32_imm8, EDX, 4))?;
        self.push(Instruction::with2(Code::Or_r32_rm32, ECX, EDX))?;
        self.push(Instruction::with2(Code::Mov_rm32_r32, exchange(SCRATCH), ECX))?;
        self.push(Instruction::with1(Code::Ldmxcsr_m32, exchange(SCRATCH)))
    }

    /// ECX gets the raised flags, ZF says whether the guest masks them all.
    fn end_float(&mut self) -> Result<(), IcedError> {
        use Register::{ECX, EDX, R11D};
        self.push(Instruction::with1(Code::Stmxcsr_m32, exchange(SCRATCH)))?;
        self.push(Instruction::with2(Code::Mov_r32_rm32, ECX, exchange(SCRATCH)))?;
        self.push(Instruction::with2(Code::And_rm32_imm8, ECX, 0x3f))?;
        self.load_mxcsr(MXCSR_RESET)?;
        self.push(Instruction::with2(Code::Mov_rm32_r32, exchange(RAISED), ECX))?;
        self.push(Instruction::with2(Code::Mov_r32_rm32, EDX, R11D))?;
        self.push(Instruction::with2(Code::Shr_rm32_imm8, EDX, 7))?;
        self.push(Instruction::with1(Code::Not_rm32, EDX))?;
        self.push(Instruction::with2(Code::And_r32_rm32, EDX, ECX))?;
        self.push(Instruction::with2(Code::Mov_rm32_r32, exchange(UNMASKED), EDX))
    }

    /// JNZ over what follows: flags are those of `end_float`'s AND, which MOV leaves.
    fn skip_if_not_zero(&mut self, what: &[u8]) {
        let distance = u32::try_from(what.len()).expect("a few stores");
        self.bytes.extend([0x0f, 0x85]);
        self.bytes.extend(distance.to_le_bytes());
    }
}
