//! What two engines may differ in, and why. Everything else must agree.

/// Parts of `CpuState` that are never compared, each with its reason.
pub const STATE: &[(&str, &str)] = &[
    ("msrs.tsc_offset, tsc_adjust", "how guest time relates to the host's, not what the guest did"),
    ("msrs.misc_enable", "a host's own value shines through KVM; nothing in the guest set it"),
    ("msrs.mtrr_fixed, mtrr_variable", "KVM keeps the ranges, others may not cache by them"),
    ("msrs.kvm_*", "the paravirtual interface of the host, where it has one"),
    ("lapic: timer counts and deadlines", "time"),
    ("lapic: version, id, ICR, ESR", "each local APIC says its own, latched at its own moments"),
    ("xsave: last x87 instruction and operand", "AMD saves them only when an exception is pending"),
    (
        "xsave: header, MXCSR_MASK",
        "which components are in their initial state is the host's matter",
    ),
    ("every state of vCPUs other than 0", "they are stopped by a kick, wherever they are"),
    ("ldtr and hidden parts of null segments", "not architectural while they are null"),
    ("accessed bit of hidden attributes", "hardware may show it set without a descriptor load"),
];

/// Where an exception holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// KVM on any processor.
    Kvm,
    /// KVM on a processor with SVM and nested paging.
    KvmOnAmd,
    /// KVM on "hardware" that QEMU TCG emulates: instructions that KVM leaves to the processor
    /// are then QEMU's. Seen with QEMU 7.2.
    KvmOnTcg,
}

/// What runs an engine's guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The engine is KVM.
    pub kvm: bool,
    /// The processor has SVM.
    pub amd: bool,
    /// The processor is QEMU TCG's.
    pub tcg: bool,
}

impl Host {
    /// From the engine's name and what CPUID says on this machine: the vendor string's first
    /// word, and the hypervisor's.
    pub fn new(engine: &str, vendor_ebx: u32, hypervisor_ebx: u32) -> Self {
        Self {
            kvm: engine == "kvm",
            amd: vendor_ebx == u32::from_le_bytes(*b"Auth"),
            tcg: hypervisor_ebx == u32::from_le_bytes(*b"TCGT"),
        }
    }

    fn is(self, on: On) -> bool {
        self.kvm
            && match on {
                On::Kvm => true,
                On::KvmOnAmd => self.amd,
                On::KvmOnTcg => self.tcg,
            }
    }
}

/// One payload whose outcome may differ somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// The payload.
    pub payload: &'static str,
    /// Where.
    pub on: On,
    /// The first access of vCPU 0 that may differ: all before it must agree, nothing is judged
    /// from there on; [`STATE_ONLY`]: what is left at the end. `None`: not run, because it would
    /// not end.
    pub from: Option<usize>,
    /// Why.
    pub reason: &'static str,
}

impl Exception {
    /// How much is judged, in words.
    pub fn extent(&self) -> String {
        match self.from {
            None => "not at all".into(),
            Some(STATE_ONLY) => "but for its final state".into(),
            Some(from) => format!("up to access {from}"),
        }
    }
}

const fn at(payload: &'static str, on: On, from: usize, reason: &'static str) -> Exception {
    Exception { payload, on, from: Some(from), reason }
}

/// Every access agrees; the final state does not.
pub const STATE_ONLY: usize = usize::MAX;

/// One that would not end, or end the host.
const fn not_run(payload: &'static str, on: On, reason: &'static str) -> Exception {
    Exception { payload, on, from: None, reason }
}

const NO_P: &str = "TCG's #PF for reserved bits lacks P in its error code";
const DB: &str = "TCG matches and reports breakpoints in its own way";
const IDT: &str = "TCG's error code for an absent gate in long mode counts 16 bytes a vector";
const XCR0: &str = "TCG lets a guest of SVM execute XSETBV, so KVM never learns of XCR0";
const RF: &str = "TCG leaves RF set after the instruction at which a handler returned with it";
const NO_LIMITS: &str = "TCG checks no segment limits";

/// Payloads that are not wholly judged, in the catalogue's order.
pub const PAYLOADS: &[Exception] = &[
    at("paging::four_level", On::KvmOnTcg, 13, "TCG's #SS for non-canonical addresses is #GP"),
    at("paging::large_pages", On::KvmOnTcg, 4, NO_P),
    at("paging::gigabyte_pages", On::KvmOnTcg, 4, NO_P),
    at("paging::no_execute", On::KvmOnTcg, 4, NO_P),
    at(
        "paging::pae",
        On::KvmOnAmd,
        11,
        "under nested paging PDPTEs are read at each walk, not checked by MOV CR3 (APM 15.25.10)",
    ),
    at("paging::page_crossing", On::KvmOnTcg, 14, "TCG's read-modify-write faults as a read"),
    not_run(
        "paging::page_table_base",
        On::KvmOnTcg,
        "TCG's MOV CR3 takes reserved bits, and its VMRUN then refuses the guest",
    ),
    at("paging::control_registers", On::KvmOnTcg, 19, "TCG drops the upper half of CR0"),
    at("modes::real_mode", On::KvmOnTcg, 4, NO_LIMITS),
    at("faults::arithmetic", On::KvmOnTcg, STATE_ONLY, RF),
    at("faults::segment_loads", On::KvmOnTcg, STATE_ONLY, RF),
    at("faults::segment_limits", On::KvmOnTcg, 0, NO_LIMITS),
    at("faults::floating_point", On::KvmOnTcg, 13, "TCG raises #MF by FWAIT alone"),
    at("faults::alignment", On::KvmOnTcg, 8, "TCG has no #AC"),
    at("faults::software_interrupts", On::KvmOnTcg, 0, IDT),
    at("faults::priorities", On::KvmOnTcg, 0, "TCG ignores LOCK where it is not allowed"),
    at("faults::iret_checks", On::KvmOnTcg, 10, "TCG's IRET to a non-canonical RIP faults there"),
    at("faults::double_fault", On::KvmOnTcg, 0, IDT),
    at("faults::interrupt_stacks", On::KvmOnTcg, 5, "TCG loads a null SS with every IST stack"),
    at(
        "io::string_ports",
        On::Kvm,
        31,
        "KVM's emulator reads INS's port before it looks at the destination",
    ),
    at("interrupts::priorities", On::KvmOnTcg, 12, "TCG ignores reserved bits of CR8"),
    at("interrupts::x2apic", On::Kvm, 13, "KVM takes any value as EOI in x2APIC mode"),
    at(
        "registers::msr_refusals",
        On::KvmOnTcg,
        22,
        "TCG takes non-canonical addresses into the MSRs that KVM leaves to the processor",
    ),
    not_run("registers::bases", On::KvmOnTcg, "TCG's WRFSBASE takes non-canonical addresses"),
    at("registers::cpuid_xsave", On::KvmOnTcg, STATE_ONLY, XCR0),
    at("code::next_instruction", On::KvmOnTcg, 0, "TCG finishes a block that changes itself"),
    at("debugging::data_breakpoints", On::KvmOnTcg, 14, DB),
    at("debugging::port_breakpoints", On::KvmOnTcg, 1, DB),
    not_run("debugging::general_detect", On::KvmOnTcg, "TCG has no DR7.GD and loops in #DB"),
    at("tasks::interrupt", On::KvmOnTcg, 0, "TCG's exception through a task gate becomes #DF"),
    at(
        "strings::faults_in_the_middle",
        On::KvmOnTcg,
        STATE_ONLY,
        "TCG's CMPS and SCAS change the flags before they fault (SDM vol. 1, 7.3.9.3)",
    ),
    at("vectors::x87", On::KvmOnTcg, 16, "TCG raises no x87 stack faults"),
    at("vectors::mmx", On::KvmOnTcg, 3, "TCG's MMX leaves the exponents of the x87 registers"),
    at("vectors::fxsave", On::KvmOnTcg, 10, "TCG takes reserved bits of MXCSR"),
    not_run("vectors::xsave", On::KvmOnTcg, XCR0),
    not_run("vectors::avx", On::KvmOnTcg, XCR0),
    not_run("vectors::avx2", On::KvmOnTcg, XCR0),
    not_run(
        "system_calls::sysenter",
        On::KvmOnTcg,
        "QEMU aborts over the busy bit of TR at an interrupt from 32-bit CPL 3",
    ),
];

/// The exception for a payload on a host, if there is one.
pub fn of(payload: &str, host: Host) -> Option<&'static Exception> {
    PAYLOADS.iter().find(|one| one.payload == payload && host.is(one.on))
}
