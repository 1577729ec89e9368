//! The guest's RSP may be ahead of the host's: a run of PUSH or POP moves it once.
//!
//! Each stack access takes the lag into its displacement; what uses RSP in another way, and what
//! leaves the block, settles it before. Sites keep it, for whoever makes the state whole there.
//!
//! Invariant: guest RSP = host RSP + lag, and the lag is a number of words that sites can hold.

use iced_x86::{Instruction, OpKind, Register};

use super::emit::Emitter;
use super::facts::{Fact, Kind};
use super::registers::RSP;

/// Bytes of a word of 64-bit code.
const WORD: i32 = 8;

impl Emitter<'_> {
    /// Moves the guest's stack pointer, changing no flag.
    pub(super) fn move_stack(&mut self, by: i32) {
        if !self.is_wide() {
            self.asm.lea(false, RSP, Some(RSP), None, by);
            return;
        }
        self.lag += by;
        if self.lag % WORD != 0 || i8::try_from(self.lag / WORD).is_err() {
            self.settle();
        }
    }

    /// Brings the host's RSP to where the guest's is.
    pub(super) fn settle(&mut self) {
        let lag = std::mem::take(&mut self.lag);
        if lag != 0 {
            self.asm.add_quietly(RSP, lag);
        }
    }

    /// Brings it there before an instruction that asks for it other than to reach its operand.
    pub(super) fn settle_before(&mut self, fact: &Fact) {
        if self.lag != 0 && !self.can_lag(fact) {
            self.settle();
        }
    }

    fn can_lag(&self, fact: &Fact) -> bool {
        let knows = match fact.kind {
            Kind::Plain | Kind::Address => u32::from(fact.writes) >> RSP & 1 == 0,
            Kind::Push | Kind::Pop | Kind::Leave | Kind::Nothing => true,
            Kind::Jump | Kind::Branch(_) | Kind::JumpIndirect => true,
            Kind::Call | Kind::CallIndirect | Kind::Return => true,
            _ => false,
        };
        let ins = &fact.ins;
        let named = (0..ins.op_count()).any(|operand| {
            ins.op_kind(operand) == OpKind::Register
                && ins.op_register(operand).full_register() == Register::RSP
        });
        let reached = ins.memory_base().full_register() != Register::RSP
            || fact.access.is_some() && self.lag_of(ins).is_some();
        knows && !named && reached
    }

    /// What the displacement of an operand at RSP takes in, if it has room.
    fn lag_of(&self, ins: &Instruction) -> Option<i32> {
        let plain = !matches!(ins.memory_segment(), Register::FS | Register::GS);
        let alone = ins.memory_base() == Register::RSP && ins.memory_index() == Register::None;
        let disp = ins.memory_displacement64() as i32;
        (plain && alone && disp.checked_add(self.lag).is_some()).then_some(self.lag)
    }

    /// What the displacement of an operand takes in.
    pub(super) fn lag_in(&self, ins: &Instruction) -> i32 {
        match ins.memory_base() {
            Register::RSP if self.lag != 0 => self.lag_of(ins).expect("settled before"),
            _ => 0,
        }
    }

    /// What sites keep of the lag.
    pub(super) fn lag_in_words(&self) -> i8 {
        (self.lag / WORD) as i8
    }
}
