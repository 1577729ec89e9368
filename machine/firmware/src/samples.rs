//! Small synthetic kernels for the tests: an ELF, its compressions, boot images around them.
//!
//! Invariant: every sample is accepted by the parser it is for; tests damage copies.

use std::io::Write;

use crate::bytes::{put, put_u16, put_u32, put_u64};
use crate::unpack::Compression;

pub(crate) const ALL: [Compression; 7] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lzo,
    Compression::Lz4,
    Compression::Zstd,
];

/// Physical address of the sample kernel.
pub(crate) const LOAD: u64 = 0x100_0000;
/// Its size in memory: 4 KiB of code, then zeros.
pub(crate) const MEMORY: u64 = 0x5000;

/// A small deterministic generator (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// 4 KiB that look like code: near calls, repeats, noise.
pub(crate) fn code() -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut code = Vec::new();
    while code.len() < 4096 {
        code.extend_from_slice(&[0x55, 0x48, 0x89, 0xe5, 0xe8]);
        code.extend_from_slice(&(random.below(0x1_0000) as i32 - 0x8000).to_le_bytes());
        code.extend_from_slice(&random.next().to_le_bytes()[..random.below(8)]);
    }
    code.truncate(4096);
    code
}

fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, value.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(name);
    note.resize(note.len().next_multiple_of(4), 0);
    note.extend_from_slice(value);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// What the notes of [`elf64`] say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notes {
    None,
    Pvh,
    LinuxAndPvh,
}

/// An ELF64 executable with one PT_LOAD at [`LOAD`] and one PT_NOTE.
pub(crate) fn elf64(notes: Notes) -> Vec<u8> {
    let mut note_bytes = Vec::new();
    if notes == Notes::LinuxAndPvh {
        note_bytes.extend(note(b"Linux\0", 0x101, &[0; 4]));
    }
    if notes != Notes::None {
        note_bytes.extend(note(b"Xen\0", 18, &(LOAD as u32 + 0x40).to_le_bytes()));
    }
    let mut elf = vec![0; 0x100];
    put(&mut elf, 0, b"\x7fELF\x02\x01\x01");
    put_u16(&mut elf, 16, 2);
    put_u16(&mut elf, 18, 62);
    put_u32(&mut elf, 20, 1);
    put_u64(&mut elf, 24, LOAD);
    put_u64(&mut elf, 32, 64);
    put_u16(&mut elf, 54, 56);
    put_u16(&mut elf, 56, 2);
    let code = code();
    let header = |elf: &mut [u8], at: usize, kind: u32, offset: u64, file: u64, memory: u64| {
        put_u32(elf, at, kind);
        put_u64(elf, at + 8, offset);
        put_u64(elf, at + 16, 0x4000_0000);
        put_u64(elf, at + 24, LOAD);
        put_u64(elf, at + 32, file);
        put_u64(elf, at + 40, memory);
    };
    header(&mut elf, 64, 1, 0x100, code.len() as u64, MEMORY);
    let notes_at = 0x100 + code.len() as u64;
    header(&mut elf, 120, 4, notes_at, note_bytes.len() as u64, note_bytes.len() as u64);
    elf.extend(code);
    elf.extend(note_bytes);
    elf
}

/// A 32-bit multiboot ELF at 1 MiB.
pub(crate) fn multiboot_elf32() -> Vec<u8> {
    let mut elf = vec![0; 0x1000];
    put(&mut elf, 0, b"\x7fELF\x01\x01\x01");
    put_u16(&mut elf, 16, 2);
    put_u16(&mut elf, 18, 3);
    put_u32(&mut elf, 24, 0x10_0020);
    put_u32(&mut elf, 28, 52);
    put_u16(&mut elf, 42, 32);
    put_u16(&mut elf, 44, 1);
    for (index, word) in
        [1u32, 0x200, 0x10_0000, 0x10_0000, 0xe00, 0x2000, 7, 0x1000].iter().enumerate()
    {
        put_u32(&mut elf, 52 + index * 4, *word);
    }
    multiboot_header(&mut elf, 0x200, 3);
    put(&mut elf, 0x220, &[0xf4; 16]);
    elf
}

pub(crate) fn multiboot_header(file: &mut [u8], at: usize, flags: u32) {
    put_u32(file, at, 0x1bad_b002);
    put_u32(file, at + 4, flags);
    put_u32(file, at + 8, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags));
}

/// A boot image around a payload.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[0x1f1] = 1;
    put_u16(&mut file, 0x1fe, 0xaa55);
    put(&mut file, 0x200, &[0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put_u16(&mut file, 0x206, 0x020f);
    put_u16(&mut file, 0x20e, 0x100);
    file[0x211] = 1;
    put_u32(&mut file, 0x22c, 0x7fff_ffff);
    put_u16(&mut file, 0x236, 0x7f);
    put_u32(&mut file, 0x238, 2047);
    put_u32(&mut file, 0x24c, payload.len() as u32);
    put_u64(&mut file, 0x258, LOAD);
    put_u32(&mut file, 0x260, 0x10_0000);
    put(&mut file, 0x300, b"7.2.0-sample (builder) #1\0");
    file.extend_from_slice(payload);
    file
}

/// A payload as the kernel's build makes it: compressed, its unpacked size appended.
pub(crate) fn payload(format: Compression, data: &[u8]) -> Vec<u8> {
    let mut packed = compress(format, data);
    if format != Compression::Gzip {
        packed.extend_from_slice(&(data.len() as u32).to_le_bytes());
    }
    packed
}

/// Compresses as the command-line tool of a format would.
pub(crate) fn compress(format: Compression, data: &[u8]) -> Vec<u8> {
    let all_in = "writing to memory";
    match format {
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            out.write_all(data).expect(all_in);
            out.finish().expect(all_in)
        }
        Compression::Bzip2 => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            out.write_all(data).expect(all_in);
            out.finish().expect(all_in)
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(6);
            let mut out = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None)
                .expect("the options are right");
            out.write_all(data).expect(all_in);
            out.finish().expect(all_in)
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
            let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).expect("right options");
            out.write_all(data).expect(all_in);
            out.finish().expect(all_in)
        }
        Compression::Lzo => lzop(data),
        Compression::Lz4 => {
            let mut out = vec![0x02, 0x21, 0x4c, 0x18];
            for block in data.chunks(8 << 20) {
                let packed = lz4_flex::block::compress(block);
                out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
                out.extend(packed);
            }
            out
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
        }
    }
}

fn lzop(data: &[u8]) -> Vec<u8> {
    let mut out = b"\x89LZO\x00\r\n\x1a\n".to_vec();
    out.extend_from_slice(&[0x10, 0x30, 0x20, 0xa0, 0x09, 0x40, 1, 9]);
    // Flags: Adler-32 of the data; then mode, times, no name, header checksum.
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.push(0);
    out.extend_from_slice(&[0; 4]);
    for block in data.chunks(256 << 10) {
        let packed = lzokay_native::compress(block).expect("compressing memory");
        let stored = packed.len() >= block.len();
        let body = if stored { block } else { &packed };
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(body);
    }
    out.extend_from_slice(&[0; 4]);
    out
}
