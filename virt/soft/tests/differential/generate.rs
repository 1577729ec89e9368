//! Random cases: an opcode, operands for it, and state in which it does something.

use std::ops::Range;

use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use crate::case::{CODE, CODE_SIZE, Case, Machine, START, WINDOW, WINDOW_SIZE};
use crate::machine;
use crate::operands::{Builder, is_undefined, is_word_pair};
use crate::random::Random;

/// Makes cases by seed.
pub(crate) struct Generator<'a> {
    bitness: u32,
    codes: &'a [Code],
}

impl<'a> Generator<'a> {
    pub(crate) fn new(bitness: u32, codes: &'a [Code]) -> Self {
        Self { bitness, codes }
    }

    /// The case of this seed; `None` if its operands cannot be encoded together.
    pub(crate) fn case(&self, seed: u64) -> Option<Case> {
        let mut random = Random::new(seed);
        let mut before = machine::random(&mut random, self.bitness);
        let (mut instructions, mut starts) = (Vec::new(), Vec::new());
        let mut ignored = Vec::new();
        let mut code = Vec::new();
        let mut undefined = 0;
        // Several seeds per opcode; now and then others follow it, fed by its results.
        let length = if random.once_in(4) { 2 + random.below(3) } else { 1 };
        for number in 0..length {
            let which = if number == 0 { seed } else { random.next() };
            let opcode = self.codes[(which % self.codes.len() as u64) as usize];
            let first = number == 0;
            let mut builder = Builder {
                random: &mut random,
                machine: &mut before,
                bitness: self.bitness,
                first,
                target: None,
            };
            let Some(mut instruction) = builder.build(opcode.op_code()) else {
                assert!(!first, "no operands for {opcode:?}");
                continue;
            };
            let target = builder.target;
            self.add_prefixes(&mut random, &mut instruction);
            if is_undefined(&instruction)
                || is_addressed_by_mask(&instruction)
                || !first && !can_follow(&instruction, undefined)
            {
                if first {
                    return None;
                }
                continue;
            }
            if first {
                self.suit(&mut random, &mut before, &instruction, target);
            }
            let at = before.rip + code.len() as u64;
            let Some(bytes) = self.encode(&instruction, at) else {
                if first {
                    return None;
                }
                continue;
            };
            code.extend(bytes);
            starts.push(at);
            ignored.extend(
                target.and_then(|target| pointers(&instruction, target)).into_iter().flatten(),
            );
            undefined = still_undefined(undefined, &instruction);
            instructions.push(instruction);
        }
        assert!(code.len() <= CODE_SIZE);
        Some(Case { seed, bitness: self.bitness, instructions, starts, code, before, ignored })
    }

    fn encode(&self, instruction: &Instruction, at: u64) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.bitness);
        encoder.encode(instruction, at).ok()?;
        Some(encoder.take_buffer())
    }

    fn add_prefixes(&self, random: &mut Random, instruction: &mut Instruction) {
        let info = instruction.code().op_code();
        let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        if info.can_use_lock_prefix() && memory && random.once_in(3) {
            instruction.set_has_lock_prefix(true);
        }
        if instruction.is_string_instruction() {
            if info.can_use_rep_prefix() && random.once_in(2) {
                instruction.set_has_rep_prefix(true);
            } else if info.can_use_repne_prefix() && random.once_in(2) {
                instruction.set_has_repne_prefix(true);
            }
        }
        let has_memory =
            (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
        if has_memory && random.once_in(16) {
            let segments = [Register::DS, Register::ES, Register::SS, Register::CS];
            instruction.set_segment_prefix(random.pick(&segments));
        }
    }

    /// Sets registers and memory that random values would make the instruction only fault on.
    fn suit(
        &self,
        random: &mut Random,
        machine: &mut Machine,
        instruction: &Instruction,
        target: Option<u64>,
    ) {
        use Mnemonic as M;
        clear_misaligned(machine, instruction, target);
        let place = target
            .map(|target| target.wrapping_sub(WINDOW) as usize)
            .filter(|&place| place < WINDOW_SIZE - 1024);
        if instruction.is_string_instruction() {
            machine.gpr[1] = random.below(24);
            if random.once_in(3) {
                machine.rflags |= 1 << 10;
            }
        }
        match instruction.mnemonic() {
            M::Div | M::Idiv if random.below(4) != 0 => {
                machine.gpr[2] = random.pick(&[0, 0, 1, u64::MAX]);
            }
            M::Bt | M::Bts | M::Btr | M::Btc if place.is_some() => {
                let source = instruction.op_register(1);
                let used = [instruction.memory_base(), instruction.memory_index()];
                let number = source.full_register();
                if source.is_gpr() && !used.iter().any(|r| r.full_register() == number) {
                    machine.gpr[number.number()] = random.below(4096).wrapping_sub(2048);
                }
            }
            M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b if random.once_in(2) => {
                if let Some(place) = place {
                    let half = if instruction.mnemonic() == M::Cmpxchg8b { 4 } else { 8 };
                    machine.gpr[0] = little(&machine.window[place..place + half]);
                    machine.gpr[2] = little(&machine.window[place + half..place + 2 * half]);
                }
            }
            // It underflows by rules of its own: whether an exact tiny result raises UE is not seen
            // when UE is masked, and flush-to-zero does not apply.
            M::Vcvtps2ph => machine.image[25] |= 8,
            M::Shld | M::Shrd if is_word_pair(instruction) && machine.gpr[1] & 31 > 16 => {
                machine.gpr[1] &= !16;
            }
            M::Leave | M::Enter => machine.gpr[5] = WINDOW + 0x800 + random.below(128) * 8,
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => {
                machine.gpr[7] = WINDOW + 0x800 + random.below(128);
            }
            M::Jmp | M::Call | M::Ret => self.aim(random, machine, instruction, place),
            M::Popf | M::Popfd | M::Popfq => {
                // Single step and alignment checks are the run loop's and the bus's.
                let stack = (machine.gpr[4] - WINDOW) as usize;
                machine.window[stack + 1] &= !1;
                machine.window[stack + 2] &= !4;
            }
            M::Ldmxcsr | M::Vldmxcsr | M::Fxrstor | M::Fxrstor64 if !random.once_in(8) => {
                let offset =
                    if matches!(instruction.mnemonic(), M::Ldmxcsr | M::Vldmxcsr) { 0 } else { 24 };
                if let Some(place) = place {
                    machine.window[place + offset + 2..place + offset + 4].fill(0);
                }
            }
            M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64 => {
                machine.gpr[0] = random.below(8);
                machine.gpr[2] = 0;
                if let Some(place) = place {
                    header(random, &mut machine.window[place..place + 1024]);
                }
            }
            _ => {}
        }
    }

    /// Half the time, indirect branches go to the code page.
    fn aim(
        &self,
        random: &mut Random,
        machine: &mut Machine,
        instruction: &Instruction,
        place: Option<usize>,
    ) {
        if random.once_in(2) {
            return;
        }
        let to = CODE + START as u64 + 0x100 + random.below(0x800);
        let width = if self.bitness == 64 { 8 } else { 4 };
        if instruction.mnemonic() == Mnemonic::Ret {
            let stack = (machine.gpr[4] - WINDOW) as usize;
            machine.window[stack..stack + width].copy_from_slice(&to.to_le_bytes()[..width]);
        } else if instruction.op0_kind() == OpKind::Register {
            machine.gpr[instruction.op0_register().full_register().number()] = to;
        } else if let Some(place) = place {
            machine.window[place..place + width].copy_from_slice(&to.to_le_bytes()[..width]);
        }
    }
}

fn little(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}

/// XSAVE and kin with an address that hangs on their mask in EDX:EAX.
fn is_addressed_by_mask(instruction: &Instruction) -> bool {
    let mnemonic = format!("{:?}", instruction.mnemonic());
    let masked = mnemonic.starts_with("Xsave") || mnemonic.starts_with("Xrstor");
    let registers = [instruction.memory_base(), instruction.memory_index()];
    let mask =
        |register: &Register| matches!(register.full_register(), Register::RAX | Register::RDX);
    masked && registers.iter().any(mask)
}

/// Clears misaligned exception masks (bit 17) in an MXCSR that will be loaded: they are not
/// announced to guests, whatever the host has.
fn clear_misaligned(machine: &mut Machine, instruction: &Instruction, target: Option<u64>) {
    let name = format!("{:?}", instruction.mnemonic());
    let mxcsr = match name.as_str() {
        "Ldmxcsr" | "Vldmxcsr" => 0,
        "Fxrstor" | "Fxrstor64" | "Xrstor" | "Xrstor64" => 24,
        _ => return,
    };
    let third = target.map(|target| target.wrapping_sub(WINDOW).wrapping_add(mxcsr + 2) as usize);
    if let Some(byte) = third.and_then(|at| machine.window.get_mut(at)) {
        *byte &= !2;
    }
}

/// An XSAVE area's header and MXCSR: mostly valid ones.
fn header(random: &mut Random, area: &mut [u8]) {
    if !random.once_in(8) {
        area[26..28].fill(0);
    }
    if random.once_in(10) {
        return;
    }
    area[512..576].fill(0);
    area[512] = random.below(8) as u8;
    if random.once_in(3) {
        area[520] = random.pick(&[7, 7, 7, 3, 15]);
        area[527] = 0x80;
    }
}

/// Which flags (in iced's numbering) are undefined after an instruction, given those before it.
/// Shifts by 0 write none, whatever their tables say.
pub(crate) fn still_undefined(undefined: u32, instruction: &Instruction) -> u32 {
    use Mnemonic as M;
    let shift = matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd | M::Rol | M::Ror | M::Rcl | M::Rcr
    );
    let written = if shift { 0 } else { instruction.rflags_written() };
    undefined & !written | instruction.rflags_undefined() | full_turn(instruction)
}

/// RCL and RCR by an immediate over 1 leave OF undefined, also where they turn a byte or a word all
/// the way round, which iced takes for no rotation.
fn full_turn(instruction: &Instruction) -> u32 {
    let rotates = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr);
    let immediate = rotates && instruction.op1_kind() == OpKind::Immediate8;
    if immediate && instruction.immediate8() & 31 > 1 { RflagsBits::OF } else { 0 }
}

/// Whether an instruction may come after others that left these flags undefined.
fn can_follow(instruction: &Instruction, undefined: u32) -> bool {
    let read = instruction.rflags_read();
    let branches = instruction.flow_control() != iced_x86::FlowControl::Next;
    let pushes_flags = read & (RflagsBits::IF | RflagsBits::DF) != 0;
    let saves = instruction.code().op_code().is_save_restore();
    let suited = matches!(
        instruction.mnemonic(),
        Mnemonic::Popf
            | Mnemonic::Popfd
            | Mnemonic::Popfq
            | Mnemonic::Vcvtps2ph
            | Mnemonic::Ldmxcsr
            | Mnemonic::Vldmxcsr
            | Mnemonic::Maskmovq
            | Mnemonic::Maskmovdqu
            | Mnemonic::Vmaskmovdqu
    );
    // By CL, which others may have changed.
    let suited = suited || is_word_pair(instruction) && instruction.op2_register() == Register::CL;
    let blurred = read & undefined != 0 || pushes_flags && undefined != 0;
    !(blurred || branches || saves || suited)
}

/// FIP to FDS in the 14-byte and the 28-byte environment.
const X87_16: [Range<u64>; 1] = [6..14; 1];
const X87_32: [Range<u64>; 1] = [12..28; 1];

/// x87 pointers in saved images: the child's own addresses, and selectors. XSTATE_BV says what
/// the host's tracking of initial state happens to know.
fn pointers(instruction: &Instruction, target: u64) -> Option<Vec<Range<usize>>> {
    use Mnemonic as M;
    let ranges: &[Range<u64>] = match instruction.mnemonic() {
        M::Fnstenv | M::Fnsave => match instruction.code() {
            Code::Fnstenv_m14byte | Code::Fnsave_m94byte => &X87_16,
            _ => &X87_32,
        },
        M::Fxsave
        | M::Fxsave64
        | M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64 => &[6..24, 28..32],
        _ => return None,
    };
    let start = target.wrapping_sub(WINDOW) as usize;
    let shift = |range: &Range<u64>| {
        start.wrapping_add(range.start as usize)..start.wrapping_add(range.end as usize)
    };
    Some(ranges.iter().map(shift).collect())
}
