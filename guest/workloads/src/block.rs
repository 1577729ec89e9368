//! A block device read and written past the page cache (open(2), `O_DIRECT`).
//!
//! Block n's words are a function of n and the word's place, so that reads are checked; the order of
//! random accesses is the same each time. Invariant: the checksum depends on the pattern, the sizes
//! and the device's contents alone.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::random::Random;

const USAGE: &str = "\
usage: block DEVICE read|write|random-read|random-write BLOCK_BYTES BLOCKS THREADS
       block DEVICE sync-write BLOCK_BYTES BLOCKS 1      each write flushed";

/// What is done to which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern {
    writes: bool,
    random: bool,
    sync: bool,
}

impl Pattern {
    fn by_name(name: &str) -> Option<Self> {
        let pattern = |writes, random, sync| Some(Self { writes, random, sync });
        match name {
            "read" => pattern(false, false, false),
            "write" => pattern(true, false, false),
            "random-read" => pattern(false, true, false),
            "random-write" => pattern(true, true, false),
            "sync-write" => pattern(true, true, true),
            _ => None,
        }
    }
}

/// The words of a command line; the checksum.
pub(crate) fn run(words: &[&str]) -> Result<u64, String> {
    let [device, pattern, bytes, blocks, threads] = words else { return Err(USAGE.into()) };
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
    let pattern = Pattern::by_name(pattern).ok_or(USAGE)?;
    let (bytes, blocks, threads) = (number(bytes)?, number(blocks)?, number(threads)?);
    if bytes == 0 || !bytes.is_multiple_of(512) || threads == 0 || blocks == 0 {
        return Err(USAGE.into());
    }
    let opened =
        File::options().read(true).write(pattern.writes).custom_flags(libc::O_DIRECT).open(device);
    let file = opened.map_err(|error| format!("{device}: {error}"))?;
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0));
    let size = size.map_err(|error| format!("{device}: {error}"))?;
    let work = Work { file: &file, pattern, bytes, blocks, threads, places: size / bytes };
    if work.places < blocks {
        return Err(format!("{device} has only {} blocks of {bytes} bytes", work.places));
    }
    let done: Result<Vec<u64>, std::io::Error> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work.share(thread))).collect();
        started.into_iter().map(|one| one.join().expect("it does not panic")).collect()
    });
    let sums = done.map_err(|error| format!("{device}: {error}"))?;
    if pattern.writes {
        file.sync_data().map_err(|error| format!("{device}: {error}"))?;
    }
    Ok(sums.into_iter().fold(0, u64::wrapping_add))
}

/// One run's work.
#[derive(Clone, Copy)]
struct Work<'a> {
    file: &'a File,
    pattern: Pattern,
    bytes: u64,
    blocks: u64,
    threads: u64,
    /// Blocks that the device has.
    places: u64,
}

impl Work<'_> {
    /// Every `threads`-th block; the sum of what was moved.
    fn share(&self, thread: u64) -> Result<u64, std::io::Error> {
        let mut random = Random::new(1000 + thread);
        let mut room = vec![0; self.bytes as usize + 4096];
        let aligned = room.as_ptr().align_offset(4096);
        let buffer = &mut room[aligned..aligned + self.bytes as usize];
        let mut sum = 0_u64;
        for block in (thread..self.blocks).step_by(self.threads as usize) {
            let place = if self.pattern.random { random.next() % self.places } else { block };
            let at = place * self.bytes;
            if self.pattern.writes {
                stamp(buffer, at);
                self.file.write_all_at(buffer, at)?;
                if self.pattern.sync {
                    self.file.sync_data()?;
                }
            } else {
                self.file.read_exact_at(buffer, at)?;
            }
            sum = sum.wrapping_add(heads(buffer));
        }
        Ok(sum)
    }
}

/// Each 512 bytes begin with their place on the device.
fn stamp(buffer: &mut [u8], at: u64) {
    for (sector, place) in buffer.chunks_mut(512).zip((at..).step_by(512)) {
        sector[..8].copy_from_slice(&place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

/// The sum of what the sectors begin with.
fn heads(buffer: &[u8]) -> u64 {
    let head = |sector: &[u8]| u64::from_le_bytes(sector[..8].try_into().expect("eight bytes"));
    buffer.chunks(512).map(head).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_carry_their_places() {
        let mut buffer = vec![0; 1024];
        stamp(&mut buffer, 4096);
        let sum = [4096_u64, 4608].map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert_eq!(heads(&buffer), sum[0].wrapping_add(sum[1]));
        assert!(run(&["x", "dance", "512", "1", "1"]).unwrap_err().contains("usage"));
    }
}
