//! Files of the host and of package servers: programs, packages, kernels' headers
//! (tools/control).

use control::hostile;

use crate::cursor::Cursor;

const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0";
const LEAD: usize = 96;
const HEADER: &[u8] = b"\x8e\xad\xe8\x01\0\0\0\0\0\0\0\0\0\0\0\0";

/// Bytes as a program, a kernel, a package of either kind and its inner archive.
///
/// # Panics
/// Only if a reader does, or says it read more than there is.
pub fn host_files(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let selector = cursor.u8();
    let rest = cursor.rest();
    match selector % 6 {
        0 => elf(rest),
        1 => elf(&[ELF, rest].concat()),
        2 => elf(&small_elf(rest)),
        3 => {
            let _ = control::kernel::release_of(rest);
        }
        4 => drop(hostile::rpm(rest)),
        _ => drop(hostile::rpm(&[&[0; LEAD], HEADER, HEADER, rest].concat())),
    }
    if selector & 0x40 != 0 {
        let _ = hostile::deb(rest);
    }
}

/// Program headers (load, dynamic, interpreter) of the bytes' choice over a file of the rest.
fn small_elf(bytes: &[u8]) -> Vec<u8> {
    let mut cursor = Cursor::new(bytes);
    let mut file = ELF.to_vec();
    file.resize(64, 0);
    file[32] = 64;
    file[54] = 56;
    file[56] = 3;
    for kind in [1_u32, 2, 3] {
        let mut header = [0; 56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        let (offset, address, size) = (cursor.u16(), cursor.u16(), cursor.u16());
        for (at, value) in [(8, offset), (16, address), (32, size)] {
            header[at..at + 2].copy_from_slice(&(value & 0x3ff).to_le_bytes());
        }
        file.extend(header);
    }
    file.extend(cursor.rest());
    file
}

fn elf(file: &[u8]) {
    if let Some(read) = hostile::elf(file) {
        assert!(read <= file.len() * file.len().max(1), "names lie in the file");
    }
}
