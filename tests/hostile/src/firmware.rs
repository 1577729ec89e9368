//! Kernel files, initial RAM disks, compressed payloads, and their placement (machine/firmware).

use ::firmware::boot::{self, BootProtocol, BootRequest};
use ::firmware::kernel::{Kernel, check_initrd};
use ::firmware::layout::MemoryLayout;
use ::firmware::source::{FileRange, Sink};
use ::firmware::unpack::Payload;
use x86::{CpuState, GuestPhys};

use crate::cursor::Cursor;

/// Bytes a kernel may unpack to here: small, so that no input takes long.
const LIMIT: u64 = 4 << 20;

const MAGICS: [&[u8]; 8] = [
    b"\x1f\x8b\x08",
    b"BZh9",
    b"\x5d\x00\x00\x10\x00",
    b"\xfd7zXZ\x00",
    b"\x89LZO\x00\r\n\x1a\n\x10\x30\x20\xa0\x09\x40\x01\x09\x00\x00\x00\x01",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
    b"\x7fELF\x02\x01\x01",
];

/// Bytes as a kernel file of several kinds, as initrd, as a payload of every compression.
///
/// # Panics
/// More bytes than allowed, or a kernel placed outside of RAM or over itself.
pub fn firmware(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let selector = cursor.u8();
    let magic = cursor.pick(&MAGICS);
    let ram = u64::from(cursor.u16()) << 12;
    let rest = cursor.rest();
    match selector % 5 {
        0 => whole_file(rest, ram),
        1 => payload(&[magic, rest].concat()),
        2 => {
            let size = u64::from(cursor.u16()) << 4;
            let sized = [magic, cursor.rest(), &(size as u32).to_le_bytes()].concat();
            payload(&sized);
        }
        3 => whole_file(&boot_image(magic, rest), ram),
        _ => whole_file(&[b"\x7fELF\x02\x01\x01".as_slice(), rest].concat(), ram),
    }
    let _ = check_initrd(&rest);
}

/// A boot image whose setup header is sound but for what the bytes overwrite.
fn boot_image(magic: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut cursor = Cursor::new(bytes);
    let mut file = vec![0; 0x400];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x208].copy_from_slice(b"\xeb\x6aHdrS\x0f\x02");
    file[0x211] = 1;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    file[0x236] = 0x7f;
    file[0x238..0x23a].copy_from_slice(&2047_u16.to_le_bytes());
    file[0x25a] = 0x10;
    for _ in 0..cursor.u8() & 7 {
        let at = 0x1f0 + usize::from(cursor.u8()) % 0x80;
        file[at] = cursor.u8();
    }
    let payload = [magic, cursor.rest()].concat();
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

fn payload(bytes: &[u8]) {
    let range = FileRange { offset: 0, size: bytes.len() as u64 };
    let Ok(mut payload) = Payload::open(&bytes, range, LIMIT) else { return };
    let size = payload.size();
    let mut unpacked = 0;
    while let Ok(piece) = payload.next_piece() {
        if piece.is_empty() {
            assert_eq!(unpacked, size, "all of it, or an error");
            return;
        }
        unpacked += piece.len() as u64;
        assert!(unpacked <= size && size <= LIMIT.max(bytes.len() as u64));
    }
}

fn whole_file(file: &[u8], ram: u64) {
    let Ok(kernel) = Kernel::parse(&file) else { return };
    let memory = machine::memory_layout(ram);
    for protocol in [BootProtocol::Auto, BootProtocol::Linux64, BootProtocol::Pvh] {
        let request = BootRequest {
            initrd: Some(5000),
            command_line: "console=ttyS0",
            protocol,
            memory: &memory,
            rsdp: Some(GuestPhys(0xe_0000)),
            framebuffer: None,
            max_unpacked: LIMIT,
        };
        let mut ram = Ram { layout: &memory, written: 0 };
        if let Ok(loaded) = boot::load(&kernel, &file, &request, &mut ram) {
            assert!(ram.written > 0, "a kernel, or at least its zero page");
            let initrd = loaded.initrd.expect("it was asked for");
            assert!(ram.has(initrd.0, 5000), "the initrd at {:#x} lies in RAM", initrd.0);
            loaded.enter(&mut CpuState::reset(0));
        }
    }
}

/// RAM that only checks what is written to it.
struct Ram<'a> {
    layout: &'a MemoryLayout,
    written: u64,
}

impl Ram<'_> {
    fn has(&self, address: u64, size: u64) -> bool {
        let high = address >= 1 << 32;
        let end = match high {
            true => (1 << 32) + self.layout.ram_above_4g,
            false => self.layout.ram_below_4g,
        };
        address.checked_add(size).is_some_and(|last| last <= end)
    }
}

impl Sink for Ram<'_> {
    fn write(
        &mut self,
        address: GuestPhys,
        bytes: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        assert!(self.has(address.0, bytes.len() as u64), "{address:?} and on lies in RAM");
        self.written += bytes.len() as u64;
        assert!(self.written <= 16 * LIMIT, "a small file fills {} bytes", self.written);
        Ok(())
    }
}
