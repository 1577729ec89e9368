//! MSRs that are not plain processor state: local APIC, KVM paravirtual interface, machine checks.
//!
//! What is not here raises #GP(0), as on hardware; Linux probes such MSRs with that in mind.

use ::memory::GuestPhys;
use x86::CpuState;
use x86::cpuid::{Vendor, lookup};
use x86::msr;
use x86::paging::PHYSICAL_BITS;

use super::SoftBus;

/// IA32_ARCH_CAPABILITIES: not vulnerable to what this processor, having no speculation of its own
/// design visible to guests, can't leak; IBRS_ALL lets Linux do without retpolines.
/// Bits: RDCL_NO, IBRS_ALL, SKIP_L1DFL, MDS_NO, IF_PSCHANGE_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO,
/// PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO (SDM vol. 4, table 2-2).
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27;

/// Eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;

impl SoftBus {
    fn is_amd(&self) -> bool {
        lookup(&self.shared.cpuid, 0, 0).ebx == Vendor::Amd.words()[0]
    }

    pub(super) fn msr_read(&mut self, state: &CpuState, index: u32) -> Option<u64> {
        let now = self.now();
        match index {
            msr::APIC_BASE => Some(self.own.lapic().apic_base()),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST => self.own.lapic().read_msr(index, now).ok(),
            msr::TSC_DEADLINE => Some(self.own.lapic().tsc_deadline(now)),
            msr::MTRR_CAP => Some(MTRR_CAP),
            msr::MCG_CAP | msr::PLATFORM_INFO | msr::MISC_FEATURES_ENABLES => Some(0),
            msr::MCG_STATUS => Some(state.msrs.mcg_status),
            msr::ARCH_CAPABILITIES => Some(ARCH_CAPABILITIES),
            msr::BIOS_SIGN_ID => Some(0x1_0000_0000),
            // Locked, VMX off.
            msr::FEATURE_CONTROL => Some(1),
            msr::AMD_HWCR | msr::AMD_DE_CFG | msr::DEBUG_CTL => Some(0),
            // AMD's four first counters need no announcement: they never count here.
            msr::AMD_PERF_FIRST..=msr::AMD_PERF_LAST if self.is_amd() => Some(0),
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_OLD => Some(state.msrs.kvm_wall_clock),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_OLD => Some(state.msrs.kvm_system_time),
            msr::KVM_PV_EOI_EN => Some(state.msrs.kvm_pv_eoi),
            _ => None,
        }
    }

    pub(super) fn msr_write(&mut self, state: &mut CpuState, index: u32, value: u64) -> Option<()> {
        let now = self.now();
        match index {
            msr::APIC_BASE => {
                // A page moved over RAM would have to shadow it, which the TLB can't.
                let page = value & !0xfff & ((1 << PHYSICAL_BITS) - 1);
                if self.memory.locate(GuestPhys(page)).is_some() {
                    return None;
                }
                self.own.lapic().set_apic_base(value, PHYSICAL_BITS).ok()?;
                state.msrs.apic_base = value;
                self.look_at_lapic();
            }
            msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                let effect = self.own.lapic().write_msr(index, value, now).ok()?;
                self.apply(effect);
            }
            msr::TSC_DEADLINE => {
                self.own.lapic().set_tsc_deadline(value, now);
                self.look_at_lapic();
            }
            msr::MCG_STATUS => state.msrs.mcg_status = value,
            // Commands to microarchitecture that is not here, and a microcode load's trigger.
            msr::PRED_CMD | msr::FLUSH_CMD | msr::BIOS_SIGN_ID => {}
            msr::DEBUG_CTL if value == 0 => {}
            msr::AMD_HWCR | msr::AMD_DE_CFG => {}
            msr::AMD_PERF_FIRST..=msr::AMD_PERF_LAST if self.is_amd() => {}
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_OLD => {
                state.msrs.kvm_wall_clock = value;
                self.write_wall_clock(value);
            }
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_OLD => {
                state.msrs.kvm_system_time = value;
                self.write_system_time(value, state.msrs.tsc_offset);
            }
            // A host may always leave the EOI to the guest, and does.
            msr::KVM_PV_EOI_EN => state.msrs.kvm_pv_eoi = value,
            _ => return None,
        }
        Some(())
    }
}
