//! What the translator must know of an instruction before it emits anything.

use iced_x86::{
    Code, CodeSize, CpuidFeature, DecoderOptions, EncodingKind, FlowControl, Instruction,
    InstructionInfo, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use interp::lower::features::{bit_of, is_register_prefetch};

use super::flags::STATUS;
use super::flat;
use super::forecast::Stretch;
pub(crate) use super::gates::Gates;
use super::registers::is_taken;

/// How code to translate is decoded, whatever the guest's vendor: with AMD's reading of near branches,
/// so that those with an operand-size prefix, where vendors differ, are of 16 bits and left to the
/// interpreter, which knows the guest's.
pub(crate) const DECODING: u32 = DecoderOptions::FORCE_RESERVED_NOP | DecoderOptions::AMD;

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Copied, with registers and memory operand replaced where needed.
    Plain,
    /// Does nothing.
    Nothing,
    /// LEA.
    Address,
    /// PUSH of a register, immediate or memory.
    Push,
    /// POP to a register.
    Pop,
    /// LEAVE.
    Leave,
    /// BT, BTS, BTR, BTC with a register as bit offset into memory.
    BitString,
    /// RDTSC, RDTSCP.
    TimeStamp,
    /// POP RSP.
    PopStackPointer,
    /// PUSHFQ.
    PushFlags,
    /// POPFQ in kernel mode.
    PopFlags,
    /// CLI in kernel mode.
    DisableInterrupts,
    /// STI in kernel mode.
    EnableInterrupts,
    /// SWAPGS.
    SwapGs,
    /// INVLPG.
    InvalidatePage,
    /// MOV to a general register from a segment register.
    Selector,
    /// MOV m16 from a segment register.
    StoreSelector,
    /// STAC (`true`) or CLAC in kernel mode.
    AccessFlag(bool),
    /// CLD.
    ClearDirection,
    /// RDFSBASE, RDGSBASE.
    ReadBase,
    /// WRFSBASE, WRGSBASE.
    WriteBase,
    /// MOV from CR0, CR2, CR3 or CR4 in kernel mode.
    ReadControl,
    /// RDPKRU.
    ReadKeys,
    /// REP MOVS, REP STOS.
    RepeatedString,
    /// SYSCALL in 64-bit mode.
    SystemCall,
    /// SYSRET to 64-bit mode.
    SystemReturn,
    /// JMP rel.
    Jump,
    /// Jcc rel, by condition.
    Branch(u8),
    /// CALL rel.
    Call,
    /// JMP r/m64.
    JumpIndirect,
    /// CALL r/m64.
    CallIndirect,
    /// RET, RET imm16.
    Return,
    /// Left to the interpreter.
    Interpret,
}

impl Kind {
    /// Whether a block ends with it.
    pub(crate) fn ends_block(self) -> bool {
        matches!(
            self,
            Self::Jump
                | Self::Branch(_)
                | Self::Call
                | Self::JumpIndirect
                | Self::CallIndirect
                | Self::Return
                | Self::SystemCall
                | Self::SystemReturn
                | Self::InvalidatePage
                | Self::Interpret
        )
    }
}

/// A memory access through the explicit operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryAccess {
    pub(crate) write: bool,
    /// Bytes, 1 to 512.
    pub(crate) size: u32,
}

/// One instruction of a block.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) ins: Instruction,
    /// Distance from the start of the page the block starts in.
    pub(crate) offset: i32,
    /// Where its bytes lie in the source's, if they say what it says.
    pub(crate) code_at: Option<u32>,
    /// Where a superblock goes on behind it, if it moves control.
    pub(crate) follows: Option<i32>,
    pub(crate) kind: Kind,
    /// The explicit memory operand's access.
    pub(crate) access: Option<MemoryAccess>,
    /// Where that probably is.
    pub(super) stretch: Option<Stretch>,
    /// The address comes out of memory itself.
    pub(super) is_chained: bool,
    /// General registers written.
    pub(crate) writes: u16,
    /// Taken registers among the operands whose value must be there before: all but those of
    /// which 32 or 64 bits are only written.
    pub(crate) loads: u16,
    /// Bytes of a stack element, and of what addresses are made of.
    pub(crate) word: u8,
    /// What a stack instruction adds to RSP.
    pub(crate) stack_move: Option<i32>,
    /// Some status flag is read, or kept while others change.
    pub(crate) reads_flags: bool,
    /// All status flags are overwritten (and none read).
    pub(crate) makes_flags: bool,
    /// Some status flag changes.
    pub(crate) changes_flags: bool,
    /// Can leave the block before it, or fault.
    pub(crate) can_leave: bool,
    /// Needs XMM, YMM or MXCSR.
    pub(crate) vector: bool,
    /// Needs x87 or MMX.
    pub(crate) x87: bool,
    /// Can raise an exception other than by memory (host: SIGFPE).
    pub(crate) can_trap: bool,
}

/// Number and byte size of a general register, high-byte ones apart.
pub(crate) fn gpr_of(register: Register) -> Option<(u8, u8)> {
    if !register.is_gpr() || is_high_byte(register) {
        return None;
    }
    let size = register.size() as u8;
    Some((register.full_register().number() as u8, size))
}

/// AH, CH, DH, BH.
pub(crate) fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// Looks at an instruction. `announced`: CPUID names all it needs.
pub(crate) fn examine(
    factory: &mut InstructionInfoFactory,
    ins: &Instruction,
    offset: i32,
    gates: Gates,
    announced: bool,
) -> Fact {
    let word = if gates.flat { 4 } else { 8 };
    let mut fact = Fact {
        ins: *ins,
        offset,
        code_at: None,
        follows: None,
        kind: Kind::Interpret,
        access: None,
        stretch: None,
        is_chained: false,
        writes: 0,
        loads: 0,
        word,
        stack_move: None,
        reads_flags: true,
        makes_flags: false,
        changes_flags: false,
        can_leave: true,
        vector: false,
        x87: false,
        can_trap: false,
    };
    if !announced || ins.is_invalid() {
        return fact;
    }
    if gates.flat {
        let Some(wide) = flat::widened(ins, gates) else { return fact };
        fact.ins = wide;
    }
    let ins = &fact.ins.clone();
    let kind = kind_of(ins);
    if kind == Kind::Interpret {
        return fact;
    }
    let (vector, x87) = units(ins);
    if has_memory(ins) && !is_reachable(ins)
        || taken_operands(ins) > 1 + usize::from(!has_memory(ins))
    {
        return fact;
    }
    let vex = ins.encoding() == EncodingKind::VEX && vector;
    let closed = vector && !gates.sse || vex && !gates.avx || x87 && !gates.x87;
    if closed || is_closed(kind, gates) {
        return fact;
    }
    let info = factory.info(ins);
    for used in info.used_registers() {
        let written =
            !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        if used.register().is_gpr() && written {
            fact.writes |= 1 << used.register().full_register().number();
        }
    }
    for index in 0..ins.op_count() {
        if ins.op_kind(index) == OpKind::Register
            && let Some((number, size)) = gpr_of(ins.op_register(index))
            && !(info.op_access(index) == OpAccess::Write && size >= 4)
        {
            fact.loads |= 1 << number;
        }
    }
    if has_memory(ins) && !matches!(kind, Kind::Nothing | Kind::Address | Kind::InvalidatePage) {
        let Some(mut access) = memory_access(ins, info) else { return fact };
        if matches!(kind, Kind::Push | Kind::JumpIndirect | Kind::CallIndirect) {
            access.size = word.into();
        }
        fact.access = Some(access);
    }
    fact.kind = kind;
    fact.vector = vector;
    fact.x87 = x87;
    fact.can_trap = can_trap(ins, vector, x87);
    flags_of(ins, &mut fact);
    if kind == Kind::PopFlags {
        fact.makes_flags = true;
        fact.changes_flags = true;
        fact.reads_flags = false;
    }
    fact.stack_move = match kind {
        Kind::Push | Kind::PushFlags => Some(-i32::from(word)),
        Kind::Pop | Kind::PopFlags => Some(word.into()),
        _ => None,
    };
    let checks = matches!(
        kind,
        Kind::Push
            | Kind::Pop
            | Kind::Leave
            | Kind::Call
            | Kind::PopStackPointer
            | Kind::PushFlags
            | Kind::PopFlags
            | Kind::EnableInterrupts
            | Kind::AccessFlag(_)
            | Kind::WriteBase
            | Kind::ReadKeys
            | Kind::RepeatedString
            | Kind::InvalidatePage
    );
    fact.can_leave = fact.access.is_some()
        || checks
        || fact.can_trap
        || matches!(kind, Kind::JumpIndirect | Kind::CallIndirect | Kind::Return);
    if kind.ends_block() {
        // What follows needs the flags.
        fact.reads_flags = true;
        fact.makes_flags = false;
    }
    fact
}

/// Whether the mode, or lockstep, leaves an instruction to the interpreter.
fn is_closed(kind: Kind, gates: Gates) -> bool {
    let privileged = matches!(
        kind,
        Kind::PopFlags
            | Kind::DisableInterrupts
            | Kind::EnableInterrupts
            | Kind::SwapGs
            | Kind::AccessFlag(_)
            | Kind::ReadControl
            | Kind::SystemReturn
            | Kind::InvalidatePage
    );
    let for_good = matches!(
        kind,
        Kind::AccessFlag(_)
            | Kind::RepeatedString
            | Kind::SystemCall
            | Kind::SystemReturn
            | Kind::InvalidatePage
    );
    privileged && !gates.kernel
        || for_good && !gates.unchecked
        || kind == Kind::TimeStamp && !gates.time
        || matches!(kind, Kind::ReadBase | Kind::WriteBase) && !gates.bases
        || kind == Kind::ReadKeys && !gates.keys
        // What leads to a window may hang on a segment's base.
        || kind == Kind::WriteBase && gates.windows
        // A path knows more of its pages than that they are mapped.
        || kind == Kind::InvalidatePage && gates.path
}

fn flags_of(ins: &Instruction, fact: &mut Fact) {
    let (read, mut changed) = (ins.rflags_read() & STATUS, ins.rflags_modified() & STATUS);
    let mut maybe = false;
    if is_shift(ins.mnemonic()) {
        let count = ins.op_count() - 1;
        if ins.op_kind(count) == OpKind::Register {
            maybe = true;
        } else {
            let mask = if operand_size(ins) == 8 { 0x3f } else { 0x1f };
            if ins.immediate(count) & mask == 0 {
                changed = 0;
            }
        }
    }
    fact.changes_flags = changed != 0;
    fact.reads_flags = read != 0 || changed != 0 && (changed != STATUS || maybe);
    fact.makes_flags = changed == STATUS && !fact.reads_flags;
}

/// Shifts and rotates, which leave all flags alone where the count is 0.
pub(crate) fn is_shift(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    )
}

fn operand_size(ins: &Instruction) -> usize {
    match ins.op0_kind() {
        OpKind::Register => ins.op0_register().size(),
        _ => ins.memory_size().size(),
    }
}

/// Whether an explicit memory operand is there.
pub(crate) fn has_memory(ins: &Instruction) -> bool {
    (0..ins.op_count()).any(|index| ins.op_kind(index) == OpKind::Memory)
}

fn memory_access(ins: &Instruction, info: &InstructionInfo) -> Option<MemoryAccess> {
    let size = ins.memory_size().size() as u32;
    if size == 0 || size > 512 || is_moffs(ins) {
        return None;
    }
    // By operand: the list of memory used names no base where that is RIP.
    let operand = (0..ins.op_count()).find(|&index| ins.op_kind(index) == OpKind::Memory)?;
    let access = info.op_access(operand);
    let write = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
    Some(MemoryAccess { write, size })
}

/// Whether the address can be formed: RIP-relative ones reach up to 2 GiB from the page's start.
fn is_reachable(ins: &Instruction) -> bool {
    match ins.memory_base() {
        Register::RIP => i32::try_from(ins.memory_displacement64() as i64).is_ok(),
        Register::EIP => false,
        _ => true,
    }
}

/// Distinct taken registers among the register operands.
fn taken_operands(ins: &Instruction) -> usize {
    let mut seen = 0u16;
    for index in 0..ins.op_count() {
        if ins.op_kind(index) == OpKind::Register
            && let Some((number, _)) = gpr_of(ins.op_register(index))
            && is_taken(number)
        {
            seen |= 1 << number;
        }
    }
    seen.count_ones() as usize
}

fn is_moffs(ins: &Instruction) -> bool {
    matches!(
        ins.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

/// Whether XMM/YMM/MXCSR and whether x87/MMX are touched.
fn units(ins: &Instruction) -> (bool, bool) {
    use CpuidFeature as F;
    let mut vector = false;
    // WAIT is of no feature.
    let mut x87 = ins.mnemonic() == Mnemonic::Wait;
    for feature in ins.cpuid_features() {
        match feature {
            F::FPU | F::FPU287 | F::FPU387 | F::MMX => x87 = true,
            F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::AES
            | F::PCLMULQDQ
            | F::SHA
            | F::GFNI
            | F::AVX
            | F::AVX2
            | F::FMA
            | F::F16C
            | F::VAES
            | F::VPCLMULQDQ => vector = true,
            _ => {}
        }
    }
    for index in 0..ins.op_count() {
        if ins.op_kind(index) == OpKind::Register {
            let register = ins.op_register(index);
            vector |= register.is_vector_register();
            x87 |= register.is_mm() || register.is_st();
        }
    }
    let plain = matches!(
        ins.mnemonic(),
        Mnemonic::Crc32
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Pause
            | Mnemonic::Movnti
    );
    if plain { (false, false) } else { (vector, x87) }
}

/// Whether the host may raise SIGFPE, or SIGSEGV for alignment, on it.
fn can_trap(ins: &Instruction, vector: bool, x87: bool) -> bool {
    vector || x87 || matches!(ins.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cmpxchg16b)
}

fn kind_of(ins: &Instruction) -> Kind {
    use Mnemonic as M;
    if ins.code_size() != CodeSize::Code64
        || ins.is_privileged() && !is_known_privileged(ins)
        || !matches!(ins.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
    {
        return Kind::Interpret;
    }
    match ins.code() {
        Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Push_rm64 => {
            return Kind::Push;
        }
        Code::Pop_r64 if ins.op0_register() != Register::RSP => return Kind::Pop,
        Code::Leaveq => return Kind::Leave,
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => return Kind::Jump,
        Code::Call_rel32_64 => return Kind::Call,
        Code::Jmp_rm64 => return Kind::JumpIndirect,
        Code::Call_rm64 => return Kind::CallIndirect,
        Code::Retnq | Code::Retnq_imm16 => return Kind::Return,
        Code::Rdtsc | Code::Rdtscp => return Kind::TimeStamp,
        Code::Pop_r64 => return Kind::PopStackPointer,
        Code::Pushfq => return Kind::PushFlags,
        Code::Popfq => return Kind::PopFlags,
        Code::Cli => return Kind::DisableInterrupts,
        Code::Sti => return Kind::EnableInterrupts,
        Code::Swapgs => return Kind::SwapGs,
        Code::Invlpg_m => return Kind::InvalidatePage,
        Code::Stac => return Kind::AccessFlag(true),
        Code::Clac => return Kind::AccessFlag(false),
        Code::Cld => return Kind::ClearDirection,
        Code::Rdfsbase_r32 | Code::Rdfsbase_r64 | Code::Rdgsbase_r32 | Code::Rdgsbase_r64 => {
            return Kind::ReadBase;
        }
        Code::Wrfsbase_r32 | Code::Wrfsbase_r64 | Code::Wrgsbase_r32 | Code::Wrgsbase_r64 => {
            return Kind::WriteBase;
        }
        Code::Mov_r64_cr => return Kind::ReadControl,
        Code::Rdpkru => return Kind::ReadKeys,
        Code::Syscall => return Kind::SystemCall,
        Code::Sysretq => return Kind::SystemReturn,
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg
            if ins.op0_kind() == OpKind::Memory =>
        {
            return Kind::StoreSelector;
        }
        _ if super::string::is_run(ins) => return Kind::RepeatedString,
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            return Kind::Selector;
        }
        _ => {}
    }
    if ins.is_jcc_short_or_near() {
        let near = matches!(ins.op0_kind(), OpKind::NearBranch64);
        return if near { Kind::Branch(condition(ins)) } else { Kind::Interpret };
    }
    if ins.flow_control() != FlowControl::Next || ins.is_stack_instruction() {
        return Kind::Interpret;
    }
    match ins.mnemonic() {
        _ if is_register_prefetch(ins) => Kind::Interpret,
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Reservednop
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2 => Kind::Nothing,
        M::Lea => Kind::Address,
        M::Bt | M::Bts | M::Btr | M::Btc
            if ins.op0_kind() == OpKind::Memory && ins.op1_kind() == OpKind::Register =>
        {
            Kind::BitString
        }
        _ if is_left_to_interpreter(ins) => Kind::Interpret,
        _ => Kind::Plain,
    }
}

/// What of privileged instructions is translated.
fn is_known_privileged(ins: &Instruction) -> bool {
    match ins.code() {
        Code::Cli | Code::Sti | Code::Swapgs | Code::Stac | Code::Clac | Code::Sysretq => true,
        Code::Invlpg_m => true,
        Code::Mov_r64_cr => matches!(
            ins.op1_register(),
            Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4
        ),
        _ => false,
    }
}

pub(super) fn condition(ins: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match ins.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

/// What is not copied though nothing about its flow or privilege says so.
fn is_left_to_interpreter(ins: &Instruction) -> bool {
    use Mnemonic as M;
    let odd_operand = (0..ins.op_count()).any(|index| {
        let kind = ins.op_kind(index);
        let implicit = !matches!(
            kind,
            OpKind::Register
                | OpKind::Memory
                | OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        );
        let register = kind == OpKind::Register && {
            let register = ins.op_register(index);
            register.is_segment_register()
                || register.is_cr()
                || register.is_dr()
                || register.is_tr()
                || register.is_bnd()
                || register.is_k()
                || register.is_zmm()
                || register.is_tmm()
        };
        implicit || register
    });
    let vsib = ins.is_vsib();
    // Vendors differ on its alignment.
    let sha = has_memory(ins) && ins.cpuid_features().contains(&CpuidFeature::SHA);
    // What RCL and RCR leave in OF, all the way round too, and pairs shifted by more than 16 bits
    // are undefined and not alike on all hosts.
    let turn = matches!(ins.mnemonic(), M::Rcl | M::Rcr)
        && operand_size(ins) <= 2
        && ins.op1_kind() == OpKind::Immediate8
        && ins.immediate8() & 31 > 1;
    let pair = matches!(ins.mnemonic(), M::Shld | M::Shrd) && operand_size(ins) == 2;
    let high_byte = has_memory(ins)
        && (0..ins.op_count())
            .any(|i| ins.op_kind(i) == OpKind::Register && is_high_byte(ins.op_register(i)));
    odd_operand
        || vsib
        || sha
        || turn
        || pair
        || high_byte
        || is_foreign(ins)
        || ins.is_string_instruction()
        || matches!(
            ins.mnemonic(),
            M::Cpuid
                | M::Rdtsc
                | M::Rdtscp
                | M::Rdpmc
                | M::Rdpid
                | M::Rdpru
                | M::Rdrand
                | M::Rdseed
                | M::Xgetbv
                | M::Xsetbv
                | M::Xsave
                | M::Xsave64
                | M::Xsavec
                | M::Xsavec64
                | M::Xsaveopt
                | M::Xsaveopt64
                | M::Xsaves
                | M::Xsaves64
                | M::Xrstor
                | M::Xrstor64
                | M::Xrstors
                | M::Xrstors64
                | M::Fxsave
                | M::Fxsave64
                | M::Fxrstor
                | M::Fxrstor64
                // Hosts that know misaligned exception masks take a bit that guests may not set.
                | M::Ldmxcsr
                | M::Vldmxcsr
                // They make x87 state MMX state before they find that they fault.
                | M::Cvtps2pi
                | M::Cvttps2pi
                | M::Cvtpd2pi
                | M::Cvttpd2pi
                | M::Fnsave
                | M::Frstor
                | M::Fnstenv
                | M::Fldenv
                | M::Fnsetpm
                | M::Sgdt
                | M::Sidt
                | M::Sldt
                | M::Str
                | M::Smsw
                | M::Lar
                | M::Lsl
                | M::Verr
                | M::Verw
                | M::Rdfsbase
                | M::Rdgsbase
                | M::Wrfsbase
                | M::Wrgsbase
                | M::Cli
                | M::Sti
                | M::Cld
                | M::Std
                | M::Clac
                | M::Stac
                | M::In
                | M::Out
                | M::Clflush
                | M::Clflushopt
                | M::Clwb
                | M::Clzero
                | M::Cldemote
                | M::Monitor
                | M::Mwait
                | M::Monitorx
                | M::Mwaitx
                | M::Umonitor
                | M::Umwait
                | M::Tpause
                | M::Serialize
                | M::Rdpkru
                | M::Wrpkru
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
                | M::Vmaskmovps
                | M::Vmaskmovpd
                | M::Vpmaskmovd
                | M::Vpmaskmovq
                | M::Xlatb
                | M::Enter
                // Segment registers that no operand names.
                | M::Lss
                | M::Lfs
                | M::Lgs
                | M::Ud0
                | M::Ud1
                | M::Ud2
        )
}

/// Whether a feature is needed that CPUID never announces: the guest's instruction is undefined, and
/// the host's may not be, or not raise a signal that is expected.
fn is_foreign(ins: &Instruction) -> bool {
    use CpuidFeature as F;
    ins.cpuid_features().iter().any(|&feature| {
        bit_of(feature).is_none()
            && !matches!(
                feature,
                F::INTEL8086
                    | F::INTEL8086_ONLY
                    | F::INTEL186
                    | F::INTEL286
                    | F::INTEL286_ONLY
                    | F::INTEL386
                    | F::INTEL386_ONLY
                    | F::INTEL486
                    | F::X64
                    | F::FPU287
                    | F::FPU387
                    | F::PAUSE
            )
    })
}
