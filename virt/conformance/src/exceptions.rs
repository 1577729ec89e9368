//! What two engines may differ in, and why. Everything else must agree.

/// Parts of `CpuState` that are never compared, each with its reason.
pub const STATE: &[(&str, &str)] = &[
    ("msrs.tsc_offset", "says how guest time relates to the host's, not what the guest did"),
    ("msrs.apic_base", "the bootstrap bit aside, an engine may show the base before x2APIC"),
    ("msrs.misc_enable", "a host's own value shines through KVM; nothing in the guest set it"),
    ("msrs.mtrr", "KVM keeps the ranges as written, others may mask what they do not cache by"),
    ("msrs.kvm_*", "the paravirtual interface of the host, where it has one"),
    ("lapic.timer", "time"),
    ("lapic.version", "each local APIC says its own"),
    ("xsave: last x87 instruction and operand", "AMD saves them only when an exception is pending"),
    (
        "xsave: header, MXCSR_MASK",
        "which components are in their initial state is the host's matter",
    ),
    ("rip, activity of vCPUs other than 0", "they are stopped by a kick, wherever they are"),
    ("hidden parts of null segments", "not architectural"),
    ("accessed bit of hidden attributes", "hardware may show it set without a descriptor load"),
];

/// One engine's trace or state that may differ from the others' for one payload.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// The payload.
    pub payload: &'static str,
    /// The engine whose outcome is not judged, by `Capabilities::name`.
    pub engine: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Payloads that are not judged on an engine.
pub const PAYLOADS: &[Exception] = &[];

/// The exception for a payload on an engine, if there is one.
pub fn of(payload: &str, engine: &str) -> Option<&'static Exception> {
    PAYLOADS.iter().find(|one| one.payload == payload && one.engine == engine)
}
