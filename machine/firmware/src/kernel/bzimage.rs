//! Linux/x86 boot images (Documentation/arch/x86/boot.rst, protocol 2.12 and later).
//!
//! ```text
//!  0x000          0x1f1          setup_sects+1 sectors        + payload_offset
//!  boot sector .. setup header .. real-mode code .. | startup code .. | payload .. | ..
//! ```
//!
//! Invariant: a parsed image's payload lies inside the file.

use x86::GuestPhys;

use super::error::KernelError;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::source::FileRange;

/// First byte of the setup header in the file and in the zero page.
pub(crate) const SETUP_HEADER: usize = 0x1f1;
/// Protocol 2.12's header ends here (after `handover_offset`).
pub(super) const HEADER_END: usize = 0x268;
/// xloadflags: a 64-bit entry exists.
const XLF_KERNEL_64: u16 = 1 << 0;
/// loadflags: protected-mode code is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;

/// The setup header: what of it matters to a loader, and its bytes for the zero page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupHeader {
    /// The header as it lies in the file from 0x1f1, to be copied into the zero page.
    pub raw: Vec<u8>,
    /// Boot protocol, major in the high byte.
    pub version: u16,
    /// Highest address the initrd's last byte may have.
    pub initrd_addr_max: u32,
    /// Longest command line in bytes, without its NUL.
    pub cmdline_size: u32,
    /// Where the kernel likes to be.
    pub pref_address: GuestPhys,
    /// Bytes from there that the kernel uses before it reads the memory map.
    pub init_size: u32,
    /// The version text (`uname -r`, builder, date), if the image has one.
    pub kernel_version: Option<String>,
}

/// A bounds-checked bzImage.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// Its header.
    pub header: SetupHeader,
    /// Where in the file the compressed vmlinux lies, its 4-byte unpacked size last.
    pub payload: FileRange,
}

impl BzImage {
    /// Parses a file of `size` bytes that begins like a boot image; its setup code lies in `file`.
    ///
    /// # Errors
    /// Truncated, 32-bit and pre-2.12 images.
    pub(super) fn parse(file: &[u8], size: u64) -> Result<Self, KernelError> {
        let truncated = |need| KernelError::Truncated { have: size, need };
        if file.len() < HEADER_END {
            return Err(truncated(HEADER_END as u64));
        }
        let header = SetupHeader::parse(file)?;
        let within = "the header's length was checked";
        let setup_sects = match file[SETUP_HEADER] {
            0 => 4,
            n => u64::from(n),
        };
        let offset = u64::from(u32_at(file, 0x248).expect(within));
        let length = u64::from(u32_at(file, 0x24c).expect(within));
        if length == 0 {
            return Err(KernelError::NoPayload);
        }
        let start = (setup_sects + 1) * 512 + offset;
        let payload =
            FileRange::within(start, length, size).ok_or_else(|| truncated(start + length))?;
        Ok(Self { header, payload })
    }
}

impl SetupHeader {
    fn parse(file: &[u8]) -> Result<Self, KernelError> {
        let within = "the header's length was checked";
        let version = u16_at(file, 0x206).expect(within);
        if version < 0x020c {
            return Err(KernelError::OldProtocol {
                major: (version >> 8) as u8,
                minor: version as u8,
            });
        }
        if file[0x211] & LOADED_HIGH == 0 {
            return Err(KernelError::ZImage);
        }
        if u16_at(file, 0x236).expect(within) & XLF_KERNEL_64 == 0 {
            return Err(KernelError::Not64Bit);
        }
        // The header ends where the short jump over it lands; later protocols append fields.
        let end = (0x202 + usize::from(file[0x201])).clamp(HEADER_END, 0x290).min(file.len());
        Ok(Self {
            raw: file[SETUP_HEADER..end].to_vec(),
            version,
            initrd_addr_max: u32_at(file, 0x22c).expect(within),
            cmdline_size: u32_at(file, 0x238).expect(within),
            pref_address: GuestPhys(u64_at(file, 0x258).expect(within)),
            init_size: u32_at(file, 0x260).expect(within),
            kernel_version: version_text(file, u16_at(file, 0x20e).expect(within)),
        })
    }
}

/// The NUL-terminated text at `pointer` + 0x200 (boot.rst, kernel_version).
fn version_text(file: &[u8], pointer: u16) -> Option<String> {
    let tail = file.get(usize::from(pointer) + 0x200..).filter(|_| pointer != 0)?;
    let text = &tail[..tail.len().min(256)];
    let end = text.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    (!text.is_empty() && text.chars().all(|c| !c.is_control())).then(|| text.to_string())
}
