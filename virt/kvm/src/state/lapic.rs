//! The local APIC's registers and timer (api.rst, KVM_GET_LAPIC; SDM vol. 3, 10.5.4).
//!
//! KVM's page holds each 32-bit register at its byte offset. Its timer counts nanoseconds divided
//! by the divide configuration; the current-count register is what remains, in both directions.

use engine::EngineError;
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;
use x86::lapic::{LapicState, reg};

use crate::error::failed;

pub(super) fn save(fd: &VcpuFd) -> Result<LapicState, EngineError> {
    let page = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
    let registers: [u32; 64] = std::array::from_fn(|index| {
        u32::from_le_bytes(std::array::from_fn(|byte| page.regs[index * 16 + byte] as u8))
    });
    Ok(LapicState { registers, tsc_deadline: 0, timer_remaining_ns: remaining_ns(&registers) })
}

pub(super) fn load(fd: &VcpuFd, state: &LapicState) -> Result<(), EngineError> {
    let mut page = kvm_lapic_state::default();
    let mut registers = state.registers;
    if is_counting_mode(&registers) {
        let ns = state.timer_remaining_ns.unwrap_or(0);
        let count = ns.div_ceil(divisor(registers[reg::TIMER_DIVIDE]));
        registers[reg::TIMER_CURRENT] = count.min(registers[reg::TIMER_INITIAL].into()) as u32;
        let one_shot = registers[reg::LVT_TIMER] >> 17 & 3 == 0;
        if one_shot && state.timer_remaining_ns.is_none() {
            // A one-shot that has fired: KVM would start it again from its initial count.
            registers[reg::TIMER_INITIAL] = 0;
        }
    }
    for (index, register) in registers.iter().enumerate() {
        for (byte, value) in register.to_le_bytes().into_iter().enumerate() {
            page.regs[index * 16 + byte] = value as _;
        }
    }
    fd.set_lapic(&page).map_err(failed("KVM_SET_LAPIC"))
}

/// One-shot or periodic, not TSC deadline.
fn is_counting_mode(registers: &[u32; 64]) -> bool {
    registers[reg::LVT_TIMER] >> 17 & 3 < 2
}

fn remaining_ns(registers: &[u32; 64]) -> Option<u64> {
    let current = u64::from(registers[reg::TIMER_CURRENT]);
    let counts = is_counting_mode(registers) && registers[reg::TIMER_INITIAL] != 0 && current != 0;
    counts.then(|| current * divisor(registers[reg::TIMER_DIVIDE]))
}

/// 1-128, from bits 3, 1 and 0.
fn divisor(register: u32) -> u64 {
    let code = register & 3 | register >> 1 & 4;
    1 << ((code + 1) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_as_the_manual_lists_them() {
        let listed = [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)];
        for (register, by) in listed {
            assert_eq!(divisor(register), by);
        }
    }

    #[test]
    fn a_running_one_shot_has_time_left() {
        let mut registers = [0; 64];
        registers[reg::TIMER_INITIAL] = 1000;
        registers[reg::TIMER_CURRENT] = 250;
        registers[reg::TIMER_DIVIDE] = 3;
        assert_eq!(remaining_ns(&registers), Some(4000));
        registers[reg::TIMER_CURRENT] = 0;
        assert_eq!(remaining_ns(&registers), None);
        registers[reg::TIMER_CURRENT] = 250;
        registers[reg::LVT_TIMER] = 2 << 17;
        assert_eq!(remaining_ns(&registers), None);
    }
}
