//! A file system under load, for hosts that may end at any moment: numbered records, each flushed
//! before its number is told, beside files that come, change and go.
//!
//! Record n is 512 bytes at n * 512 of `records`: its number, eight bytes at a time, each xored with
//! what [`word`] makes of number and place. Whoever reads them back can make them, too.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{Error, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::random::Random;

const RECORD: usize = 512;
const FOLDER: &str = "/tmp/records";
/// Files that are there at a time, for each of the threads that disturb.
const FILES: u64 = 24;
const LARGEST: u64 = 300_000;

/// Mounts the device's ext4 and writes records from `first` on until the end of the world.
pub(crate) fn run(device: &str, first: &str) -> Result<(), String> {
    let first: u64 = first.parse().map_err(|_| format!("{first} is no number"))?;
    fs::create_dir_all(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    let options: &CStr = c"discard";
    mount(device, FOLDER, "ext4", MountFlags::empty(), Some(options))
        .map_err(|error| format!("cannot mount {device}: {error}"))?;
    let done: Result<(), Error> = std::thread::scope(|scope| {
        for number in 0..2 {
            scope.spawn(move || disturb(number, first));
        }
        write(first)
    });
    done.map_err(|error| format!("records: {error}"))
}

fn write(first: u64) -> Result<(), Error> {
    let path = Path::new(FOLDER).join("records");
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let mut out = std::io::stdout();
    for number in first.. {
        file.write_all_at(&record(number), number * RECORD as u64)?;
        file.sync_data()?;
        writeln!(out, "flushed {number}")?;
        out.flush()?;
    }
    Ok(())
}

/// A record's bytes.
fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    for (piece, place) in bytes.chunks_mut(8).zip(0..) {
        piece.copy_from_slice(&word(number, place).to_le_bytes());
    }
    bytes
}

/// Eight bytes of a record.
fn word(number: u64, place: u64) -> u64 {
    number ^ (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number).rotate_left(29)
}

/// Makes, changes, cuts and removes files until it fails, as it does when the disk is full.
fn disturb(thread: u64, seed: u64) {
    let mut random = Random::new(seed * 2 + thread);
    let data: Vec<u8> = (0..LARGEST).map(|_| random.next() as u8 | 1).collect();
    loop {
        let path = Path::new(FOLDER).join(format!("{thread}-{}", random.below(FILES)));
        let length = random.below(LARGEST);
        let done = match random.below(8) {
            0 => fs::remove_file(&path),
            1 => cut(&path, length),
            2 => fs::write(&path, &data[..length as usize])
                .and_then(|()| File::open(&path)?.sync_all()),
            _ => fs::write(&path, &data[..length as usize]),
        };
        // A file that is not there, a disk without room: the next one may do.
        drop(done);
    }
}

fn cut(path: &Path, length: u64) -> Result<(), Error> {
    File::options().write(true).open(path)?.set_len(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_differ() {
        assert_ne!(record(1), record(2));
        assert_eq!(record(7)[8..16], word(7, 1).to_le_bytes());
    }
}
