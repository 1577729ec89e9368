//! What the software CPU announces: exactly what it implements (SDM vol. 2A, CPUID).
//!
//! Vendor and signature are the host's unless another vendor is asked for, so that vendor-specific behaviour agrees with a KVM guest
//! on the same host. Vector features are masked by what the host can execute.

use x86::cpuid::{CpuidEntry, CpuidResult, Vendor};
use x86::paging::PHYSICAL_BITS;
use x86::xsave::AVX_END;

use crate::sys::host;

/// The leaf that KVM calls KVM_CPUID_SIGNATURE.
const KVM_LEAF: u32 = 0x4000_0000;
/// "KVMKVMKVM\0\0\0".
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// CLOCKSOURCE NOP_IO_DELAY CLOCKSOURCE2 PV_EOI PV_UNHALT PV_SEND_IPI PV_SCHED_YIELD
/// MSI_EXT_DEST_ID CLOCKSOURCE_STABLE.
const KVM_FEATURES: &[u32] = &[0, 1, 3, 6, 7, 11, 13, 15, 24];

/// XSAVE component of PKRU, and its bytes.
const PKRU: u32 = 9;
const PKRU_BYTES: u32 = 8;

fn bits(list: &[u32]) -> u32 {
    list.iter().fold(0, |all, bit| all | 1 << bit)
}

/// FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const LEAF1_EDX: &[u32] =
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26];
/// CX16 PCID X2APIC MOVBE POPCNT TSC-DEADLINE XSAVE RDRAND HYPERVISOR: what needs no host unit.
const LEAF1_ECX: &[u32] = &[13, 17, 21, 22, 23, 24, 26, 30, 31];
/// SSE3 PCLMUL SSSE3 FMA SSE4.1 SSE4.2 AES AVX F16C: what the host's unit executes.
const LEAF1_ECX_HOST: &[u32] = &[0, 1, 9, 12, 19, 20, 25, 28, 29];
/// FSGSBASE TSC_ADJUST BMI1 SMEP BMI2 ERMS INVPCID FCS-FDS-ZERO RDSEED ADX SMAP CLFLUSHOPT CLWB.
const LEAF7_EBX: &[u32] = &[0, 1, 3, 7, 8, 9, 10, 13, 18, 19, 20, 23, 24];
/// AVX2 SHA.
const LEAF7_EBX_HOST: &[u32] = &[5, 29];
/// UMIP PKU RDPID PKS.
const LEAF7_ECX: &[u32] = &[2, 3, 22, 31];
/// FSRM, SPEC_CTRL (IBRS, IBPB), ARCH_CAPABILITIES.
const LEAF7_EDX: &[u32] = &[4, 26, 29];
/// LAHF in 64-bit mode, LZCNT, PREFETCHW.
const EXTENDED_ECX: &[u32] = &[0, 5, 8];
/// AMD: IBPB IBRS SSB_NO BTC_NO. As with ARCH_CAPABILITIES (see `bus::msr`): what is not there need
/// not be worked around.
const AMD_SPECULATION: &[u32] = &[12, 14, 26, 29];
/// AMD: LFENCE_ALWAYS_SERIALIZING AUTOMATIC_IBRS SRSO_NO, without which Linux makes detours around
/// every indirect branch and return.
const AMD_LEAF21_EAX: &[u32] = &[2, 8, 29];
/// AMD: TSA_SQ_NO TSA_L1_NO, without which Linux executes VERW at every return to user mode.
const AMD_LEAF21_ECX: &[u32] = &[1, 2];
/// SYSCALL NX PDPE1GB RDTSCP LM.
const EXTENDED_EDX: &[u32] = &[11, 20, 26, 27, 29];

/// The table for a VM.
pub(crate) fn table(cpus: u32, tsc_khz: u32, wanted: Option<Vendor>) -> Vec<CpuidEntry> {
    let mut table = Vec::new();
    let mut add = |leaf, subleaf, eax, ebx, ecx, edx| {
        table.push(CpuidEntry { leaf, subleaf, result: CpuidResult { eax, ebx, ecx, edx } });
    };
    let host0 = host::cpuid(0, 0);
    let host_vendor = [host0.ebx, host0.ecx, host0.edx];
    let vendor = wanted.map_or(host_vendor, Vendor::words);
    let amd = vendor == Vendor::Amd.words();
    let mut host1 = host::cpuid(1, 0);
    if vendor != host_vendor {
        // The other vendor's signature must name a processor of its own: Zen 2, or Skylake.
        host1.eax = if amd { 0x0083_0f10 } else { 0x0005_0654 };
    }
    let host7 = host::cpuid(7, 0);
    let avx = host1.ecx >> 28 & 1 != 0;
    let components = 1 << PKRU | if avx { 7 } else { 3 };
    let logical = cpus.min(255);

    add(0, None, 0x16, vendor[0], vendor[1], vendor[2]);
    let threads = if cpus > 1 { 1 << 28 } else { 0 };
    let ecx1 = bits(LEAF1_ECX) | host1.ecx & bits(LEAF1_ECX_HOST);
    add(1, None, host1.eax, logical << 16 | 8 << 8, ecx1, bits(LEAF1_EDX) | threads);
    for subleaf in 0..4 {
        let (cache, shared) = (host::cpuid(4, subleaf), (logical - 1) << 26);
        if amd || cache.eax & 0x1f == 0 {
            break;
        }
        let eax = cache.eax & 0x3ff | shared;
        add(4, Some(subleaf), eax, cache.ebx, cache.ecx, cache.edx);
    }
    // The APIC timer runs in every power state.
    add(6, None, 1 << 2, 0, 0, 0);
    let ebx7 = bits(LEAF7_EBX) | host7.ebx & bits(LEAF7_EBX_HOST);
    let edx7 = if amd { bits(&[4]) } else { bits(LEAF7_EDX) };
    add(7, Some(0), 0, ebx7, bits(LEAF7_ECX), edx7);
    for leaf in [0xb, 0x1f] {
        add(leaf, Some(0), 0, 1, 1 << 8, 0);
        add(leaf, Some(1), u32::BITS - (logical - 1).leading_zeros(), logical, 2 << 8 | 1, 0);
        add(leaf, Some(2), 0, 0, 2, 0);
    }
    // PKRU follows AVX, or where it would be.
    let area = AVX_END as u32 + PKRU_BYTES;
    add(0xd, Some(0), components, area, area, 0);
    // XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
    add(0xd, Some(1), 0b111, 0, 0, 0);
    if avx {
        add(0xd, Some(2), 256, 576, 0, 0);
    }
    add(0xd, Some(PKRU), PKRU_BYTES, AVX_END as u32, 0, 0);
    add(0x16, None, tsc_khz / 1000, tsc_khz / 1000, 100, 0);

    add(KVM_LEAF, None, KVM_LEAF + 0x10, KVM_SIGNATURE[0], KVM_SIGNATURE[1], KVM_SIGNATURE[2]);
    add(KVM_LEAF + 1, None, bits(KVM_FEATURES), 0, 0, 0);
    // TSC and APIC bus frequency in kHz.
    add(KVM_LEAF + 0x10, None, tsc_khz, 1_000_000, 0, 0);

    let last = if amd { 0x8000_0021 } else { 0x8000_0008 };
    add(0x8000_0000, None, last, vendor[0], vendor[1], vendor[2]);
    add(0x8000_0001, None, 0, 0, bits(EXTENDED_ECX), bits(EXTENDED_EDX));
    for leaf in 0x8000_0002..=0x8000_0004u32 {
        let words = brand(leaf - 0x8000_0002);
        add(leaf, None, words[0], words[1], words[2], words[3]);
    }
    // Invariant TSC.
    add(0x8000_0007, None, 0, 0, 0, 1 << 8);
    let threads = logical - 1;
    let speculation = if amd { bits(AMD_SPECULATION) } else { 0 };
    add(0x8000_0008, None, 48 << 8 | PHYSICAL_BITS, speculation, threads, 0);
    if amd {
        add(0x8000_0021, None, bits(AMD_LEAF21_EAX), 0, bits(AMD_LEAF21_ECX), 0);
    }
    table
}

/// 16 bytes of the brand string.
fn brand(part: u32) -> [u32; 4] {
    let mut text = [0u8; 48];
    let name = b"Oneroof software CPU";
    text[..name.len()].copy_from_slice(name);
    let at = part as usize * 16;
    std::array::from_fn(|word| {
        let start = at + word * 4;
        u32::from_le_bytes(std::array::from_fn(|byte| text[start + byte]))
    })
}

/// Puts a vCPU's APIC id where leaves carry it.
pub(crate) fn patch_apic_id(leaf: u32, id: u32, result: &mut CpuidResult) {
    match leaf {
        1 => result.ebx |= id << 24,
        0xb | 0x1f => result.edx = id,
        _ => {}
    }
}
