//! Lockstep: every block is first interpreted, then undone, then run translated, and both must
//! agree on registers, flags, vector state and memory.
//!
//! While checking, blocks are never linked, so that each one comes back after it ran.
//! Invariant: guest memory that recording changed is as before when translated code starts.

use engine::Exit;
use memory::RamOffset;
use x86::Flags;

use super::SoftVcpu;
use crate::translate::SiteKind;
use crate::translate::facts::{DECODING, is_shift};

/// Bytes saved around a store: no instruction writes more.
pub(crate) const CHUNK: usize = 64;

/// What was in memory before a store.
#[derive(Clone, Debug)]
struct Chunk {
    at: RamOffset,
    bytes: [u8; CHUNK],
    length: usize,
}

/// Stores made while recording.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    chunks: Vec<Chunk>,
    /// Something that cannot be undone came up: the instruction was not executed.
    pub(crate) refused: bool,
}

impl Recording {
    /// Notes what a store is about to change.
    pub(crate) fn note(&mut self, memory: &memory::GuestMemory, at: RamOffset) {
        let length = CHUNK.min((memory.size() - at.0) as usize);
        let mut chunk = Chunk { at, bytes: [0; CHUNK], length };
        memory.read_bytes(at, &mut chunk.bytes[..length]);
        self.chunks.push(chunk);
    }
}

/// Registers at an instruction boundary.
#[derive(Clone, PartialEq, Eq)]
struct Snapshot {
    regs: [u64; 16],
    rip: u64,
    flags: u64,
    /// RFLAGS apart from the status flags.
    rflags: u64,
    /// FS's base, and what SWAPGS swaps.
    bases: [u64; 3],
    xsave: Vec<u8>,
}

/// Bytes of the XSAVE image that blocks can change.
const IMAGE: usize = x86::xsave::AVX_END;

impl SoftVcpu {
    fn snapshot(&self) -> Snapshot {
        let mut xsave = self.cpu.state.xsave.0[..IMAGE].to_vec();
        // XSTATE_BV is bookkeeping: the bytes are the truth.
        xsave[512..576].fill(0);
        // MXCSR_MASK is the processor's. FOP, FIP and FDP stay as they are in translated code, as
        // they do on processors that record them for exceptions only.
        xsave[28..32].fill(0);
        xsave[6..24].fill(0);
        Snapshot {
            regs: self.cpu.regs[..16].try_into().expect("sixteen registers"),
            rip: self.cpu.rip(),
            flags: self.cpu.flags.bits(),
            rflags: self.cpu.state.rflags & !Flags::STATUS.bits(),
            bases: [
                self.cpu.state.segments[4].base,
                self.cpu.state.segments[5].base,
                self.cpu.state.msrs.kernel_gs_base,
            ],
            xsave,
        }
    }

    fn restore(&mut self, snapshot: &Snapshot, xsave: &x86::XsaveArea) {
        self.cpu.regs[..16].copy_from_slice(&snapshot.regs);
        self.cpu.set_rip(snapshot.rip);
        self.cpu.flags = interp::flags::LazyFlags::from_bits(snapshot.flags);
        self.cpu.state.rflags = snapshot.rflags;
        let [fs_base, gs_base, kernel_gs_base] = snapshot.bases;
        self.cpu.state.segments[4].base = fs_base;
        self.cpu.state.segments[5].base = gs_base;
        self.cpu.state.msrs.kernel_gs_base = kernel_gs_base;
        // STI's: blocks contain it only where nothing waits for its end.
        self.cpu.state.sti_shadow = false;
        self.cpu.state.xsave = xsave.clone();
        // POPF changes what accesses depend on.
        self.cpu.refresh();
    }

    /// Interprets up to `limit` instructions from here, noting stores; returns the state after
    /// each one, the first being that before.
    fn record(&mut self, limit: usize, path: Option<&[u64]>) -> (Vec<Snapshot>, Recording) {
        let mut states = vec![self.snapshot()];
        self.cpu.bus.recording = Some(Recording::default());
        let seeing = self.cpu.bus.tlb.go_blind();
        while states.len() <= limit {
            let Ok(op) = self.one_op() else { break };
            let next = self.cpu.rip().wrapping_add(u64::from(op.len));
            self.cpu.set_rip(next);
            let outcome = (op.run)(&mut self.cpu, &op);
            let refused = self.cpu.bus.recording.as_ref().is_some_and(|r| r.refused);
            if outcome.is_err() || refused {
                self.cpu.stop = interp::Stop::None;
                break;
            }
            states.push(self.snapshot());
            let goes_on = match path {
                Some(path) => path[(states.len() - 1) % path.len()] == self.cpu.rip(),
                None => self.cpu.rip() == next,
            };
            if !goes_on {
                // A branch leaves the block: what it leads to may be impossible to undo.
                break;
            }
        }
        self.cpu.bus.tlb.see_again(seeing);
        let recording = self.cpu.bus.recording.take().expect("set above");
        (states, recording)
    }

    /// Contents now of what a recording changed.
    fn contents(&self, recording: &Recording) -> Vec<[u8; CHUNK]> {
        let read = |chunk: &Chunk| {
            let mut bytes = [0; CHUNK];
            self.cpu.bus.memory.read_bytes(chunk.at, &mut bytes[..chunk.length]);
            bytes
        };
        recording.chunks.iter().map(read).collect()
    }

    fn undo(&self, recording: &Recording) {
        for chunk in recording.chunks.iter().rev() {
            self.cpu.bus.memory.write_bytes(chunk.at, &chunk.bytes[..chunk.length]);
        }
    }

    /// Runs one translated block in lockstep with the interpreter.
    /// A superblock that is a loop goes round once and is left in its second round; `path` has its
    /// instructions' addresses.
    pub(super) fn run_checked(
        &mut self,
        code: u64,
        instructions: usize,
        path: Option<&[u64]>,
    ) -> Option<Exit> {
        let image = self.cpu.state.xsave.clone();
        let start = self.snapshot();
        let rounds = if path.is_some() { 2 } else { 1 };
        let (states, recording) = self.record(instructions * rounds, path);
        let after = self.contents(&recording);
        self.undo(&recording);
        self.restore(&start, &image);
        let before = self.cpu.bus.retired;
        let budget = if path.is_some() { 0 } else { 1 << 40 };
        let site = self.enter_native(code, budget);
        let (number, site) = self.take_state(site);
        let ran = (self.cpu.bus.retired - before) as usize;
        let native = self.snapshot();
        let native_memory = self.contents(&recording);
        let (expected, memory) = if ran + 1 == states.len() && !recording.refused {
            (states.last().cloned(), after)
        } else {
            // It stopped on the way: interpret just as far.
            let native_image = self.cpu.state.xsave.clone();
            self.undo(&recording);
            self.restore(&start, &image);
            let (states, again) = self.record(ran, path);
            let memory = self.contents(&recording);
            let enough = states.len() == ran + 1;
            let _ = again;
            self.restore(&native, &native_image);
            (enough.then(|| states.last().cloned()).flatten(), memory)
        };
        match expected {
            None => panic!("{}", self.report(&start, None, &native, ran, path, "ran too far")),
            Some(expected) => {
                let undefined = self.undefined_flags(&start, ran, path);
                let same_flags = (expected.flags ^ native.flags) & !undefined == 0;
                let mut masked = Snapshot { flags: native.flags, ..expected.clone() };
                if matches!(site.kind, SiteKind::Trap | SiteKind::Window { .. }) {
                    // The host has raised MXCSR's flags already; the guest's fault will, too.
                    masked.xsave[24] |= native.xsave[24] & 0x3f;
                    // And has marked MMX registers valid, where the instruction has one, with TOP at
                    // 0: the image has ST(0) first.
                    let top = |snapshot: &Snapshot| usize::from(snapshot.xsave[3] >> 3 & 7);
                    let turned = (top(&native) + 8 - top(&expected)) % 8;
                    masked.xsave[32..160].rotate_left(16 * turned);
                    masked.xsave[2..5].copy_from_slice(&native.xsave[2..5]);
                }
                if masked != native || !same_flags {
                    panic!(
                        "{}",
                        self.report(&start, Some(&expected), &native, ran, path, "registers")
                    );
                }
                if memory != native_memory {
                    panic!(
                        "{}",
                        self.report(&start, Some(&expected), &native, ran, path, "memory")
                    );
                }
                // What is undefined follows the interpreter.
                self.cpu.flags = interp::flags::LazyFlags::from_bits(expected.flags);
            }
        }
        let rip = self.cpu.rip();
        match site.kind {
            SiteKind::Link(_)
            | SiteKind::Target { .. }
            | SiteKind::Elsewhere { .. }
            | SiteKind::Poll => None,
            _ => self.serve(number, &site, rip),
        }
    }

    /// Flags that the instructions run so far leave undefined.
    fn undefined_flags(&mut self, start: &Snapshot, ran: usize, path: Option<&[u64]>) -> u64 {
        let mut undefined = 0;
        for ins in self.disassemble(start, ran, path) {
            let bits = iced_flags(ins.rflags_undefined());
            let made = match is_shift(ins.mnemonic()) {
                // By a count of 0 they make none.
                true => 0,
                false => iced_flags(ins.rflags_modified() & !ins.rflags_undefined()),
            };
            undefined = undefined & !made | bits;
        }
        undefined
    }

    /// The instructions of the block that starts at a snapshot, or along a path.
    fn disassemble(
        &mut self,
        start: &Snapshot,
        count: usize,
        path: Option<&[u64]>,
    ) -> Vec<iced_x86::Instruction> {
        let mut linear = start.rip;
        let mut found = Vec::with_capacity(count);
        for index in 0..count {
            if let Some(path) = path {
                linear = path[index % path.len()];
            }
            let mut bytes = [0; 15];
            let mut got = 0;
            for byte in &mut bytes {
                let Some(offset) = self.fetched(linear.wrapping_add(got as u64)) else { break };
                *byte = self.cpu.bus.memory.load::<u8>(offset);
                got += 1;
            }
            let bits = self.code_size() as u32;
            let ins = iced_x86::Decoder::with_ip(bits, &bytes[..got], linear, DECODING).decode();
            found.push(ins);
            linear = ins.next_ip();
        }
        found
    }

    fn report(
        &mut self,
        start: &Snapshot,
        expected: Option<&Snapshot>,
        native: &Snapshot,
        ran: usize,
        path: Option<&[u64]>,
        what: &str,
    ) -> String {
        use std::fmt::Write;
        let mut text = format!("translator and interpreter differ in {what} after {ran}:\n");
        for ins in self.disassemble(start, ran + 1, path) {
            let _ = writeln!(text, "  {:#x} {:?} {:?}", ins.ip(), ins.code(), ins);
        }
        for index in 0..16 {
            let wanted = expected.map(|state| state.regs[index]);
            let (was, got) = (start.regs[index], native.regs[index]);
            let mark = if wanted.is_some_and(|wanted| wanted != got) { " <--" } else { "" };
            let wanted = wanted.unwrap_or_default();
            let _ =
                writeln!(text, "  r{index:<2} {was:016x} -> {wanted:016x}, got {got:016x}{mark}");
        }
        if let Some(expected) = expected {
            let _ = writeln!(text, "  rip {:x}, got {:x}", expected.rip, native.rip);
            let _ = writeln!(text, "  flags {:x}, got {:x}", expected.flags, native.flags);
            for (at, (a, b)) in expected.xsave.iter().zip(&native.xsave).enumerate() {
                if a != b {
                    let _ = writeln!(text, "  xsave[{at}] {a:02x}, got {b:02x}");
                }
            }
        }
        text
    }
}

/// iced's flag bits as RFLAGS bits.
fn iced_flags(bits: u32) -> u64 {
    use iced_x86::RflagsBits as R;
    let pairs = [
        (R::OF, Flags::OF),
        (R::SF, Flags::SF),
        (R::ZF, Flags::ZF),
        (R::AF, Flags::AF),
        (R::CF, Flags::CF),
        (R::PF, Flags::PF),
    ];
    pairs.iter().filter(|(iced, _)| bits & iced != 0).map(|(_, flag)| flag.bits()).sum()
}
