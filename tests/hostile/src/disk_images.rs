//! Disk images of strangers (machine/backends/disk): opened, read, written, checked.

use std::path::Path;
use std::sync::OnceLock;

use disk::{Create, Disk, Format};

use crate::cursor::Cursor;

/// Bytes of the sample's disk.
const SIZE: u64 = 200_704;
/// The raw backing file's bytes.
static BASE: [u8; 70_000] = [0x5a; 70_000];

/// Mutations of a sound image, or bytes as they are; then requests of the bytes' choice.
///
/// # Panics
/// Only if the code under test does, or if what it writes to a sound image does not come back.
pub fn disk_images(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let folder = folder();
    let image = folder.path().join("image");
    std::fs::write(folder.path().join("base"), BASE).expect("the temporary directory is writable");
    let selector = cursor.u8();
    let bytes = if selector & 7 == 0 {
        [b"QFI\xfb\0\0\0".as_slice(), cursor.rest()].concat()
    } else {
        let mut bytes = sample(selector & 0x40 != 0).to_vec();
        mutate(&mut bytes, &mut cursor);
        bytes
    };
    std::fs::write(&image, &bytes).expect("the temporary directory is writable");
    let _ = disk::info(&image, None);
    let _ = disk::check(&image, None, false, &mut |_, _| {});
    if selector & 0x20 != 0 {
        let _ = disk::check(&image, None, true, &mut |_, _| {});
    }
    use_it(&image, selector & 0x10 != 0, &mut cursor);
    let _ = disk::resize(&image, &disk::OpenOptions::default(), u64::from(cursor.u32()), true);
}

fn use_it(image: &Path, copy_on_write: bool, cursor: &mut Cursor<'_>) {
    let options = disk::OpenOptions { copy_on_write, ..disk::OpenOptions::default() };
    let Ok(disk) = Disk::open(image, &options) else { return };
    let mut buffer = vec![0; 9000];
    for _ in 0..12 {
        let wild = cursor.u64();
        let offset = if wild & 1 == 0 { wild % SIZE } else { wild % disk.capacity() };
        let length = usize::from(cursor.u16()) % buffer.len();
        let range = u64::from(cursor.u32()) % (4 << 20);
        match cursor.u8() % 6 {
            0 => drop(disk.read_at(offset, &mut buffer[..length])),
            1 | 2 => drop(disk.write_at(offset, &buffer[..length])),
            3 => drop(disk.discard(offset, range)),
            4 => drop(disk.write_zeroes(offset, range)),
            _ => drop(disk.flush()),
        }
    }
}

/// Changes fields of the header and entries of tables, or any bytes.
fn mutate(bytes: &mut [u8], cursor: &mut Cursor<'_>) {
    for _ in 0..cursor.u8() % 6 {
        let place = u64::from(cursor.u32());
        let at = match cursor.u8() % 3 {
            0 => place % 112,
            1 => place % bytes.len() as u64,
            _ => place % (bytes.len() as u64 / 8) * 8,
        } as usize;
        let value = match cursor.u8() % 4 {
            0 => u64::from(cursor.u8()) << 9 | 1 << 63,
            1 => u64::from(cursor.u16()) << 8,
            2 => cursor.u64(),
            _ => u64::from(cursor.u8()) << 56,
        };
        let count = bytes.len().saturating_sub(at).min(8);
        bytes[at..at + count].copy_from_slice(&value.to_be_bytes()[..count]);
    }
}

/// A small image with data, zeros and holes, over a backing file or not.
fn sample(backed: bool) -> &'static [u8] {
    static SAMPLES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    &SAMPLES.get_or_init(|| [make(false), make(true)])[usize::from(backed)]
}

fn make(backed: bool) -> Vec<u8> {
    let folder = folder();
    let (image, base) = (folder.path().join("image"), folder.path().join("base"));
    std::fs::write(&base, BASE).expect("the temporary directory is writable");
    let wish = Create {
        format: Format::Qcow2,
        size: Some(SIZE),
        cluster_size: Some(512),
        backing: backed.then_some(base),
    };
    disk::create(&image, &wish).expect("there is room");
    let disk = Disk::open(&image, &disk::OpenOptions::default()).expect("just made");
    let data: Vec<u8> = (0..20_000_u32).map(|n| n as u8 | 1).collect();
    disk.write_at(1000, &data).expect("there is room");
    disk.write_zeroes(5000, 5000).expect("there is room");
    disk.write_at(150_000, &data).expect("there is room");
    let mut back = vec![0; data.len()];
    disk.read_at(150_000, &mut back).expect("just written");
    assert!(back == data, "what was written comes back");
    drop(disk);
    std::fs::read(&image).expect("just made")
}

/// A folder that goes with its input, in memory where the host has such a place.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("the temporary directory is writable")
}
