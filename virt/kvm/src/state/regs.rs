//! General, segment, control and debug registers (api.rst, KVM_GET_REGS, _SREGS, _DEBUGREGS).

use engine::EngineError;
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use x86::lapic::reg;
use x86::segment::attr;
use x86::{CpuState, Segment, TableRegister};

use crate::error::failed;

pub(super) fn save(fd: &VcpuFd, state: &mut CpuState) -> Result<(), EngineError> {
    let r = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
    state.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    (state.rip, state.rflags) = (r.rip, r.rflags);

    let s = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    state.segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs].map(|segment| to_segment(&segment));
    (state.ldtr, state.tr) = (to_segment(&s.ldt), to_segment(&s.tr));
    (state.gdtr, state.idtr) = (to_table(&s.gdt), to_table(&s.idt));
    (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    state.msrs.efer = s.efer;
    state.msrs.apic_base = s.apic_base;

    let d = fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
    (state.dr, state.dr6, state.dr7) = (d.db, d.dr6, d.dr7);
    Ok(())
}

pub(super) fn load_general(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    let regs = kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    };
    fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    let debug =
        kvm_debugregs { db: state.dr, dr6: state.dr6, dr7: state.dr7, ..Default::default() };
    fd.set_debug_regs(&debug).map_err(failed("KVM_SET_DEBUGREGS"))
}

pub(super) fn load_special(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let [es, cs, ss, ds, fs, gs] = state.segments.map(from_segment);
    let sregs = kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: from_segment(state.tr),
        ldt: from_segment(state.ldtr),
        gdt: from_table(state.gdtr),
        idt: from_table(state.idtr),
        cr0: state.cr0,
        cr2: cr2(state),
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: u64::from(state.lapic.registers[reg::TPR] >> 4 & 0xf),
        efer: state.msrs.efer,
        apic_base: state.msrs.apic_base,
        interrupt_bitmap: [0; 4],
    };
    fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))
}

/// KVM delivers an injected page fault with CR2 as it stands; the neutral state carries the
/// address with the exception until it is delivered.
fn cr2(state: &CpuState) -> u64 {
    match state.pending_exception {
        Some(fault) if fault.vector == x86::Vector::PageFault => fault.address,
        _ => state.cr2,
    }
}

fn to_segment(s: &kvm_segment) -> Segment {
    let bit = |value: u8, mask: u16| if value != 0 { mask } else { 0 };
    let present = s.present != 0 && s.unusable == 0;
    let attributes = u16::from(s.type_ & 0xf)
        | bit(s.s, attr::S)
        | u16::from(s.dpl & 3) << 5
        | bit(present.into(), attr::PRESENT)
        | bit(s.avl, attr::AVL)
        | bit(s.l, attr::LONG)
        | bit(s.db, attr::DB)
        | bit(s.g, attr::GRANULAR);
    Segment { base: s.base, limit: s.limit, selector: s.selector, attributes }
}

fn from_segment(s: Segment) -> kvm_segment {
    let bit = |mask: u16| u8::from(s.attributes & mask != 0);
    // VM entry checks that limit and granularity fit each other.
    let g = match s.limit {
        limit if limit > 0xf_ffff => 1,
        limit if limit & 0xfff != 0xfff => 0,
        _ => bit(attr::GRANULAR),
    };
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind(),
        present: bit(attr::PRESENT),
        dpl: s.dpl(),
        db: bit(attr::DB),
        s: bit(attr::S),
        l: bit(attr::LONG),
        g,
        avl: bit(attr::AVL),
        unusable: u8::from(!s.is_present()),
        padding: 0,
    }
}

fn to_table(t: &kvm_dtable) -> TableRegister {
    TableRegister { base: t.base, limit: t.limit }
}

fn from_table(t: TableRegister) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_keep_every_attribute() {
        for attributes in [0xa09b, 0xc093, 0x0082, 0x40fb, 0x1093, 0x008b] {
            let limit = if attributes & attr::GRANULAR != 0 { 0xffff_ffff } else { 0xffff };
            let segment = Segment { base: 0x1234, limit, selector: 8, attributes };
            assert_eq!(to_segment(&from_segment(segment)), segment);
        }
    }

    #[test]
    fn a_null_segment_is_unusable_and_back() {
        let null = Segment { base: 0, limit: 0, selector: 3, attributes: 3 << 5 };
        let kvm = from_segment(null);
        assert_eq!((kvm.unusable, kvm.present, kvm.dpl), (1, 0, 3));
        assert_eq!(to_segment(&kvm_segment { present: 1, ..kvm }), null);
    }

    #[test]
    fn granularity_follows_the_limit() {
        let flat = Segment { limit: 0xffff_ffff, attributes: 0x93, ..Segment::default() };
        assert_eq!(from_segment(flat).g, 1);
        let odd = Segment { limit: 0x12345, attributes: 0x8093, ..Segment::default() };
        assert_eq!(from_segment(odd).g, 0);
    }
}
