//! What translated code needs to go between kernel and user by itself, and what that leaves
//! behind (see `translate::syscall`).

use interp::exec::system::syscall::flat_segments;
use x86::{Efer, Flags};

use super::SoftVcpu;
use crate::bus::peers::Side;

/// Flags that SYSCALL must clear for translated code to go on behind it.
const MASKED: u64 = Flags::TF.bits() | Flags::AC.bits();

impl SoftVcpu {
    /// Tells translated code of the contexts it may go to, and what SYSCALL and SYSRET load.
    pub(super) fn offer_sides(&mut self) {
        let cpu = &self.cpu.state;
        let msrs = &cpu.msrs;
        let enabled = msrs.efer & Efer::SCE.bits() != 0 && !self.checking;
        let calls = enabled && msrs.sfmask & MASKED == MASKED;
        let star = [false, true].map(|user| {
            let (cs, ss) = flat_segments(msrs.star, user);
            u64::from(cs.selector) | u64::from(ss.selector) << 32
        });
        let areas = if self.checking {
            [0; 3]
        } else {
            self.cpu.bus.tlb.peer_areas(self.cpu.bus.context.code)
        };
        let side = Side::of(&self.cpu.bus.context);
        let state = self.cpu.bus.tlb.state();
        state.side = side as u64;
        state.areas = areas;
        state.syscall_area = if calls { areas[Side::Kernel as usize] } else { 0 };
        state.sysret_area = if enabled { areas[Side::User as usize] } else { 0 };
        state.loaded_segments = 0;
        state.access = cpu.rflags & Flags::AC.bits();
        state.star = star;
        state.lstar = msrs.lstar;
        state.syscall_mask = msrs.sfmask;
        state.controls = [cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4];
        state.pkru = cpu.pkru.into();
    }

    /// Makes the context current that translated code went to.
    pub(super) fn follow_side(&mut self) {
        let state = self.cpu.bus.tlb.state();
        let (number, access) = (state.side, state.access != 0);
        if number != Side::of(&self.cpu.bus.context) as u64 {
            let side = Side::from_number(number);
            self.cpu.bus.tlb.follow(side);
            self.cpu.bus.context.user = side == Side::User;
            self.cpu.bus.context.ac = access;
        }
    }

    /// Makes the state whole in what changes between the sides.
    pub(super) fn take_side(&mut self) {
        self.follow_side();
        let loaded = self.cpu.bus.tlb.state().loaded_segments;
        if loaded != 0 {
            let (cs, ss) = flat_segments(self.cpu.state.msrs.star, loaded == 2);
            self.cpu.state.segments[1] = cs;
            self.cpu.state.segments[2] = ss;
            self.cpu.cpl = self.cpu.state.cpl();
        }
    }
}
