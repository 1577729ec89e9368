//! Why an entry does not pass on the software CPU, in words for the table.
//!
//! Invariant: a reason is a decision or a missing feature of ours, never an excuse for a defect.

/// The reason, by the beginning of the entry's name.
pub(super) fn of(entry: &str) -> Option<&'static str> {
    REASONS.iter().find(|(name, _)| entry.starts_with(name)).map(|(_, reason)| *reason)
}

/// Longer names before their beginnings.
const REASONS: &[(&str, &str)] = &[
    ("intel_iommu", "no virtual IOMMU in this machine; its DMA and remapping tests need one"),
    ("vmx", "VMX is not announced: no nested virtualization"),
    ("ept", "VMX is not announced: no nested virtualization"),
    ("svm", "SVM is not announced: no nested virtualization"),
    ("pmu", "no performance-monitoring unit is announced"),
    ("hyperv", "the paravirtual interface offered is KVM's, not Hyper-V's"),
    ("asyncpf", "asynchronous page faults are not announced: guest RAM is never paged by us"),
    ("cet", "control-flow enforcement is not announced"),
    ("tsx-ctrl", "transactional memory is not announced"),
    ("vmware_backdoors", "no VMware ports and counters: a Linux guest asks for KVM's interface"),
    ("access_fep", "needs KVM's prefix that forces emulation"),
    ("s3", "no suspend to RAM: the machine offers S5 only"),
    ("cmpxchg8b", "a 32-bit flat; the suite was built for 64 bits"),
    ("taskswitch", "a 32-bit flat; the suite was built for 64 bits"),
];
