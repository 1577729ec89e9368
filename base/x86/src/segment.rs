//! Segment registers with their hidden parts, and descriptors (SDM vol. 3, 3.4, 5.2).

/// Segment registers in encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentRegister {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// A segment register: selector and the hidden descriptor part.
///
/// `attributes` is laid out as in a descriptor's second word, bits 8-23 moved to bits 0-15:
///
/// ```text
///  15  14  13  12   11..8    7   6..5   4   3..0
///  G   D/B  L  AVL  (zero)   P   DPL    S   type
/// ```
///
/// `limit` is in bytes, granularity already applied. A null selector in protected mode has P = 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Base linear address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Access rights as drawn above.
    pub attributes: u16,
}

/// Attribute bits of [`Segment::attributes`].
pub mod attr {
    /// Type bit 0: accessed (code/data).
    pub const ACCESSED: u16 = 1 << 0;
    /// Type bit 1: writable (data) or readable (code).
    pub const WRITE_READ: u16 = 1 << 1;
    /// Type bit 2: expand-down (data) or conforming (code).
    pub const DOWN_CONFORMING: u16 = 1 << 2;
    /// Type bit 3: code.
    pub const CODE: u16 = 1 << 3;
    /// S: code or data, not a system segment.
    pub const S: u16 = 1 << 4;
    /// P.
    pub const PRESENT: u16 = 1 << 7;
    /// AVL.
    pub const AVL: u16 = 1 << 12;
    /// L: 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// D/B: 32-bit default.
    pub const DB: u16 = 1 << 14;
    /// G: limit in 4 KiB units.
    pub const GRANULAR: u16 = 1 << 15;
}

impl Segment {
    /// A real-mode or vm86 segment for a selector: base = selector * 16, 64 KiB.
    pub const fn real_mode(selector: u16, attributes: u16) -> Self {
        Self { base: (selector as u64) << 4, limit: 0xffff, selector, attributes }
    }

    /// The 4-bit type.
    #[inline]
    pub const fn kind(self) -> u8 {
        (self.attributes & 0xf) as u8
    }

    /// Descriptor privilege level.
    #[inline]
    pub const fn dpl(self) -> u8 {
        (self.attributes >> 5) as u8 & 3
    }

    /// Requested privilege level of the selector.
    #[inline]
    pub const fn rpl(self) -> u8 {
        self.selector as u8 & 3
    }

    /// P.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.attributes & attr::PRESENT != 0
    }

    /// A code segment (S = 1, type bit 3).
    #[inline]
    pub const fn is_code(self) -> bool {
        self.attributes & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// Present, writable, expand-up data of 4 GiB: any access of 32-bit code is allowed.
    #[inline]
    pub const fn is_whole(self) -> bool {
        const KIND: u16 = attr::PRESENT | attr::CODE | attr::DOWN_CONFORMING | attr::WRITE_READ;
        self.attributes & KIND == attr::PRESENT | attr::WRITE_READ && self.limit == u32::MAX
    }

    /// L: 64-bit code segment.
    #[inline]
    pub const fn is_long(self) -> bool {
        self.attributes & attr::LONG != 0
    }

    /// D/B: 32-bit code or stack.
    #[inline]
    pub const fn is_big(self) -> bool {
        self.attributes & attr::DB != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear base.
    pub base: u64,
    /// Limit: last valid byte offset.
    pub limit: u16,
}

/// An 8-byte descriptor as it lies in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Base, bits 31:0.
    pub const fn base(self) -> u32 {
        ((self.0 >> 16) & 0xff_ffff) as u32 | ((self.0 >> 56) as u32) << 24
    }

    /// Limit in bytes, granularity applied.
    pub const fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff) as u32 | ((self.0 >> 32) as u32 & 0xf_0000);
        if self.attributes() & attr::GRANULAR != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// Attributes in the layout of [`Segment::attributes`].
    pub const fn attributes(self) -> u16 {
        (self.0 >> 40) as u16 & 0xf0ff
    }

    /// The segment register contents that loading this descriptor gives.
    pub const fn to_segment(self, selector: u16) -> Segment {
        Segment {
            base: self.base() as u64,
            limit: self.limit(),
            selector,
            attributes: self.attributes(),
        }
    }

    /// Builds a descriptor; `limit` in bytes, or in pages less one when `attributes` has G.
    pub const fn new(base: u32, limit_raw: u32, attributes: u16) -> Self {
        Self(
            (limit_raw & 0xffff) as u64
                | ((base & 0xff_ffff) as u64) << 16
                | ((attributes & 0xf0ff) as u64) << 40
                | ((limit_raw >> 16 & 0xf) as u64) << 48
                | ((base >> 24) as u64) << 56,
        )
    }
}
