//! What must agree, and how a difference is told.

use std::fmt::Write;

use iced_x86::{Formatter, Instruction, IntelFormatter, Mnemonic, RflagsBits};

use crate::case::{Case, DONE, Machine, Outcome, WINDOW, WINDOW_SIZE};
use crate::generate::still_undefined;
use crate::select::host_is_amd;

/// The status flags by iced's bits and RFLAGS' own.
const FLAGS: [(u32, u64, &str); 7] = [
    (RflagsBits::CF, 1 << 0, "CF"),
    (RflagsBits::PF, 1 << 2, "PF"),
    (RflagsBits::AF, 1 << 4, "AF"),
    (RflagsBits::ZF, 1 << 6, "ZF"),
    (RflagsBits::SF, 1 << 7, "SF"),
    (RflagsBits::OF, 1 << 11, "OF"),
    (RflagsBits::DF, 1 << 10, "DF"),
];
const SIMD_FAULT: u64 = 19;
/// OE, UE and PE of MXCSR.
const OUT_OF_RANGE: u8 = 3 << 3;
const PRECISION: u8 = 1 << 5;
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// All differences, with what is needed to understand them; `None` if the outcomes agree.
pub(crate) fn differences(case: &Case, host: &Outcome, ours: &Outcome) -> Option<String> {
    let mut text = String::new();
    exceptions(&mut text, case, host, ours);
    general(&mut text, case, &host.after, &ours.after);
    flags(&mut text, case, host, ours);
    let mut host_after = host.after.clone();
    if host.vector == SIMD_FAULT && is_staged(current(case, host.after.rip)) {
        host_after.image[24] = ours.after.image[24];
    }
    if host.vector == SIMD_FAULT && host.after.image[24] & OUT_OF_RANGE != 0 {
        // Whether an overflow or underflow that is not masked was inexact too is not modelled.
        host_after.image[24] = host_after.image[24] & !PRECISION | ours.after.image[24] & PRECISION;
    }
    let instruction = current(case, host.after.rip);
    if host.vector != DONE && instruction.code().op_code().is_save_restore() {
        // A restore that faults on MXCSR's reserved bits may have loaded the rest.
        host_after.image = ours.after.image;
    }
    if is_mmx_fault(case, host) {
        // Where a faulting MMX store left TOP tells how far the processor had come.
        host_after.image[..160].copy_from_slice(&ours.after.image[..160]);
    }
    image(&mut text, case, &host_after, &ours.after);
    window(&mut text, case, &host.after, &ours.after);
    if text.is_empty() {
        return None;
    }
    Some(format!("{}{text}", describe(case)))
}

/// The instruction at (or last before) an address.
fn current(case: &Case, rip: u64) -> &Instruction {
    let at = case.starts.iter().rposition(|&start| start <= rip).unwrap_or(0);
    &case.instructions[at]
}

fn is_mmx_fault(case: &Case, host: &Outcome) -> bool {
    let instruction = current(case, host.after.rip);
    matches!(host.vector, 12..=14)
        && (0..instruction.op_count()).any(|index| instruction.op_register(index).is_mm())
}

/// DPPS and DPPD multiply, then add: which flags the first stage leaves behind an exception of the
/// second is not modelled.
fn is_staged(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
    )
}

/// Instructions whose accesses have no architectural order: which of several missing pages is
/// reported is the processor's choice.
fn has_ordered_accesses(instruction: &Instruction) -> bool {
    let mnemonic = format!("{:?}", instruction.mnemonic());
    let free = [
        "Cmps",
        "Fnsave",
        "Frstor",
        "Fnstenv",
        "Fldenv",
        "Fx",
        "X",
        "Enter",
        "Vmaskmov",
        "Vpmaskmov",
    ];
    !free.iter().any(|start| mnemonic.starts_with(start))
}

fn exceptions(text: &mut String, case: &Case, host: &Outcome, ours: &Outcome) {
    // Error codes of page faults tell of page tables, which only the host has.
    let code = |o: &Outcome| if o.vector == 14 { 0 } else { o.error_code };
    let instruction = current(case, host.after.rip);
    let ordered = has_ordered_accesses(instruction);
    let address = |o: &Outcome| if ordered { o.address } else { 0 };
    let told = |o: &Outcome| (o.vector, code(o), address(o));
    // CALL to a bad address through a bad stack may report either on Intel's processors, XRSTOR a
    // bad header or an absent page, CMPS its first bad operand or its second.
    let faults = |o: &Outcome| matches!(o.vector, 12..=14);
    let free = matches!(
        instruction.mnemonic(),
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
    ) || instruction.mnemonic() == Mnemonic::Call && !host_is_amd()
        || instruction.code().op_code().is_save_restore();
    if free && faults(host) && faults(ours) && host.after.rip == ours.after.rip {
        return;
    }
    if told(host) != told(ours) {
        let _ = writeln!(text, "  exception: host {:x?} ours {:x?}", told(host), told(ours));
    }
    if host.after.rip != ours.after.rip {
        let _ = writeln!(text, "  rip: host {:#x} ours {:#x}", host.after.rip, ours.after.rip);
    }
}

fn general(text: &mut String, case: &Case, host: &Machine, ours: &Machine) {
    let (count, mask) = if case.bitness == 64 { (16, u64::MAX) } else { (8, 0xffff_ffff) };
    for (index, name) in NAMES.iter().enumerate().take(count) {
        let (theirs, mine) = (host.gpr[index] & mask, ours.gpr[index] & mask);
        if theirs != mine {
            let was = case.before.gpr[index];
            let _ = writeln!(text, "  {name}: host {theirs:#x} ours {mine:#x} was {was:#x}");
        }
    }
}

/// Flags that some instruction left undefined and none after it defined are not compared.
fn flags(text: &mut String, case: &Case, host: &Outcome, ours: &Outcome) {
    let undefined = case.instructions.iter().zip(&case.starts).fold(0, |undefined, (i, &start)| {
        let done = host.vector == DONE || start < host.after.rip;
        if done { still_undefined(undefined, i) } else { undefined }
    });
    let mnemonic = format!("{:?}", current(case, host.after.rip).mnemonic());
    if host.vector != DONE && (mnemonic.starts_with("Cmps") || mnemonic.starts_with("Scas")) {
        // Between the elements of a repeated comparison, flags are not architectural.
        return;
    }
    for (iced, bit, name) in FLAGS {
        if undefined & iced == 0 && (host.after.rflags ^ ours.after.rflags) & bit != 0 {
            let theirs = u8::from(host.after.rflags & bit != 0);
            let was = u8::from(case.before.rflags & bit != 0);
            let _ = writeln!(text, "  {name}: host {theirs} ours {} was {was}", 1 - theirs);
        }
    }
}

fn image(text: &mut String, case: &Case, host: &Machine, ours: &Machine) {
    let mut part = |name: String, from: usize, length: usize| {
        let hex = |bytes: &[u8]| bytes.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
        let range = from..from + length;
        let (theirs, mine) = (&host.image[range.clone()], &ours.image[range.clone()]);
        if theirs != mine {
            let was = hex(&case.before.image[range]);
            let (theirs, mine) = (hex(theirs), hex(mine));
            let _ = writeln!(text, "  {name}: host {theirs} ours {mine} was {was}");
        }
    };
    part("fcw".into(), 0, 2);
    part("fsw".into(), 2, 2);
    part("ftw".into(), 4, 1);
    part("mxcsr".into(), 24, 4);
    for index in 0..8 {
        part(format!("st{index}"), 32 + index * 16, 10);
    }
    for index in 0..16 {
        part(format!("xmm{index}"), 160 + index * 16, 16);
        part(format!("ymm{index} high"), 576 + index * 16, 16);
    }
}

fn window(text: &mut String, case: &Case, host: &Machine, ours: &Machine) {
    let call = case.instructions[0].mnemonic() == Mnemonic::Call;
    let stack = case.before.gpr[4].wrapping_sub(WINDOW) as usize;
    // A CALL to a bad address may have stored what it would have pushed.
    let pushed = if call { stack - 8..stack } else { 0..0 };
    // FSTP and FBSTP of 80 bits at the end of a page may have stored the first 64.
    let wide = current(case, host.rip).memory_size().size() == 10;
    let torn = |at: usize| wide && at >= WINDOW_SIZE - 10;
    let excused = |at: usize| {
        torn(at)
            || host.rip == case.before.rip && pushed.contains(&at)
            || case.ignored.iter().any(|range| range.contains(&at))
    };
    let differs = |&at: &usize| host.window[at] != ours.window[at] && !excused(at);
    for at in (0..host.window.len()).filter(differs).take(4) {
        let (theirs, mine, was) = (host.window[at], ours.window[at], case.before.window[at]);
        let address = WINDOW + at as u64;
        let _ = writeln!(text, "  [{address:#x}]: host {theirs:#x} ours {mine:#x} was {was:#x}");
    }
}

fn describe(case: &Case) -> String {
    let mut text = format!("  seed {}, bytes {:02x?}\n", case.seed, case.code);
    for instruction in &case.instructions {
        let mut line = String::new();
        IntelFormatter::new().format(instruction, &mut line);
        let _ = writeln!(text, "    {line}");
    }
    let before = &case.before;
    let word = |at: usize| u16::from_le_bytes([before.image[at], before.image[at + 1]]);
    let _ = writeln!(
        text,
        "    flags {:#x} fcw {:#x} fsw {:#x} ftw {:#x} mxcsr {:#x}",
        before.rflags,
        word(0),
        word(2),
        before.image[4],
        word(24)
    );
    for (name, value) in NAMES.iter().zip(before.gpr) {
        let _ = write!(text, " {name}={value:x}");
    }
    text.push('\n');
    text
}
