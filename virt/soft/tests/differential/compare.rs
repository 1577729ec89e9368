//! What must agree, and how a difference is told.

use std::fmt::Write;

use iced_x86::{Formatter, IntelFormatter, RflagsBits};

use crate::case::{Case, DONE, Machine, Outcome, WINDOW};

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
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
    "r13", "r14", "r15",
];

/// All differences, with what is needed to understand them; `None` if the outcomes agree.
pub(crate) fn differences(case: &Case, host: &Outcome, ours: &Outcome) -> Option<String> {
    let mut text = String::new();
    exceptions(&mut text, host, ours);
    general(&mut text, case, &host.after, &ours.after);
    flags(&mut text, case, host, ours);
    image(&mut text, case, &host.after, &ours.after);
    window(&mut text, case, &host.after, &ours.after);
    if text.is_empty() {
        return None;
    }
    Some(format!("{}{text}", describe(case)))
}

fn exceptions(text: &mut String, host: &Outcome, ours: &Outcome) {
    // Error codes of page faults tell of page tables, which only the host has.
    let code = |o: &Outcome| if o.vector == 14 { 0 } else { o.error_code };
    let told = |o: &Outcome| (o.vector, code(o), o.address);
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
    let finished = if host.vector == DONE { case.instructions.len() } else { usize::MAX };
    let undefined = case.instructions.iter().take(finished).fold(0, |undefined, instruction| {
        undefined & !instruction.rflags_written() | instruction.rflags_undefined()
    });
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
    let differs = |&at: &usize| {
        host.window[at] != ours.window[at] && !case.ignored.iter().any(|range| range.contains(&at))
    };
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
