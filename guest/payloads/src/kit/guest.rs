//! The builder: an assembler, the memory image, and the expectations, which grow together as the
//! code is written in the order it runs.

use std::ops::{Deref, DerefMut};

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use super::handlers;
use super::image::{Image, page};
use crate::layout;
use crate::payload::{Access, Action, Direction, End, Fact, Feature, Payload, Segment, Start};
use crate::ports;

/// Emitting can fail only by our own mistake, found when the catalogue is first built.
pub(crate) type Assembled = Result<(), IcedError>;

/// Places in the variables page.
pub(super) mod variable {
    use crate::layout::VARIABLES;

    pub(crate) const FAULT: u64 = VARIABLES;
    pub(crate) const RESUME: u64 = VARIABLES + 8;
    pub(crate) const KERNEL_STACK: u64 = VARIABLES + 0x10;
    pub(crate) const KERNEL_RETURN: u64 = VARIABLES + 0x18;
    /// One `u32` per vector.
    pub(crate) const COUNTS: u64 = VARIABLES + 0x400;
}

/// Bytes with the addresses of labels in them.
pub(super) struct Code {
    pub(super) bytes: Vec<u8>,
    result: CodeAssemblerResult,
}

impl Code {
    pub(super) fn address(&self, label: &CodeLabel) -> u64 {
        self.result.label_ip(label).expect("the label was set in this code")
    }
}

pub(super) fn assemble(asm: &mut CodeAssembler, address: u64) -> Result<Code, IcedError> {
    let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let result = asm.assemble_options(address, options)?;
    Ok(Code { bytes: result.inner.code_buffer.clone(), result })
}

/// A payload in the making. Dereferences to the assembler of the part being written.
pub(crate) struct Guest {
    asm: CodeAssembler,
    bits: u32,
    pub(crate) image: Image,
    segments: Vec<Segment>,
    traces: Vec<Vec<Access>>,
    /// The vCPU that runs the part being written.
    cpu: usize,
    pub(super) cpus: u32,
    actions: Vec<Action>,
    needs: Vec<Feature>,
    facts: Vec<Fact>,
    end: End,
}

impl Deref for Guest {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.asm
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }
}

impl Guest {
    /// Or-ed to the vector that an interrupt handler reports.
    pub(crate) const INTERRUPT: u32 = 0x0100_0000;

    /// A payload that starts in long mode.
    pub(crate) fn long(
        description: &'static str,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Payload {
        Self::build(description, 64, Start::Long { rip: layout::CODE }, body)
    }

    /// A payload that starts in 32-bit protected mode.
    pub(crate) fn protected(
        description: &'static str,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Payload {
        Self::build(description, 32, Start::Protected { eip: layout::CODE as u32 }, body)
    }

    /// A payload that starts in real mode.
    pub(crate) fn real(
        description: &'static str,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Payload {
        let segment = (layout::CODE >> 4) as u16;
        Self::build(description, 16, Start::Real { segment, offset: 0 }, body)
    }

    fn build(
        description: &'static str,
        bits: u32,
        start: Start,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Payload {
        let mut guest = Self {
            asm: CodeAssembler::new(bits).expect("16, 32 or 64"),
            bits,
            image: Image::new(bits),
            segments: Vec::new(),
            traces: vec![Vec::new()],
            cpu: 0,
            cpus: 1,
            actions: Vec::new(),
            needs: Vec::new(),
            facts: Vec::new(),
            end: End::Exit(0),
        };
        let written = handlers::install(&mut guest).and_then(|()| body(&mut guest));
        let written = written.and_then(|()| guest.close());
        if let Err(error) = written {
            panic!("{description}: {error}");
        }
        guest.into_payload(description, start)
    }

    fn close(&mut self) -> Assembled {
        self.finish()?;
        let ip = if self.bits == 16 { 0 } else { layout::CODE };
        let code = assemble(&mut self.asm, ip)?;
        self.segments.push(Segment { address: layout::CODE, bytes: code.bytes });
        Ok(())
    }

    fn into_payload(self, description: &'static str, start: Start) -> Payload {
        let mut segments = vec![Segment { address: 0, bytes: self.image.into_bytes() }];
        segments.extend(self.segments);
        Payload {
            name: "",
            description,
            segments,
            start,
            memory_bytes: layout::MEMORY_BYTES,
            cpus: self.cpus,
            needs: self.needs,
            actions: self.actions,
            traces: self.traces,
            facts: self.facts,
            end: self.end,
        }
    }

    /// 16, 32 or 64, as the payload starts.
    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    /// Writes EXIT and stops for good.
    pub(crate) fn finish(&mut self) -> Assembled {
        if let End::Exit(status) = self.end
            && self.cpu == 0
        {
            self.asm.mov(al, i32::from(status))?;
            self.asm.out(i32::from(ports::EXIT), al)?;
            self.expect_access(Direction::PortOut, ports::EXIT.into(), 1, status.into());
        }
        let mut stop = self.asm.create_label();
        self.asm.set_label(&mut stop)?;
        self.asm.cli()?;
        self.asm.hlt()?;
        self.asm.jmp(stop)
    }

    /// The payload ends in another way than by EXIT.
    pub(crate) fn ends(&mut self, end: End) {
        self.end = end;
    }

    /// Without this CPUID bit the payload cannot run.
    pub(crate) fn needs(&mut self, feature: Feature) {
        self.needs.push(feature);
    }

    /// Something that must hold at the end.
    pub(crate) fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// The next access that this vCPU must make.
    pub(crate) fn expect_access(
        &mut self,
        direction: Direction,
        address: u64,
        width: u8,
        value: u64,
    ) {
        self.traces[self.cpu].push(Access { direction, address, width, value });
    }

    /// The next value that must be reported.
    pub(crate) fn expect(&mut self, value: u32) {
        self.expect_access(Direction::PortOut, ports::REPORT.into(), 4, value.into());
    }

    /// Reports EAX, which must be this.
    pub(crate) fn report(&mut self, value: u32) -> Assembled {
        self.asm.out(i32::from(ports::REPORT), eax)?;
        self.expect(value);
        Ok(())
    }

    /// Reports a 64-bit register in two halves; RAX is lost.
    pub(crate) fn report64(&mut self, register: AsmRegister64, value: u64) -> Assembled {
        self.asm.mov(rax, register)?;
        self.report(value as u32)?;
        self.asm.shr(rax, 32)?;
        self.report((value >> 32) as u32)
    }

    /// Reports flags under a mask; RAX is lost.
    pub(crate) fn report_flags(&mut self, mask: u32, value: u32) -> Assembled {
        match self.asm.bitness() {
            64 => {
                self.asm.pushfq()?;
                self.asm.pop(rax)?;
            }
            _ => {
                self.asm.pushfd()?;
                self.asm.pop(eax)?;
            }
        }
        self.asm.and(eax, mask as i32)?;
        self.report(value)
    }

    /// Reports the value of a condition, which must be true; EAX is lost.
    pub(crate) fn report_if(
        &mut self,
        set: impl FnOnce(&mut CodeAssembler) -> Assembled,
    ) -> Assembled {
        self.asm.mov(eax, 0)?;
        set(&mut self.asm)?;
        self.report(1)
    }

    /// Writes code that runs at another time, whose reports are expected elsewhere.
    pub(crate) fn without_expectations(
        &mut self,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        let length = self.traces[self.cpu].len();
        body(self)?;
        self.traces[self.cpu].truncate(length);
        Ok(())
    }

    /// What a vCPU must do up to here, it must do once more.
    pub(crate) fn repeat_trace(&mut self, cpu: usize) {
        let again = self.traces[cpu].clone();
        self.traces[cpu].extend(again);
    }

    /// Asks the host for an action; AL is lost.
    pub(crate) fn action(&mut self, action: Action) -> Assembled {
        let index = self.actions.len() as u8;
        self.actions.push(action);
        self.asm.mov(al, i32::from(index))?;
        self.asm.out(i32::from(ports::ACTION), al)?;
        self.expect_access(Direction::PortOut, ports::ACTION.into(), 1, index.into());
        Ok(())
    }

    /// Lays bytes into memory.
    pub(crate) fn place(&mut self, address: u64, bytes: &[u8]) {
        if address + bytes.len() as u64 <= layout::CODE {
            self.image.put(address, bytes);
        } else {
            self.segments.push(Segment { address, bytes: bytes.to_vec() });
        }
    }

    /// Lays a `u64` into memory.
    pub(crate) fn place_u64(&mut self, address: u64, value: u64) {
        self.place(address, &value.to_le_bytes());
    }

    /// The address of the entry that maps an address below 2 MiB.
    pub(crate) fn entry_of(address: u64) -> u64 {
        layout::PAGE_TABLE + (address >> 12) * 8
    }

    /// Sets bits in the initial entry of the page at an address below 2 MiB.
    pub(crate) fn map_with(&mut self, address: u64, bits: u64) {
        let at = Self::entry_of(address);
        let value = self.image.u64_at(at) | bits;
        self.image.put_u64(at, value);
    }

    /// Makes the page at an address below 2 MiB absent.
    pub(crate) fn unmap(&mut self, address: u64) {
        let at = Self::entry_of(address);
        let value = self.image.u64_at(at) & !page::P;
        self.image.put_u64(at, value);
    }

    /// Writes other code, for another place, width or vCPU; expectations go on in order.
    pub(crate) fn part(
        &mut self,
        bits: u32,
        address: u64,
        ip: u64,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        let outer = std::mem::replace(&mut self.asm, CodeAssembler::new(bits)?);
        body(self)?;
        let code = assemble(&mut self.asm, ip)?;
        self.asm = outer;
        self.place(address, &code.bytes);
        Ok(())
    }

    /// Writes code for vCPU 1, which ends by HLT.
    pub(super) fn other_cpu(&mut self, body: impl FnOnce(&mut Self) -> Assembled) -> Assembled {
        self.cpus = 2;
        self.traces.resize(2, Vec::new());
        let cpu = std::mem::replace(&mut self.cpu, 1);
        self.part(64, layout::CODE_2, layout::CODE_2, |g| {
            body(g)?;
            g.finish()
        })?;
        self.cpu = cpu;
        Ok(())
    }

    /// An instruction that faults: its handler reports this, and execution goes on behind it.
    pub(crate) fn fault(
        &mut self,
        vector: u8,
        error: u32,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        self.exception(vector, error, 0, None, body)
    }

    /// An instruction that faults with #PF at an address.
    pub(crate) fn page_fault(
        &mut self,
        error: u32,
        address: u64,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        self.exception(super::vector::PF, error, 0, Some(address as u32), body)
    }

    /// An instruction that traps: the saved address is `length` bytes further.
    pub(crate) fn trap(
        &mut self,
        vector: u8,
        length: u32,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        self.exception(vector, 0, length, None, body)
    }

    /// Expects what the handler reports of an exception.
    pub(crate) fn expect_exception(
        &mut self,
        vector: u8,
        error: u32,
        delta: u32,
        address: Option<u32>,
    ) {
        self.expect(u32::from(vector) << 16 | error);
        if vector != super::vector::DF {
            self.expect(delta);
        }
        if let Some(address) = address {
            self.expect(address);
        }
    }

    fn exception(
        &mut self,
        vector: u8,
        error: u32,
        delta: u32,
        address: Option<u32>,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        self.expect_exception(vector, error, delta, address);
        let mut here = self.asm.create_label();
        let mut after = self.asm.create_label();
        self.arm(here, after)?;
        self.asm.set_label(&mut here)?;
        body(self)?;
        self.asm.set_label(&mut after)?;
        self.asm.nop()
    }

    /// Tells the handlers where a fault is expected and where to go on.
    pub(crate) fn arm(&mut self, fault: CodeLabel, resume: CodeLabel) -> Assembled {
        let asm = &mut self.asm;
        match asm.bitness() {
            64 => {
                asm.lea(r14, ptr(fault))?;
                asm.lea(r15, ptr(resume))
            }
            // Without RIP-relative LEA: RESUME is a jump, found by a call, and FAULT is what
            // follows the bytes of POP and ADD.
            32 => {
                jump_address(asm, resume)?;
                asm.pop(dword_ptr(variable::RESUME))?;
                asm.db(&[0xe8, 0, 0, 0, 0])?;
                asm.pop(dword_ptr(variable::FAULT))?;
                asm.add(dword_ptr(variable::FAULT), 13)
            }
            _ => {
                jump_address(asm, resume)?;
                asm.pop(word_ptr(variable::RESUME))?;
                asm.db(&[0xe8, 0, 0])?;
                asm.pop(word_ptr(variable::FAULT))?;
                asm.add(word_ptr(variable::FAULT), 9)
            }
        }
    }

    /// Points a vector at the payload's own handler in this code (below 64 KiB of its 64 KiB
    /// bank); EAX is lost.
    pub(crate) fn set_gate(&mut self, vector: u8, handler: CodeLabel) -> Assembled {
        let asm = &mut self.asm;
        match asm.bitness() {
            64 => {
                let gate = layout::IDT + u64::from(vector) * 16;
                asm.lea(rax, ptr(handler))?;
                asm.mov(word_ptr(gate), ax)?;
                asm.shr(eax, 16)?;
                asm.mov(word_ptr(gate + 6), ax)
            }
            32 => {
                let gate = layout::IDT + u64::from(vector) * 8;
                jump_address(asm, handler)?;
                asm.pop(eax)?;
                asm.mov(word_ptr(gate), ax)?;
                asm.shr(eax, 16)?;
                asm.mov(word_ptr(gate + 6), ax)
            }
            _ => {
                let gate = u64::from(vector) * 4;
                jump_address(asm, handler)?;
                asm.pop(word_ptr(gate))?;
                asm.mov(word_ptr(gate + 2), i32::from((layout::CODE >> 4) as u16))
            }
        }
    }
}

/// Pushes the address of a jump to a label, in code that has no RIP-relative LEA.
pub(crate) fn jump_address(asm: &mut CodeAssembler, label: CodeLabel) -> Assembled {
    let mut over = asm.create_label();
    asm.call(over)?;
    asm.jmp(label)?;
    asm.set_label(&mut over)?;
    asm.nop()
}
