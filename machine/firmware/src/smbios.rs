//! SMBIOS 3 tables, so that `dmidecode` in a guest says what the machine is (DSP0134 3.1).
//!
//! Structures: BIOS (0), system (1), baseboard (2), enclosure (3), physical memory array (16), memory
//! device (17), boot information (32), end (127). Invariant: the entry point is the first byte, both
//! lie in the area that an OS scans, and strings never contain NUL.

use x86::GuestPhys;

use crate::bytes::{checksum, put, put_u32, put_u64};

/// What the tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemInfo {
    /// Version of product and firmware.
    pub version: String,
    /// The machine's UUID, bytes in RFC 9562 order.
    pub uuid: [u8; 16],
    /// Serial number; often the machine's name. Empty: not specified.
    pub serial: String,
    /// Bytes of RAM.
    pub ram: u64,
}

const ENTRY: usize = 24;
/// Structures start here, past the entry point.
const STRUCTURES: usize = 32;
/// Handles, one per structure type here.
const HANDLE_ENCLOSURE: u16 = 0x300;
const HANDLE_MEMORY_ARRAY: u16 = 0x1000;
/// Handle of the error information: not provided.
const NO_ERROR_INFORMATION: u16 = 0xfffe;

/// The entry point and the structures, to be written at `base` (16-byte aligned, 0xf0000-0xfffff).
pub fn build(info: &SystemInfo, base: GuestPhys) -> Vec<u8> {
    assert!(base.0.is_multiple_of(16), "an OS scans at 16-byte steps");
    let mut structures = Vec::with_capacity(512);
    bios(info, &mut structures);
    system(info, &mut structures);
    baseboard(info, &mut structures);
    enclosure(info, &mut structures);
    memory(info, &mut structures);
    Structure::new(32, 0x2000, 11).end(&mut structures, &[]);
    Structure::new(127, 0x7f00, 4).end(&mut structures, &[]);
    let mut bytes = vec![0; STRUCTURES];
    put(&mut bytes, 0, b"_SM3_");
    bytes[6] = ENTRY as u8;
    put(&mut bytes, 7, &[3, 1, 0, 1]);
    put_u32(&mut bytes, 12, structures.len() as u32);
    put_u64(&mut bytes, 16, base.0 + STRUCTURES as u64);
    bytes[5] = checksum(&bytes[..ENTRY]);
    bytes.extend_from_slice(&structures);
    bytes
}

/// A structure's formatted area.
struct Structure(Vec<u8>);

impl Structure {
    fn new(kind: u8, handle: u16, length: u8) -> Self {
        let mut bytes = vec![0; length.into()];
        bytes[0] = kind;
        bytes[1] = length;
        put(&mut bytes, 2, &handle.to_le_bytes());
        Self(bytes)
    }

    fn set(mut self, offset: usize, value: &[u8]) -> Self {
        put(&mut self.0, offset, value);
        self
    }

    /// Appends the structure and its strings; string n of the formatted area is `strings[n - 1]`.
    fn end(self, out: &mut Vec<u8>, strings: &[&str]) {
        out.extend_from_slice(&self.0);
        for string in strings {
            // An empty string would end the set; a space is what "not specified" looks like.
            let text = string.bytes().filter(|byte| *byte != 0).take(64);
            let before = out.len();
            out.extend(text);
            if out.len() == before {
                out.push(b' ');
            }
            out.push(0);
        }
        if strings.is_empty() {
            out.push(0);
        }
        out.push(0);
    }
}

fn bios(info: &SystemInfo, out: &mut Vec<u8>) {
    // Characteristics: PCI; "is a virtual machine" and ACPI in the extension bytes.
    Structure::new(0, 0, 26)
        .set(4, &[1, 2])
        .set(6, &0xf000u16.to_le_bytes())
        .set(8, &[3, 0])
        .set(10, &(1u64 << 7).to_le_bytes())
        .set(18, &[1, 1 << 4, 0xff, 0xff, 0xff, 0xff])
        .end(out, &["Oneroof", &info.version, "01/01/2026"]);
}

fn system(info: &SystemInfo, out: &mut Vec<u8>) {
    let mut uuid = info.uuid;
    // The first three fields are little-endian on the wire (7.2.1).
    uuid[0..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    const WAKE_UP_POWER_SWITCH: u8 = 6;
    Structure::new(1, 0x100, 27)
        .set(4, &[1, 2, 3, 4])
        .set(8, &uuid)
        .set(24, &[WAKE_UP_POWER_SWITCH, 0, 5])
        .end(out, &["Oneroof", "Oneroof", &info.version, &info.serial, "Virtual Machine"]);
}

fn baseboard(info: &SystemInfo, out: &mut Vec<u8>) {
    const MOTHERBOARD: u8 = 10;
    Structure::new(2, 0x200, 15)
        .set(4, &[1, 2, 3])
        .set(9, &[1])
        .set(11, &HANDLE_ENCLOSURE.to_le_bytes())
        .set(13, &[MOTHERBOARD, 0])
        .end(out, &["Oneroof", "Oneroof", &info.version]);
}

fn enclosure(info: &SystemInfo, out: &mut Vec<u8>) {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const UNKNOWN: u8 = 2;
    Structure::new(3, HANDLE_ENCLOSURE, 22)
        .set(4, &[1, OTHER, 2])
        .set(9, &[SAFE, SAFE, SAFE, UNKNOWN])
        .end(out, &["Oneroof", &info.version]);
}

fn memory(info: &SystemInfo, out: &mut Vec<u8>) {
    const MOTHERBOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_ERROR_CORRECTION: u8 = 3;
    let ram_kib = info.ram >> 10;
    // Past 2 TiB - 1 KiB the extended field holds bytes.
    let (capacity, extended) = match u32::try_from(ram_kib) {
        Ok(kib @ 0..0x8000_0000) => (kib, 0),
        _ => (0x8000_0000, info.ram),
    };
    Structure::new(16, HANDLE_MEMORY_ARRAY, 23)
        .set(4, &[MOTHERBOARD, SYSTEM_MEMORY, NO_ERROR_CORRECTION])
        .set(7, &capacity.to_le_bytes())
        .set(11, &NO_ERROR_INFORMATION.to_le_bytes())
        .set(13, &1u16.to_le_bytes())
        .set(15, &extended.to_le_bytes())
        .end(out, &[]);
    // Sizes are MiB; from 32 GiB - 1 MiB on the extended field has them.
    let ram_mib = info.ram >> 20;
    let (size, extended) = match u16::try_from(ram_mib) {
        Ok(mib @ 0..0x7fff) => (mib, 0),
        _ => (0x7fff, u32::try_from(ram_mib).unwrap_or(0x7fff_ffff).min(0x7fff_ffff)),
    };
    const UNKNOWN_WIDTH: [u8; 4] = [0xff; 4];
    const FORM_OTHER: u8 = 1;
    const TYPE_RAM: u8 = 7;
    Structure::new(17, HANDLE_MEMORY_ARRAY + 1, 40)
        .set(4, &HANDLE_MEMORY_ARRAY.to_le_bytes())
        .set(6, &NO_ERROR_INFORMATION.to_le_bytes())
        .set(8, &UNKNOWN_WIDTH)
        .set(12, &size.to_le_bytes())
        .set(14, &[FORM_OTHER, 0, 1, 0, TYPE_RAM, 2, 0])
        .set(23, &[2])
        .set(28, &extended.to_le_bytes())
        .end(out, &["RAM", "Oneroof"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ram: u64) -> Vec<u8> {
        let info = SystemInfo {
            version: "0.1.0".into(),
            uuid: [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 8, 9, 10, 11, 12, 13, 14, 15],
            serial: String::new(),
            ram,
        };
        build(&info, crate::layout::SMBIOS)
    }

    /// Walks the structures as an OS does; returns (type, formatted area, strings).
    fn walk(bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut all = Vec::new();
        let mut rest = &bytes[STRUCTURES..];
        while !rest.is_empty() {
            let (formatted, tail) = rest.split_at(rest[1].into());
            let end = tail.windows(2).position(|pair| pair == [0, 0]).expect("a double NUL");
            let strings = tail[..end]
                .split(|byte| *byte == 0)
                .map(|text| String::from_utf8(text.to_vec()).expect("ASCII"))
                .filter(|text| !text.is_empty())
                .collect();
            all.push((formatted[0], formatted.to_vec(), strings));
            rest = &tail[end + 2..];
        }
        all
    }

    #[test]
    fn entry_point_sums_to_zero_and_points_behind_itself() {
        let bytes = sample(1 << 30);
        assert_eq!(&bytes[..5], b"_SM3_");
        assert_eq!(bytes[..ENTRY].iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        assert_eq!(bytes[16..24], (0xf_0020u64).to_le_bytes());
        assert_eq!(bytes[12..16], ((bytes.len() - STRUCTURES) as u32).to_le_bytes());
    }

    #[test]
    fn structures_walk_to_the_end_and_name_the_product() {
        let all = walk(&sample(1 << 30));
        let kinds: Vec<u8> = all.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [0, 1, 2, 3, 16, 17, 32, 127]);
        let (_, system, strings) = &all[1];
        assert_eq!(strings[usize::from(system[5]) - 1], "Oneroof");
        assert_eq!(system[8..16], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
    }

    #[test]
    fn memory_sizes_use_the_extended_fields_when_large() {
        let device = |ram| walk(&sample(ram))[5].1.clone();
        assert_eq!(device(512 << 20)[12..14], 512u16.to_le_bytes());
        let large = device(64 << 30);
        assert_eq!(
            (&large[12..14], &large[28..32]),
            (&[0xff, 0x7f][..], &65536u32.to_le_bytes()[..])
        );
    }
}
