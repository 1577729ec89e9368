//! Model-specific registers by list (api.rst, KVM_GET_MSRS, KVM_SET_MSRS).
//!
//! EFER and the APIC base travel with the special registers, the TSC with its offset, the TSC
//! deadline after the local APIC. A register this host lacks is left out on the way out, and on
//! the way in it may only hold zero or its reset value.

use engine::EngineError;
use kvm_bindings::{Msrs as KvmMsrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use x86::{Msrs, msr};

use crate::error::failed;

/// One register: number, name, place in the neutral state.
type Row = (u32, &'static str, fn(&mut Msrs) -> &mut u64);

const TABLE: &[Row] = &[
    (msr::STAR, "MSR STAR", |m| &mut m.star),
    (msr::LSTAR, "MSR LSTAR", |m| &mut m.lstar),
    (msr::CSTAR, "MSR CSTAR", |m| &mut m.cstar),
    (msr::SFMASK, "MSR SFMASK", |m| &mut m.sfmask),
    (msr::KERNEL_GS_BASE, "MSR KERNEL_GS_BASE", |m| &mut m.kernel_gs_base),
    (msr::SYSENTER_CS, "MSR SYSENTER_CS", |m| &mut m.sysenter_cs),
    (msr::SYSENTER_ESP, "MSR SYSENTER_ESP", |m| &mut m.sysenter_esp),
    (msr::SYSENTER_EIP, "MSR SYSENTER_EIP", |m| &mut m.sysenter_eip),
    (msr::PAT, "MSR PAT", |m| &mut m.pat),
    (msr::TSC_AUX, "MSR TSC_AUX", |m| &mut m.tsc_aux),
    (msr::TSC_ADJUST, "MSR TSC_ADJUST", |m| &mut m.tsc_adjust),
    (msr::MISC_ENABLE, "MSR MISC_ENABLE", |m| &mut m.misc_enable),
    (msr::SPEC_CTRL, "MSR SPEC_CTRL", |m| &mut m.spec_ctrl),
    (msr::MTRR_DEF_TYPE, "MSR MTRR_DEF_TYPE", |m| &mut m.mtrr_def_type),
    (msr::MCG_STATUS, "MSR MCG_STATUS", |m| &mut m.mcg_status),
    (msr::KVM_WALL_CLOCK, "MSR KVM_WALL_CLOCK", |m| &mut m.kvm_wall_clock),
    (msr::KVM_SYSTEM_TIME, "MSR KVM_SYSTEM_TIME", |m| &mut m.kvm_system_time),
    (msr::KVM_ASYNC_PF_EN, "MSR KVM_ASYNC_PF_EN", |m| &mut m.kvm_async_pf),
    (msr::KVM_STEAL_TIME, "MSR KVM_STEAL_TIME", |m| &mut m.kvm_steal_time),
    (msr::KVM_PV_EOI_EN, "MSR KVM_PV_EOI_EN", |m| &mut m.kvm_pv_eoi),
    (msr::KVM_POLL_CONTROL, "MSR KVM_POLL_CONTROL", |m| &mut m.kvm_poll_control),
    (msr::MTRR_FIX_64K_00000, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[0]),
    (msr::MTRR_FIX_16K_80000, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[1]),
    (msr::MTRR_FIX_16K_A0000, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[2]),
    (msr::MTRR_FIX_4K_C0000, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[3]),
    (msr::MTRR_FIX_4K_C0000 + 1, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[4]),
    (msr::MTRR_FIX_4K_C0000 + 2, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[5]),
    (msr::MTRR_FIX_4K_C0000 + 3, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[6]),
    (msr::MTRR_FIX_4K_C0000 + 4, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[7]),
    (msr::MTRR_FIX_4K_C0000 + 5, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[8]),
    (msr::MTRR_FIX_4K_C0000 + 6, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[9]),
    (msr::MTRR_FIX_4K_C0000 + 7, "MSR MTRR_FIX", |m| &mut m.mtrr_fixed[10]),
    (msr::MTRR_PHYS_BASE0, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[0]),
    (msr::MTRR_PHYS_BASE0 + 1, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[1]),
    (msr::MTRR_PHYS_BASE0 + 2, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[2]),
    (msr::MTRR_PHYS_BASE0 + 3, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[3]),
    (msr::MTRR_PHYS_BASE0 + 4, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[4]),
    (msr::MTRR_PHYS_BASE0 + 5, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[5]),
    (msr::MTRR_PHYS_BASE0 + 6, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[6]),
    (msr::MTRR_PHYS_BASE0 + 7, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[7]),
    (msr::MTRR_PHYS_BASE0 + 8, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[8]),
    (msr::MTRR_PHYS_BASE0 + 9, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[9]),
    (msr::MTRR_PHYS_BASE0 + 10, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[10]),
    (msr::MTRR_PHYS_BASE0 + 11, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[11]),
    (msr::MTRR_PHYS_BASE0 + 12, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[12]),
    (msr::MTRR_PHYS_BASE0 + 13, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[13]),
    (msr::MTRR_PHYS_BASE0 + 14, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[14]),
    (msr::MTRR_PHYS_BASE0 + 15, "MSR MTRR_PHYS", |m| &mut m.mtrr_variable[15]),
];

/// The registers of the table that this host has, and those it has not.
pub(super) struct MsrList {
    present: Vec<Row>,
    absent: Vec<Row>,
}

impl MsrList {
    /// Tries each register once.
    pub(super) fn of(fd: &VcpuFd) -> Self {
        let (present, absent) =
            TABLE.iter().partition(|(index, ..)| read(fd, &[*index]).is_ok_and(|v| v.len() == 1));
        Self { present, absent }
    }

    pub(super) fn save(&self, fd: &VcpuFd, msrs: &mut Msrs) -> Result<(), EngineError> {
        let indices: Vec<u32> = self.present.iter().map(|row| row.0).collect();
        let values = read(fd, &indices)?;
        if let Some((_, name, _)) = self.present.get(values.len()) {
            return Err(EngineError::Unsupported { engine: "kvm", what: name });
        }
        for ((_, _, field), value) in self.present.iter().zip(values) {
            *field(msrs) = value;
        }
        Ok(())
    }

    /// Writes what differs from what the vCPU has.
    pub(super) fn load(&self, fd: &VcpuFd, msrs: &Msrs) -> Result<(), EngineError> {
        let (mut wanted, mut reset) = (msrs.clone(), Msrs::default());
        for (_, name, field) in &self.absent {
            let value = *field(&mut wanted);
            if value != 0 && value != *field(&mut reset) {
                return Err(EngineError::Unsupported { engine: "kvm", what: name });
            }
        }
        let mut current = Msrs::default();
        self.save(fd, &mut current)?;
        let changed: Vec<&Row> = self
            .present
            .iter()
            .filter(|(_, _, field)| *field(&mut wanted) != *field(&mut current))
            .collect();
        let values: Vec<_> =
            changed.iter().map(|(index, _, field)| (*index, *field(&mut wanted))).collect();
        let written = write(fd, &values)?;
        match changed.get(written) {
            None => Ok(()),
            Some((_, name, _)) => Err(EngineError::Unsupported { engine: "kvm", what: name }),
        }
    }
}

/// IA32_TSC_DEADLINE, 0 where the timer is not in that mode.
pub(super) fn tsc_deadline(fd: &VcpuFd) -> Result<u64, EngineError> {
    Ok(read(fd, &[msr::TSC_DEADLINE])?.first().copied().unwrap_or(0))
}

/// Arms the TSC deadline; KVM ignores it unless the APIC's timer is in that mode.
pub(super) fn set_tsc_deadline(fd: &VcpuFd, value: u64) -> Result<(), EngineError> {
    match write(fd, &[(msr::TSC_DEADLINE, value)])? {
        0 if value != 0 => {
            Err(EngineError::Unsupported { engine: "kvm", what: "the TSC deadline timer" })
        }
        _ => Ok(()),
    }
}

/// Reads registers up to the first that KVM refuses.
pub(super) fn read(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<u64>, EngineError> {
    let entries: Vec<_> =
        indices.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut list = KvmMsrs::from_entries(&entries).expect("fewer than KVM's limit of 256");
    let count = fd.get_msrs(&mut list).map_err(failed("KVM_GET_MSRS"))?;
    Ok(list.as_slice()[..count].iter().map(|entry| entry.data).collect())
}

/// Writes registers up to the first that KVM refuses; how many.
pub(super) fn write(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<usize, EngineError> {
    let entries: Vec<_> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() })
        .collect();
    let list = KvmMsrs::from_entries(&entries).expect("fewer than KVM's limit of 256");
    fd.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_number_and_place() {
        let mut msrs = Msrs::default();
        for (at, (_, _, field)) in TABLE.iter().enumerate() {
            *field(&mut msrs) = at as u64 + 1000;
        }
        for (at, (index, _, field)) in TABLE.iter().enumerate() {
            assert_eq!(*field(&mut msrs), at as u64 + 1000, "{index:#x} shares its place");
            assert!(!TABLE[..at].iter().any(|row| row.0 == *index), "{index:#x} twice");
        }
    }
}
