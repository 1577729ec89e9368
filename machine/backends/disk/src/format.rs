//! Formats by content, as `file`(1) would: the signatures of the first sector.
//!
//! Invariant: only what a disk image starts with counts. A LUKS header does not: it is what an
//! encrypted disk starts with as its guest sees it.

use crate::bytes::be32;

/// Bytes that a signature can be in.
pub(crate) const HEAD: usize = 512;

/// How an image holds its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// QEMU copy on write, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Its name as options and images have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// A format by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            _ => None,
        }
    }
}

/// What a first sector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// Nothing that is known: raw.
    Nothing,
    /// One of ours that is not raw.
    Ours(Format),
    /// Another program's.
    Foreign(&'static str),
}

impl Probed {
    /// The name of what it is, if it is not raw.
    pub(crate) fn signature(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Ours(format) => Some(format.name()),
            Self::Foreign(name) => Some(name),
        }
    }
}

/// Looks at the first bytes of a file, [`HEAD`] of them where it has so many.
pub(crate) fn probe(head: &[u8]) -> Probed {
    const QCOW: &[u8] = b"QFI\xfb";
    const FOREIGN: &[(&[u8], &str)] = &[
        (b"QED\0", "QED"),
        (b"KDMV", "VMDK"),
        (b"COWD", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"WithouFreSpacExt", "Parallels"),
    ];
    if head.starts_with(QCOW) {
        let version = if head.len() >= 8 { be32(head, 4) } else { 0 };
        return if version == 1 {
            Probed::Foreign("qcow version 1")
        } else {
            Probed::Ours(Format::Qcow2)
        };
    }
    if head.len() >= 0x44 && head[0x40..0x44] == [0x7f, 0x10, 0xda, 0xbe] {
        return Probed::Foreign("VDI");
    }
    FOREIGN
        .iter()
        .find(|(signature, _)| head.starts_with(signature))
        .map_or(Probed::Nothing, |(_, name)| Probed::Foreign(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_known_and_nothing_else_is() {
        assert_eq!(probe(b"QFI\xfb\0\0\0\x03"), Probed::Ours(Format::Qcow2));
        assert_eq!(probe(b"QFI\xfb\0\0\0\x01"), Probed::Foreign("qcow version 1"));
        assert_eq!(probe(b"vhdxfile"), Probed::Foreign("VHDX"));
        let mut vdi = [0; HEAD];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert_eq!(probe(&vdi), Probed::Foreign("VDI"));
        for nothing in [b"".as_slice(), b"QFI", b"LUKS\xba\xbe\0\x01", &[0; HEAD]] {
            assert_eq!(probe(nothing), Probed::Nothing);
        }
    }
}
