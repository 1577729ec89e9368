//! The XSAVE area (api.rst, KVM_GET_XSAVE; SDM vol. 1, 13.4-13.6).
//!
//! In the neutral area the register bytes are the truth and the header is zero; in KVM's a clear
//! XSTATE_BV bit means "initial value, whatever the bytes". Out: initial values are written where
//! the bit is clear, then the header is cleared. In: a bit is set for each component whose bytes
//! are not initial, so a guest that never used one is not charged for it. MXCSR is always loaded
//! from the bytes by the standard form. PKRU has a place of its own in the neutral state.

use engine::EngineError;
use kvm_bindings::{kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use x86::cpuid::CpuidEntry;
use x86::xsave::{
    AREA_SIZE, FCW_INIT, HEADER_OFFSET, MXCSR_MASK, MXCSR_RESET, XMM_OFFSET, XsaveArea,
};

use crate::error::failed;

/// x87: control to data pointer, then ST0-ST7.
const X87: [std::ops::Range<usize>; 2] = [0..24, 32..XMM_OFFSET];
const XMM: std::ops::Range<usize> = XMM_OFFSET..XMM_OFFSET + 256;
/// Left to software by hardware; not state.
const AVAILABLE: std::ops::Range<usize> = 416..HEADER_OFFSET;
const HEADER: std::ops::Range<usize> = HEADER_OFFSET..HEADER_OFFSET + 64;
const MXCSR_MASK_AT: std::ops::Range<usize> = 28..32;

/// Where the larger components lie: bit and bytes, from CPUID leaf 0xD.
pub(super) struct XsaveLayout {
    components: Vec<(u32, std::ops::Range<usize>)>,
}

/// The component that holds PKRU.
const PKRU: u32 = 9;

impl XsaveLayout {
    /// From the guest's CPUID.
    pub(super) fn of(cpuid: &[CpuidEntry]) -> Self {
        let components = cpuid
            .iter()
            .filter(|entry| entry.leaf == 0xd)
            .filter_map(|entry| {
                let bit = entry.subleaf.filter(|&bit| bit >= 2)?;
                let (size, at) = (entry.result.eax as usize, entry.result.ebx as usize);
                (size > 0 && at + size <= AREA_SIZE).then_some((bit, at..at + size))
            })
            .collect();
        Self { components }
    }

    /// The area, and PKRU.
    pub(super) fn save(&self, fd: &VcpuFd) -> Result<(XsaveArea, u32), EngineError> {
        let kvm = fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
        let mut area = XsaveArea::default();
        for (bytes, word) in area.0.chunks_exact_mut(4).zip(kvm.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.normalise(&mut area);
        let pkru = self.pkru(&mut area).map_or(0, |place| {
            let value = u32::from_le_bytes(*place);
            place.fill(0);
            value
        });
        Ok((area, pkru))
    }

    /// Where PKRU lies in an area; nowhere on processors without it.
    fn pkru<'a>(&self, area: &'a mut XsaveArea) -> Option<&'a mut [u8; 4]> {
        let (_, range) = self.components.iter().find(|(bit, _)| *bit == PKRU)?;
        area.0[range.clone()].first_chunk_mut()
    }

    pub(super) fn load(&self, fd: &VcpuFd, area: &XsaveArea, pkru: u32) -> Result<(), EngineError> {
        let mut area = area.clone();
        if let Some(place) = self.pkru(&mut area) {
            *place = pkru.to_le_bytes();
        }
        self.denormalise(&mut area);
        let mut kvm = kvm_xsave::default();
        for (bytes, word) in area.0.chunks_exact(4).zip(&mut kvm.region) {
            *word = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        }
        // SAFETY: the kernel reads 4096 bytes unless the process asked for dynamic XSAVE features
        // with arch_prctl, which this program never does.
        unsafe { fd.set_xsave(&kvm) }.map_err(failed("KVM_SET_XSAVE"))
    }

    /// Makes the bytes the truth and everything else zero.
    fn normalise(&self, area: &mut XsaveArea) {
        let header: [u8; 8] = area.0[HEADER_OFFSET..][..8].try_into().expect("eight bytes");
        let present = u64::from_le_bytes(header);
        if present & 1 == 0 {
            X87.into_iter().for_each(|range| area.0[range].fill(0));
            area.set_fcw(FCW_INIT);
        }
        if present & 2 == 0 {
            area.0[XMM].fill(0);
        }
        if present & 0b110 == 0 {
            area.set_mxcsr(MXCSR_RESET);
        }
        let mut used = [false; AREA_SIZE];
        used[..AVAILABLE.start].fill(true);
        for (bit, range) in &self.components {
            used[range.clone()].fill(present >> bit & 1 != 0);
        }
        for (byte, _) in area.0.iter_mut().zip(used).filter(|(_, used)| !used) {
            *byte = 0;
        }
        area.0[MXCSR_MASK_AT].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    }

    /// Says in the header which components the bytes make present.
    fn denormalise(&self, area: &mut XsaveArea) {
        let any = |area: &XsaveArea, range: std::ops::Range<usize>| {
            area.0[range].iter().any(|&byte| byte != 0)
        };
        let fcw = area.fcw();
        area.set_fcw(0);
        let x87 = fcw != FCW_INIT || X87.into_iter().any(|range| any(area, range));
        area.set_fcw(fcw);
        area.set_mxcsr(area.mxcsr() & MXCSR_MASK);
        let sse = area.mxcsr() != MXCSR_RESET || any(area, XMM);
        let mut present = u64::from(x87) | u64::from(sse) << 1;
        for (bit, range) in &self.components {
            present |= u64::from(any(area, range.clone())) << bit;
        }
        area.0[HEADER].fill(0);
        area.0[HEADER_OFFSET..][..8].copy_from_slice(&present.to_le_bytes());
    }
}

pub(super) fn save_xcr0(fd: &VcpuFd) -> Result<u64, EngineError> {
    let xcrs = fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?;
    let listed = &xcrs.xcrs[..(xcrs.nr_xcrs as usize).min(xcrs.xcrs.len())];
    Ok(listed.iter().find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value))
}

pub(super) fn load_xcr0(fd: &VcpuFd, value: u64) -> Result<(), EngineError> {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = value;
    fd.set_xcrs(&xcrs).map_err(failed("KVM_SET_XCRS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::cpuid::CpuidResult;

    fn layout() -> XsaveLayout {
        let component = |bit, size, at| CpuidEntry {
            leaf: 0xd,
            subleaf: Some(bit),
            result: CpuidResult { eax: size, ebx: at, ..CpuidResult::default() },
        };
        XsaveLayout::of(&[component(1, 7, 0), component(2, 256, 576), component(9, 8, 2688)])
    }

    fn present(area: &XsaveArea) -> u64 {
        u64::from_le_bytes(area.0[HEADER_OFFSET..][..8].try_into().unwrap())
    }

    #[test]
    fn clear_bits_become_initial_values() {
        let mut area = XsaveArea([0xaa; AREA_SIZE]);
        area.0[HEADER].fill(0);
        layout().normalise(&mut area);
        assert_eq!(area, XsaveArea::default());
    }

    #[test]
    fn set_bits_keep_their_bytes() {
        let mut area = XsaveArea([0; AREA_SIZE]);
        area.set_fcw(0x27f);
        area.set_mxcsr(0x9f80);
        area.set_xmm(3, 7);
        area.set_ymm_hi(3, 9);
        area.0[2688] = 4;
        area.0[HEADER_OFFSET..][..2].copy_from_slice(&0x207u16.to_le_bytes());
        layout().normalise(&mut area);
        assert_eq!((area.fcw(), area.mxcsr()), (0x27f, 0x9f80));
        assert_eq!((area.xmm(3), area.ymm_hi(3), area.0[2688]), (7, 9, 4));
        assert_eq!(present(&area), 0);
        let neutral = area.clone();
        layout().denormalise(&mut area);
        assert_eq!(present(&area), 0x207);
        layout().normalise(&mut area);
        assert_eq!(area, neutral);
    }

    #[test]
    fn an_untouched_area_has_nothing_present() {
        let mut area = XsaveArea::default();
        layout().denormalise(&mut area);
        assert_eq!(present(&area), 0);
    }
}
