//! Each compression both ways, damage, bombs, and the branch filter against its encoder.

use super::*;
use crate::samples::{self, Notes, Random};

/// All of a payload.
fn payload(packed: &[u8], limit: u64) -> Result<Vec<u8>, UnpackError> {
    let range = FileRange { offset: 0, size: packed.len() as u64 };
    let mut payload = Payload::open(&packed, range, limit)?;
    let mut all = Vec::new();
    loop {
        let piece = payload.next_piece()?;
        if piece.is_empty() {
            return Ok(all);
        }
        assert!(piece.len() <= 2 * PIECE);
        all.extend_from_slice(piece);
    }
}

fn vmlinux(format: Compression) -> Vec<u8> {
    payload(&samples::payload(format, &samples::elf64(Notes::LinuxAndPvh)), MAX_UNPACKED)
        .expect("well formed")
}

#[test]
fn every_compression_unpacks_to_the_elf() {
    for format in samples::ALL {
        assert!(vmlinux(format) == samples::elf64(Notes::LinuxAndPvh), "{format}");
    }
}

#[test]
fn large_payloads_of_many_blocks_unpack() {
    // More than one LZ4 block of 8 MiB, many LZO and bzip2 blocks, matches at all distances.
    let mut data = Vec::new();
    let mut random = Random(3);
    while data.len() < (9 << 20) {
        let start = random.below(data.len() + 1);
        let length = random.below(5000);
        let end = (start + length).min(data.len());
        data.extend_from_within(start..end);
        data.extend_from_slice(&random.next().to_le_bytes()[..random.below(8)]);
        data.extend_from_slice(&[0xe8, 1, 2, 3, 0, 0xe9, 0xe8, 0xff, 0xff, 0xff, 0xff]);
    }
    for format in samples::ALL {
        let packed = samples::payload(format, &data);
        match payload(&packed, MAX_UNPACKED) {
            Ok(unpacked) => assert!(unpacked == data, "{format}"),
            Err(error) => panic!("{format}: {error}"),
        }
    }
}

#[test]
fn an_uncompressed_payload_is_passed_through() {
    let elf = samples::elf64(Notes::LinuxAndPvh);
    assert!(payload(&elf, MAX_UNPACKED).expect("as it is") == elf);
}

#[test]
fn wrong_sizes_are_errors() {
    let elf = samples::elf64(Notes::LinuxAndPvh);
    for format in samples::ALL {
        for difference in [-1i32, 1] {
            let mut packed = samples::payload(format, &elf);
            let at = packed.len() - 4;
            let size = (elf.len() as i32 + difference) as u32;
            packed[at..].copy_from_slice(&size.to_le_bytes());
            assert!(payload(&packed, MAX_UNPACKED).is_err(), "{format} {difference}");
        }
    }
}

#[test]
fn bombs_are_stopped_by_the_limit() {
    for format in samples::ALL {
        let packed = samples::payload(format, &vec![0; 1 << 20]);
        match payload(&packed, 1 << 19) {
            Err(UnpackError::TooLarge { size, limit }) => {
                assert_eq!((size, limit), (1 << 20, 1 << 19));
            }
            other => panic!("{format}: {:?}", other.err()),
        }
        // A small size that lies about a large stream stops there.
        let mut lying = packed;
        let at = lying.len() - 4;
        lying[at..].copy_from_slice(&1000u32.to_le_bytes());
        assert!(payload(&lying, 1 << 19).is_err(), "{format}");
    }
}

#[test]
fn an_unknown_compression_is_named() {
    let error = payload(b"\x04\x22\x4d\x18 and more", MAX_UNPACKED).expect_err("not the kernel's");
    assert!(matches!(error, UnpackError::UnknownCompression { .. }));
}

#[test]
fn no_prefix_and_no_mutation_panics() {
    let elf = samples::elf64(Notes::LinuxAndPvh);
    let mut random = Random(11);
    for format in samples::ALL {
        let packed = samples::payload(format, &elf);
        for length in (0..packed.len()).step_by(7) {
            let _ = payload(&packed[..length], 1 << 20);
            let mut cut = packed[..length].to_vec();
            cut.extend_from_slice(&packed[packed.len() - 4..]);
            // The very last bytes may be a range coder's flush, which carries no data.
            if length + 64 < packed.len() {
                assert!(decoded(&cut) != elf, "{format} cut at {length}");
            }
        }
        for _ in 0..1500 {
            let mut damaged = packed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(damaged.len() - 4);
                damaged[at] = random.next() as u8;
            }
            let _ = payload(&damaged, 1 << 20);
            let _ = peek(&damaged, format);
        }
    }
}

fn decoded(packed: &[u8]) -> Vec<u8> {
    payload(packed, 1 << 20).unwrap_or_default()
}

#[test]
fn branch_filter_undoes_the_encoder_on_noise_full_of_opcodes() {
    use std::io::Write;
    let mut random = Random(5);
    for round in 0..300 {
        let alphabet = [0xe8, 0xe9, 0x00, 0xff, 0x01, 0x90, round as u8];
        let length = random.below(400);
        let data: Vec<u8> = (0..length).map(|_| alphabet[random.below(7)]).collect();
        let mut encoder = lzma_rust2::filter::bcj::BcjWriter::new_x86(Vec::new(), 0);
        encoder.write_all(&data).expect("writing to memory");
        let mut filtered = encoder.finish().expect("writing to memory");
        // In pieces of any size, what was not done coming again.
        let mut filter = bcj::X86Filter::new(0);
        let (mut done, mut end) = (0, 0);
        while end < filtered.len() {
            end = (end + 1 + random.below(60)).min(filtered.len());
            done += filter.decode(&mut filtered[done..end]);
        }
        assert_eq!(filtered, data, "round {round}");
    }
}
