//! The XSAVE area in standard format (SDM vol. 1, 13.4): the one home of x87, XMM, YMM state.
//!
//! ```text
//! 0    FCW FSW FTW FOP FIP FDP MXCSR MXCSR_MASK   (FXSAVE64 layout)
//! 32   ST0-ST7, 16 bytes each
//! 160  XMM0-XMM15, 16 bytes each
//! 512  XSTATE_BV, XCOMP_BV, 48 reserved bytes
//! 576  YMM_Hi128: high halves of YMM0-15, 16 bytes each
//! 832  larger components, where an engine has them
//! ```
//!
//! Invariant: the register bytes are always the truth, whatever XSTATE_BV says; engines that
//! import a component whose XSTATE_BV bit is clear write its initial value into the bytes first.

/// Byte size of the area carried in `CpuState`: what KVM_GET_XSAVE moves.
pub const AREA_SIZE: usize = 4096;
/// Offset of the XMM registers.
pub const XMM_OFFSET: usize = 160;
/// Offset of the high YMM halves.
pub const YMM_HI_OFFSET: usize = 576;
/// End of the AVX component.
pub const AVX_END: usize = 832;
/// Offset of the XSAVE header.
pub const HEADER_OFFSET: usize = 512;
/// MXCSR bits that may be set; others #GP (all but DAZ-less parts have 0xffff).
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// FCW after FNINIT.
pub const FCW_INIT: u16 = 0x37f;

/// The area's bytes.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; AREA_SIZE]);

impl core::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("XsaveArea")
            .field("fcw", &self.fcw())
            .field("fsw", &self.fsw())
            .field("mxcsr", &self.mxcsr())
            .finish_non_exhaustive()
    }
}

impl Default for XsaveArea {
    /// State after INIT of the FPU by FNINIT and MXCSR reset, all registers zero.
    fn default() -> Self {
        let mut area = Self([0; AREA_SIZE]);
        area.set_fcw(FCW_INIT);
        area.set_mxcsr(MXCSR_RESET);
        area.0[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        area
    }
}

impl XsaveArea {
    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    /// x87 control word.
    pub fn fcw(&self) -> u16 {
        self.u16_at(0)
    }

    /// Sets the x87 control word.
    pub fn set_fcw(&mut self, value: u16) {
        self.0[0..2].copy_from_slice(&value.to_le_bytes());
    }

    /// x87 status word.
    pub fn fsw(&self) -> u16 {
        self.u16_at(2)
    }

    /// Sets the x87 status word.
    pub fn set_fsw(&mut self, value: u16) {
        self.0[2..4].copy_from_slice(&value.to_le_bytes());
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }

    /// Sets MXCSR.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[24..28].copy_from_slice(&value.to_le_bytes());
    }

    /// XMM register 0-15.
    #[inline]
    pub fn xmm(&self, index: usize) -> u128 {
        let at = XMM_OFFSET + (index & 15) * 16;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[at..at + 16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register 0-15, leaving the high half of the YMM register.
    #[inline]
    pub fn set_xmm(&mut self, index: usize, value: u128) {
        let at = XMM_OFFSET + (index & 15) * 16;
        self.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    /// High half of YMM register 0-15.
    #[inline]
    pub fn ymm_hi(&self, index: usize) -> u128 {
        let at = YMM_HI_OFFSET + (index & 15) * 16;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[at..at + 16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets the high half of YMM register 0-15.
    #[inline]
    pub fn set_ymm_hi(&mut self, index: usize, value: u128) {
        let at = YMM_HI_OFFSET + (index & 15) * 16;
        self.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }
}
