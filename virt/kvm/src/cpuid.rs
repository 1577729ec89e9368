//! What guests see of the processor: KVM_GET_SUPPORTED_CPUID, shaped (SDM vol. 2A, CPUID; Linux
//! Documentation/virt/kvm/x86/cpuid.rst).
//!
//! Three things are done to KVM's list: state that the neutral `CpuState` has no place for is
//! hidden (AMX, CET, supervisor XSAVE components, nested virtualization, PV page faults), so a
//! snapshot never lacks any; topology is written for this VM (one socket, one thread per core,
//! APIC id = index); the TSC's frequency is announced. Invariant: leaf 0xD, its sizes and the
//! feature bits agree, and the standard XSAVE area fits 4096 bytes.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use x86::cpuid::{CpuidEntry, CpuidResult};
use x86::xsave::AREA_SIZE;

use crate::error::{KvmError, refused};

const KVM_LEAF: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = KVM_LEAF + 1;
const KVM_TIMING: u32 = KVM_LEAF + 0x10;
/// KVM's APIC bus clock: one tick per nanosecond.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// x87, SSE, AVX, the three of AVX-512, PKRU.
const COMPONENTS: u32 = 0b10_1110_0111;

const fn bits(list: &[u32]) -> u32 {
    let (mut all, mut at) = (0, 0);
    while at < list.len() {
        all |= 1 << list[at];
        at += 1;
    }
    all
}

/// DTES64 MONITOR VMX SMX OSXSAVE (the last follows CR4, KVM sets it).
const HIDE_1_ECX: u32 = bits(&[2, 3, 5, 6, 27]);
/// x2APIC, hypervisor.
const SHOW_1_ECX: u32 = bits(&[21, 31]);
const TSC_DEADLINE: u32 = 1 << 24;
/// SGX HLE RTM MPX PT.
const HIDE_7_EBX: u32 = bits(&[2, 4, 11, 14, 25]);
/// WAITPKG CET_SS LA57 BUS_LOCK_DETECT SGX_LC PKS.
const HIDE_7_ECX: u32 = bits(&[5, 7, 16, 24, 30, 31]);
/// UINTR TSX_FORCE_ABORT TSXLDTRK ARCH_LBR CET_IBT AMX_BF16 AMX_TILE AMX_INT8.
const HIDE_7_EDX: u32 = bits(&[5, 13, 16, 19, 20, 22, 24, 25]);
/// FRED AMX_FP16 LAM.
const HIDE_7_1_EAX: u32 = bits(&[17, 21, 26]);
/// AMX_COMPLEX CET_SSS APX_F.
const HIDE_7_1_EDX: u32 = bits(&[8, 18, 21]);
/// XSAVES XFD: supervisor components are not in the neutral state.
const HIDE_D_1_EAX: u32 = bits(&[3, 4]);
/// ASYNC_PF ASYNC_PF_VMEXIT ASYNC_PF_INT: page faults under way cannot be saved.
const HIDE_KVM_FEATURES: u32 = bits(&[4, 10, 14]);
/// MSI_EXT_DEST_ID: `signal_msi` takes the extended destination bits.
const SHOW_KVM_FEATURES: u32 = bits(&[15]);
/// SVM.
const HIDE_EXTENDED_ECX: u32 = bits(&[2]);
/// Leaves dropped: topology (written anew), SGX, PT, LBR, AMX, SVM, SEV, timing (written anew).
const DROP: &[u32] =
    &[0xb, 0x12, 0x14, 0x1c, 0x1d, 0x1e, 0x1f, 0x8000_000a, 0x8000_001f, KVM_TIMING];

/// The table for a VM, before APIC ids are filled in.
pub(crate) fn table(kvm: &Kvm, cpus: u32, tsc_khz: u32) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok(shape(supported.as_slice().to_vec(), cpus, tsc_khz, deadline))
}

/// The table of one vCPU, as KVM takes it.
pub(crate) fn for_vcpu(table: &[kvm_cpuid_entry2], apic_id: u32) -> CpuId {
    let entries: Vec<_> = table
        .iter()
        .map(|&entry| match entry.function {
            1 => kvm_cpuid_entry2 { ebx: entry.ebx & 0x00ff_ffff | apic_id << 24, ..entry },
            0xb | 0x1f => kvm_cpuid_entry2 { edx: apic_id, ..entry },
            0x8000_001e => {
                let ebx = entry.ebx & !0xff | apic_id & 0xff;
                kvm_cpuid_entry2 { eax: apic_id, ebx, ..entry }
            }
            _ => entry,
        })
        .collect();
    CpuId::from_entries(&entries).expect("KVM gave at most as many entries as it takes")
}

/// The table in the house's own form.
pub(crate) fn neutral(table: &[kvm_cpuid_entry2]) -> Vec<CpuidEntry> {
    table
        .iter()
        .map(|entry| CpuidEntry {
            leaf: entry.function,
            subleaf: (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index),
            result: CpuidResult { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx },
        })
        .collect()
}

fn shape(
    mut table: Vec<kvm_cpuid_entry2>,
    cpus: u32,
    tsc_khz: u32,
    deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    table.retain(|entry| !DROP.contains(&entry.function));
    let components = components(&table);
    table.retain(|e| {
        e.function != 0xd || e.index < 2 || components & 1u32.unbounded_shl(e.index) != 0
    });
    let area = area_size(&table, components);
    for entry in &mut table {
        shape_features(entry, deadline);
        shape_topology(entry, cpus);
        if entry.function == 0xd {
            match entry.index {
                0 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (components, area, area, 0),
                1 => {
                    entry.eax &= !HIDE_D_1_EAX;
                    (entry.ecx, entry.edx) = (0, 0);
                }
                _ => {}
            }
        }
    }
    let highest = table.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    add_topology(&mut table, 0xb, cpus);
    if highest >= 0x1f {
        add_topology(&mut table, 0x1f, cpus);
    }
    table.push(leaf(KVM_TIMING, None, [tsc_khz, APIC_BUS_KHZ, 0, 0]));
    table
}

/// Hides what the neutral state cannot hold, and shows what the engine adds.
fn shape_features(entry: &mut kvm_cpuid_entry2, deadline: bool) {
    match (entry.function, entry.index) {
        (0, _) => entry.eax = entry.eax.max(0xd),
        (1, _) => {
            entry.ecx = entry.ecx & !HIDE_1_ECX | SHOW_1_ECX;
            entry.ecx |= if deadline { TSC_DEADLINE } else { 0 };
        }
        // The APIC timer runs in every power state.
        (6, _) => entry.eax |= 1 << 2,
        (7, 0) => {
            entry.ebx &= !HIDE_7_EBX;
            entry.ecx &= !HIDE_7_ECX;
            entry.edx &= !HIDE_7_EDX;
        }
        (7, 1) => {
            entry.eax &= !HIDE_7_1_EAX;
            entry.edx &= !HIDE_7_1_EDX;
        }
        (KVM_LEAF, _) => entry.eax = KVM_TIMING,
        (KVM_FEATURES, _) => entry.eax = entry.eax & !HIDE_KVM_FEATURES | SHOW_KVM_FEATURES,
        (0x8000_0001, _) => entry.ecx &= !HIDE_EXTENDED_ECX,
        _ => {}
    }
}

/// One socket of `cpus` single-threaded cores that share the last-level cache.
fn shape_topology(entry: &mut kvm_cpuid_entry2, cpus: u32) {
    let others = cpus - 1;
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0x0000_ff00 | cpus << 16;
            let threads = 1 << 28;
            entry.edx = if others > 0 { entry.edx | threads } else { entry.edx & !threads };
        }
        // Deterministic cache parameters: sharing in 25:14, cores (Intel only) in 31:26.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { others } else { 0 };
            let cores = if entry.function == 4 { others.min(63) << 26 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | cores;
        }
        // Core count less one, and the width of the core number: AMD's; Intel reserves ECX.
        0x8000_0008 if entry.ecx != 0 => entry.ecx = others | id_bits(cpus) << 12,
        0x8000_001e => (entry.ebx, entry.ecx) = (0, 0),
        _ => {}
    }
}

fn add_topology(table: &mut Vec<kvm_cpuid_entry2>, function: u32, cpus: u32) {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    table.push(leaf(function, Some(0), [0, 1, THREAD, 0]));
    table.push(leaf(function, Some(1), [id_bits(cpus), cpus, CORE | 1, 0]));
    table.push(leaf(function, Some(2), [0, 0, 2, 0]));
}

/// Bits that hold the APIC ids 0..cpus.
fn id_bits(cpus: u32) -> u32 {
    u32::BITS - (cpus - 1).leading_zeros()
}

fn leaf(function: u32, subleaf: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index: subleaf.unwrap_or(0),
        flags: if subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// XSAVE components shown: known ones that lie inside the neutral area. Leaf 7 has the features
/// that come with each hidden one hidden too; AVX-512 needs its three together.
fn components(table: &[kvm_cpuid_entry2]) -> u32 {
    const AVX512: u32 = 0b1110_0000;
    let fits = |index: u32| {
        table.iter().any(|entry| {
            entry.function == 0xd
                && entry.index == index
                && entry.eax != 0
                && entry.ebx + entry.eax <= AREA_SIZE as u32
        })
    };
    let supported = table
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)
        .map_or(0, |entry| entry.eax);
    let mut shown = supported & COMPONENTS;
    for index in 2..32 {
        if shown >> index & 1 != 0 && !fits(index) {
            shown &= !(1 << index);
        }
    }
    if shown & AVX512 == AVX512 { shown } else { shown & !AVX512 }
}

/// Size of the standard-format area for these components.
fn area_size(table: &[kvm_cpuid_entry2], components: u32) -> u32 {
    table
        .iter()
        .filter(|e| {
            e.function == 0xd && e.index >= 2 && components & 1u32.unbounded_shl(e.index) != 0
        })
        .map(|entry| entry.ebx + entry.eax)
        .fold(576, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::cpuid::lookup;

    /// A processor with AVX-512, PKRU, AMX, CET and VMX.
    fn sample() -> Vec<kvm_cpuid_entry2> {
        let d = |index, size, offset, flags| leaf(0xd, Some(index), [size, offset, flags, 0]);
        vec![
            leaf(0, None, [0x20, 1, 2, 3]),
            leaf(1, None, [0x806f8, 0x7710_0800, 0xffff_ffff, 0xffff_ffff]),
            leaf(4, Some(0), [0xfc00_4121, 0, 0, 0]),
            leaf(4, Some(3), [0xfc07_c163, 0, 0, 0]),
            leaf(7, Some(0), [2, u32::MAX, u32::MAX, u32::MAX]),
            leaf(7, Some(1), [u32::MAX, 0, 0, u32::MAX]),
            leaf(0xb, Some(0), [1, 2, 0x100, 7]),
            leaf(0xd, Some(0), [0x6_02ff, 11008, 11008, 0]),
            leaf(0xd, Some(1), [0x1f, 0, 0x1900, 0]),
            d(2, 256, 576, 0),
            d(3, 64, 960, 0),
            d(4, 64, 1024, 0),
            d(5, 64, 1088, 0),
            d(6, 512, 1152, 0),
            d(7, 1024, 1664, 0),
            d(9, 8, 2688, 0),
            d(11, 16, 0, 1),
            d(17, 64, 2752, 2),
            d(18, 8192, 2816, 6),
            leaf(0x1d, Some(0), [1, 0, 0, 0]),
            leaf(KVM_LEAF, None, [KVM_FEATURES, 0, 0, 0]),
            leaf(KVM_FEATURES, None, [0x0100_7efb, 0, 0, 0]),
            leaf(0x8000_0008, None, [0x302e, 0, 0, 0]),
        ]
    }

    #[test]
    fn the_area_fits_and_agrees_with_its_components() {
        let table = neutral(&shape(sample(), 4, 2_600_000, true));
        let area = lookup(&table, 0xd, 0);
        assert_eq!((area.eax, area.edx), (0b10_1110_0111, 0));
        assert_eq!((area.ebx, area.ecx), (2696, 2696));
        for hidden in [3, 4, 11, 17, 18] {
            assert_eq!(lookup(&table, 0xd, hidden), CpuidResult::default());
        }
        assert_eq!(lookup(&table, 0xd, 1).eax, 0b111);
        assert_eq!(lookup(&table, 0xd, 1).ecx, 0);
        assert_eq!(lookup(&table, 7, 0).edx & HIDE_7_EDX, 0);
        assert_eq!(lookup(&table, 0x1d, 0), CpuidResult::default());
    }

    #[test]
    fn a_component_beyond_the_area_is_hidden() {
        let mut table = sample();
        for entry in table.iter_mut().filter(|e| e.function == 0xd && e.index == 9) {
            entry.ebx = 4090;
        }
        let table = neutral(&shape(table, 1, 1, true));
        assert_eq!(lookup(&table, 0xd, 0).eax, 0b1110_0111);
        assert_eq!(lookup(&table, 0xd, 0).ecx, 2688);
    }

    #[test]
    fn topology_is_one_socket_of_single_threads() {
        let shaped = shape(sample(), 3, 2_600_000, true);
        let table = neutral(for_vcpu(&shaped, 2).as_slice());
        let one = lookup(&table, 1, 0);
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff, one.ebx >> 8 & 0xff), (2, 3, 8));
        assert_eq!(one.ecx & HIDE_1_ECX, 0);
        for topology in [0xb, 0x1f] {
            assert_eq!(lookup(&table, topology, 0).edx, 2);
            let core = lookup(&table, topology, 1);
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
        }
        assert_eq!(lookup(&table, 4, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(lookup(&table, 4, 3).eax >> 14 & 0xfff, 2);
        assert_eq!(lookup(&table, 4, 3).eax >> 26, 2);
        assert_eq!(lookup(&table, 0x8000_0008, 0).ecx, 0);
    }

    #[test]
    fn timing_and_paravirtual_leaves() {
        let table = neutral(&shape(sample(), 1, 2_600_000, false));
        assert_eq!(lookup(&table, KVM_LEAF, 0).eax, KVM_TIMING);
        assert_eq!(lookup(&table, KVM_TIMING, 0).eax, 2_600_000);
        let features = lookup(&table, KVM_FEATURES, 0).eax;
        assert_eq!(features & HIDE_KVM_FEATURES, 0);
        assert_ne!(features & SHOW_KVM_FEATURES, 0);
        assert_eq!(lookup(&table, 1, 0).edx >> 28 & 1, 0);
    }
}
