//! Two engines' outcomes of one payload against each other.

use payloads::Payload;
use x86::lapic::reg;
use x86::segment::attr;
use x86::xsave::{AVX_END, XMM_OFFSET, YMM_HI_OFFSET};
use x86::{CpuState, Segment};

use crate::exceptions::{Exception, STATE_ONLY};
use crate::run::{Ended, Outcome};
use crate::verify::{first_difference, first_difference_before};

/// Sentences on what differs between the first and the second engine, up to where an exception
/// begins; none when they agree.
pub fn compare(
    payload: &Payload,
    first: &Outcome,
    second: &Outcome,
    exception: Option<&Exception>,
) -> Vec<String> {
    let mut differences = Vec::new();
    let state_too = exception.is_none();
    if let Some(exception) = exception.filter(|one| one.from != Some(STATE_ONLY)) {
        let traces = (&first.traces[0], &second.traces[0]);
        differences.extend(first_difference_before(exception, traces.0, traces.1));
        return differences;
    }
    if first.ended != second.ended {
        differences.push(format!("ended by {:x?} and {:x?}", first.ended, second.ended));
    }
    for (cpu, (one, other)) in first.traces.iter().zip(&second.traces).enumerate() {
        differences.extend(first_difference(cpu, one, other));
    }
    if first.memory != second.memory {
        differences.push(format!("memory {:x?} and {:x?}", first.memory, second.memory));
    }
    // Others are stopped wherever they happen to be, and so is vCPU 0 of a shutdown: a triple
    // fault leaves half of a delivery behind.
    if state_too && first.ended != Ended::Shutdown && payload.cpus > 0 {
        for (name, one, other) in words(&first.states[0], &second.states[0]) {
            if one != other {
                differences.push(format!("{name}: {one:#x} and {other:#x}"));
            }
        }
    }
    differences
}

type Words = Vec<(String, u128, u128)>;

/// Every compared part of two states, by name.
fn words(first: &CpuState, second: &CpuState) -> Words {
    let mut words = Words::new();
    let mut add = |name: &str, one: u64, other: u64| {
        words.push((name.to_owned(), one.into(), other.into()));
    };
    for number in 0..16 {
        add(&format!("gpr {number}"), first.gpr[number], second.gpr[number]);
    }
    add("rip", first.rip, second.rip);
    add("rflags", first.rflags, second.rflags);
    for (name, of) in CONTROL {
        add(name, of(first), of(second));
    }
    for (index, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        segment(&mut add, name, first.segments[index], second.segments[index]);
    }
    segment(&mut add, "tr", first.tr, second.tr);
    add("ldtr selector", first.ldtr.selector.into(), second.ldtr.selector.into());
    add("gdtr base", first.gdtr.base, second.gdtr.base);
    add("gdtr limit", first.gdtr.limit.into(), second.gdtr.limit.into());
    add("idtr base", first.idtr.base, second.idtr.base);
    add("idtr limit", first.idtr.limit.into(), second.idtr.limit.into());
    for index in [reg::TPR, reg::SVR, reg::LVT_TIMER, reg::LVT_LINT0, reg::LVT_ERROR] {
        let name = format!("lapic register {index:#x}");
        add(&name, first.lapic.registers[index].into(), second.lapic.registers[index].into());
    }
    for index in (reg::ISR..reg::ISR + 8).chain(reg::IRR..reg::IRR + 8) {
        let name = format!("lapic register {index:#x}");
        add(&name, first.lapic.registers[index].into(), second.lapic.registers[index].into());
    }
    let (one, other) = (&first.xsave, &second.xsave);
    add("fcw", one.fcw().into(), other.fcw().into());
    add("fsw", one.fsw().into(), other.fsw().into());
    add("ftw", one.0[4].into(), other.0[4].into());
    add("mxcsr", one.mxcsr().into(), other.mxcsr().into());
    for at in (32..XMM_OFFSET + 256).chain(YMM_HI_OFFSET..AVX_END).step_by(16) {
        let of = |area: &x86::XsaveArea| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&area.0[at..at + 16]);
            u128::from_le_bytes(bytes)
        };
        words.push((format!("xsave bytes at {at}"), of(one), of(other)));
    }
    words
}

fn segment(add: &mut impl FnMut(&str, u64, u64), name: &str, one: Segment, other: Segment) {
    add(&format!("{name} selector"), one.selector.into(), other.selector.into());
    if !one.is_present() && !other.is_present() {
        return;
    }
    let rights = |segment: Segment| u64::from(segment.attributes & !attr::ACCESSED);
    add(&format!("{name} base"), one.base, other.base);
    add(&format!("{name} limit"), one.limit.into(), other.limit.into());
    add(&format!("{name} attributes"), rights(one), rights(other));
}

type Part = (&'static str, fn(&CpuState) -> u64);

const CONTROL: &[Part] = &[
    ("cr0", |s| s.cr0),
    ("cr2", |s| s.cr2),
    ("cr3", |s| s.cr3),
    ("cr4", |s| s.cr4),
    ("xcr0", |s| s.xcr0),
    ("dr0", |s| s.dr[0]),
    ("dr1", |s| s.dr[1]),
    ("dr2", |s| s.dr[2]),
    ("dr3", |s| s.dr[3]),
    ("dr6", |s| s.dr6),
    ("dr7", |s| s.dr7),
    ("efer", |s| s.msrs.efer),
    ("star", |s| s.msrs.star),
    ("lstar", |s| s.msrs.lstar),
    ("cstar", |s| s.msrs.cstar),
    ("sfmask", |s| s.msrs.sfmask),
    ("kernel_gs_base", |s| s.msrs.kernel_gs_base),
    ("sysenter_cs", |s| s.msrs.sysenter_cs),
    ("sysenter_esp", |s| s.msrs.sysenter_esp),
    ("sysenter_eip", |s| s.msrs.sysenter_eip),
    ("pat", |s| s.msrs.pat),
    ("tsc_aux", |s| s.msrs.tsc_aux),
    ("pending exception", |s| s.pending_exception.is_some().into()),
    ("pending interrupt", |s| s.pending_interrupt.is_some().into()),
    ("nmi pending", |s| s.nmi_pending.into()),
    ("nmi blocked", |s| s.nmi_blocked.into()),
    ("sti shadow", |s| s.sti_shadow.into()),
    ("mov ss shadow", |s| s.mov_ss_shadow.into()),
    ("activity", |s| s.activity as u64),
    ("apic_base", |s| s.msrs.apic_base),
    ("spec_ctrl", |s| s.msrs.spec_ctrl),
    ("mtrr_def_type", |s| s.msrs.mtrr_def_type),
    ("mcg_status", |s| s.msrs.mcg_status),
];
